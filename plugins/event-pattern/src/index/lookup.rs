//! From one value of a field to the conjunctions that hang on it: a table for each kind of operator. By what a condition
//! is looked up is chosen here, as by which piece of a wildcard; on which of its conditions a conjunction hangs, the index
//! has chosen before.

use std::net::IpAddr;

use super::ConjunctionId;
use super::intervals::Intervals;
use crate::fast_hash::FastMap;
use crate::fold::fold;
use crate::matcher::{Matcher, Network, Scalar};
use crate::number::Number;

/// What hangs on the values of one field.
#[derive(Debug, Default)]
pub(super) struct FieldLookup {
    numbers: FastMap<Number, Vec<ConjunctionId>>,
    ranges: Intervals,
    texts: Texts,
    folded: Texts,
    networks: Networks,
    pieces: Pieces,
    /// `false`, `true`.
    bools: [Vec<ConjunctionId>; 2],
    nulls: Vec<ConjunctionId>,
    /// Candidates for any value at all.
    present: Vec<ConjunctionId>,
    /// Candidates when there is none.
    pub(super) absent: Vec<ConjunctionId>,
}

/// Whether what a lookup finds is sure to satisfy the matcher, or must be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    Exact,
    Candidate,
}

impl FieldLookup {
    /// Hangs a conjunction on a matcher.
    pub(super) fn insert(&mut self, matcher: &Matcher, conjunction: ConjunctionId) -> Precision {
        match matcher {
            Matcher::Null => self.nulls.push(conjunction),
            Matcher::Bool(value) => self.bools[usize::from(*value)].push(conjunction),
            Matcher::Number(number) => self.numbers.entry(*number).or_default().push(conjunction),
            Matcher::Range(range) => self.ranges.insert(*range, conjunction),
            Matcher::Text(text) => push(&mut self.texts.whole, text, conjunction),
            Matcher::TextIgnoreCase(text) => push(&mut self.folded.whole, text, conjunction),
            Matcher::Prefix(text) => self.texts.prefixes.insert(text, conjunction),
            Matcher::PrefixIgnoreCase(text) => self.folded.prefixes.insert(text, conjunction),
            Matcher::Suffix(text) => self.texts.suffixes.insert(text, conjunction),
            Matcher::SuffixIgnoreCase(text) => self.folded.suffixes.insert(text, conjunction),
            Matcher::Network(network) => self.networks.insert(*network, conjunction),
            Matcher::Exists => self.present.push(conjunction),
            Matcher::Absent => self.absent.push(conjunction),
            Matcher::Wildcard(wildcard) => {
                if wildcard.first.len() >= wildcard.last.len() && !wildcard.first.is_empty() {
                    self.texts.prefixes.insert(&wildcard.first, conjunction);
                } else if !wildcard.last.is_empty() {
                    self.texts.suffixes.insert(&wildcard.last, conjunction);
                } else if let Some(piece) = longest(&wildcard.middle) {
                    self.pieces.insert(piece, conjunction);
                } else {
                    self.present.push(conjunction);
                }
                return Precision::Candidate;
            }
            Matcher::Not(_) => {
                self.present.push(conjunction);
                return Precision::Candidate;
            }
        }
        Precision::Exact
    }

    /// Adds what hangs on the field having any value.
    pub(super) fn find_present(&self, found: &mut Vec<ConjunctionId>) {
        found.extend_from_slice(&self.present);
    }

    /// Adds what hangs on this value.
    pub(super) fn find(&mut self, value: &Scalar<'_>, found: &mut Vec<ConjunctionId>) {
        match value {
            Scalar::Null => found.extend_from_slice(&self.nulls),
            Scalar::Bool(value) => found.extend_from_slice(&self.bools[usize::from(*value)]),
            Scalar::Number(_) => {}
            Scalar::Text { text, .. } => self.find_text(text, found),
        }
        let Some(number) = value.as_number() else {
            return;
        };
        if let Some(conjunctions) = self.numbers.get(&number) {
            found.extend_from_slice(conjunctions);
        }
        if !self.ranges.is_empty() {
            self.ranges.find(number, found);
        }
    }

    fn find_text(&self, text: &str, found: &mut Vec<ConjunctionId>) {
        self.texts.find(text, found);
        self.pieces.find(text.as_bytes(), found);
        if !self.folded.is_empty() {
            self.folded.find(&fold(text), found);
        }
        if !self.networks.lengths.is_empty()
            && let Ok(address) = text.parse()
        {
            self.networks.find(address, found);
        }
    }
}

