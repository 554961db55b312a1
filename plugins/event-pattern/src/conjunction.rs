//! From a pattern to its conjunctions: each a list of conditions that must all hold, one for every combination of `$or`
//! alternatives. The parser has bounded how many there are.

use crate::Pattern;
use crate::matcher::Matcher;
use crate::pattern::{Group, Root, Test};

/// Which part of an event a condition looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Payload,
    Headers,
}

/// One condition: a path and what its values must satisfy.
#[derive(Clone, Debug)]
pub(crate) struct Conjunct<'p> {
    pub(crate) part: Part,
    pub(crate) path: Vec<&'p str>,
    pub(crate) matchers: &'p [Matcher],
}

type Conjunction<'p> = Vec<Conjunct<'p>>;

/// All conjunctions of a pattern. It matches if one of them holds.
pub(crate) fn all_of(pattern: &Pattern) -> Vec<Conjunction<'_>> {
    of_root(&pattern.root)
}

fn of_root(root: &Root) -> Vec<Conjunction<'_>> {
    let payload = of_group(Part::Payload, &root.payload, &[]);
    let headers = of_group(Part::Headers, &root.headers, &[]);
    let mut all = product(payload, &headers);
    for alternatives in &root.any_of {
        let any: Vec<_> = alternatives.iter().flat_map(of_root).collect();
        all = product(all, &any);
    }
    all
}

fn of_group<'p>(part: Part, group: &'p Group, path: &[&'p str]) -> Vec<Conjunction<'p>> {
    let mut all = vec![Vec::new()];
    for field in &group.fields {
        let mut path = path.to_vec();
        path.push(&field.name);
        let below = match &field.test {
            Test::Values(matchers) => vec![vec![Conjunct {
                part,
                path,
                matchers,
            }]],
            Test::Object(group) => of_group(part, group, &path),
        };
        all = product(all, &below);
    }
    for alternatives in &group.any_of {
        let any: Vec<_> = alternatives
            .iter()
            .flat_map(|alternative| of_group(part, alternative, path))
            .collect();
        all = product(all, &any);
    }
    all
}

/// Everything of the one with everything of the other.
fn product<'p>(left: Vec<Conjunction<'p>>, right: &[Conjunction<'p>]) -> Vec<Conjunction<'p>> {
    let join = |left: &Conjunction<'p>, right: &Conjunction<'p>| {
        left.iter().chain(right).cloned().collect()
    };
    left.iter()
        .flat_map(|left| right.iter().map(move |right| join(left, right)))
        .collect()
}