type ByText = FastMap<Box<str>, Vec<ConjunctionId>>;

fn push(table: &mut ByText, text: &str, conjunction: ConjunctionId) {
    table.entry(text.into()).or_default().push(conjunction);
}

/// Tables over texts as they are, or over texts in one case.
#[derive(Debug, Default)]
struct Texts {
    whole: ByText,
    prefixes: Affixes,
    suffixes: Affixes,
}

impl Texts {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.prefixes.is_empty() && self.suffixes.is_empty()
    }

    fn find(&self, text: &str, found: &mut Vec<ConjunctionId>) {
        if let Some(conjunctions) = self.whole.get(text) {
            found.extend_from_slice(conjunctions);
        }
        self.prefixes
            .find(|length| text.as_bytes().get(..length), found);
        self.suffixes.find(
            |length| text.as_bytes().get(text.len().checked_sub(length)?..),
            found,
        );
    }
}

/// Prefixes or suffixes: one table, asked once for each length that occurs.
#[derive(Debug, Default)]
struct Affixes {
    table: FastMap<Box<[u8]>, Vec<ConjunctionId>>,
    /// Sorted, each once.
    lengths: Vec<usize>,
}

impl Affixes {
    fn insert(&mut self, affix: &str, conjunction: ConjunctionId) {
        if let Err(place) = self.lengths.binary_search(&affix.len()) {
            self.lengths.insert(place, affix.len());
        }
        let key = affix.as_bytes().into();
        self.table.entry(key).or_default().push(conjunction);
    }

    fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// `cut` takes that many bytes from the text's end in question, if it has so many.
    fn find<'t>(&self, cut: impl Fn(usize) -> Option<&'t [u8]>, found: &mut Vec<ConjunctionId>) {
        for affix in self.lengths.iter().map_while(|length| cut(*length)) {
            if let Some(conjunctions) = self.table.get(affix) {
                found.extend_from_slice(conjunctions);
            }
        }
    }
}

fn longest(pieces: &[String]) -> Option<&str> {
    let pieces = pieces.iter().map(String::as_str);
    pieces
        .filter(|piece| !piece.is_empty())
        .max_by_key(|piece| piece.len())
}

/// Texts that stand anywhere in a text: one table, asked once for each place and each length that occurs.
#[derive(Debug, Default)]
struct Pieces {
    table: FastMap<Box<[u8]>, Vec<ConjunctionId>>,
    /// Sorted, each once.
    lengths: Vec<usize>,
}

impl Pieces {
    fn insert(&mut self, piece: &str, conjunction: ConjunctionId) {
        if let Err(place) = self.lengths.binary_search(&piece.len()) {
            self.lengths.insert(place, piece.len());
        }
        let key = piece.as_bytes().into();
        self.table.entry(key).or_default().push(conjunction);
    }

    fn find(&self, text: &[u8], found: &mut Vec<ConjunctionId>) {
        // A long text has many places: then a search for each piece, which the check of a candidate is, costs less.
        let lookups = self.lengths.len().saturating_mul(text.len());
        if lookups > self.table.len().saturating_mul(4) {
            found.extend(self.table.values().flatten());
            return;
        }
        for length in &self.lengths {
            for piece in text.windows(*length) {
                if let Some(conjunctions) = self.table.get(piece) {
                    found.extend_from_slice(conjunctions);
                }
            }
        }
    }
}

/// Blocks of addresses: one table, asked once for each length of mask that occurs.
#[derive(Debug, Default)]
struct Networks {
    table: FastMap<(bool, u32, u64, u64), Vec<ConjunctionId>>,
    lengths: Vec<u32>,
}

impl Networks {
    fn insert(&mut self, network: Network, conjunction: ConjunctionId) {
        if let Err(place) = self.lengths.binary_search(&network.bits) {
            self.lengths.insert(place, network.bits);
        }
        let key = network_key(network);
        self.table.entry(key).or_default().push(conjunction);
    }

    fn find(&self, address: IpAddr, found: &mut Vec<ConjunctionId>) {
        let networks = self
            .lengths
            .iter()
            .map_while(|bits| Network::around(address, *bits));
        for network in networks {
            if let Some(conjunctions) = self.table.get(&network_key(network)) {
                found.extend_from_slice(conjunctions);
            }
        }
    }
}

fn network_key(network: Network) -> (bool, u32, u64, u64) {
    let high = (network.address >> 64) as u64;
    (network.is_v4, network.bits, high, network.address as u64)
}
