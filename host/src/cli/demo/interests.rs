//! Who wants what in the demo: the subscriptions and the route it creates, how their consumers behave, and the
//! native recomputation of every filter verdict that the broker's WASM filters are held against.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use tidegate_event_pattern::Pattern;

use super::auction::{AuctionEvent, Kind};
use crate::cli::chain_flags::plugin_named;
use crate::domain::SubscriptionSpec;

/// Bids that count as winning ones, by price in cents.
const WINNING_BIDS: &str = r#"{"price": [{"numeric": [">=", 5000000]}]}"#;
/// Dear bids that came through one of two channels.
const DEAR_BIDS: &str =
    r#"{"price": [{"numeric": [">=", 1000000]}], "channel": ["Apple", {"prefix": "Goo"}]}"#;
/// Auctions in two categories, cheap ones or those whose item starts with a vowel.
const COLLECTIBLES: &str = r#"{
    "category": [10, 12],
    "$or": [
        {"initial_bid": [{"numeric": ["<", 10000]}]},
        {"item": [{"prefix": "a"}, {"prefix": "e"}, {"prefix": "i"}, {"prefix": "o"}]}
    ]
}"#;
/// What the route makes of a winning bid.
const WON: &str = r#"{
    "payload": {
        "n": {"$get": "/n"},
        "auction": {"$get": "/auction"},
        "winner": {"$get": "/bidder"},
        "cents": {"$get": "/price"},
        "status": "won"
    }
}"#;
/// Topic the route writes to.
const WON_TOPIC: &str = "auction.won";

/// One interest: a subscription, its consumers, and what it should get.
pub(super) struct Interest {
    /// Name of the subscription.
    pub(super) name: &'static str,
    /// What it shows, for the table.
    pub(super) about: &'static str,
    /// Its consumers, each on a connection of its own.
    pub(super) consumers: usize,
    /// Credit of each consumer, in events; 0 leaves it to the client.
    pub(super) credit_events: u64,
    /// How long a consumer works on an event before it acks it.
    pub(super) work: Duration,
    topic: &'static str,
    filter: Option<&'static str>,
    kind: Kind,
    pattern: Option<Pattern>,
}

impl Interest {
    /// Whether this interest should get `event`, computed natively.
    pub(super) fn wants(&self, event: &AuctionEvent) -> bool {
        let matches = |pattern: &Pattern| pattern.matches(event.payload.as_bytes(), &[]);
        self.kind == event.kind && self.pattern.as_ref().is_none_or(matches)
    }

    /// The subscription to create.
    pub(super) fn spec(&self) -> anyhow::Result<SubscriptionSpec> {
        let filters = self
            .filter
            .map(|config| plugin_named("event-pattern", config));
        Ok(SubscriptionSpec {
            filters: filters.into_iter().collect(),
            ..subscription(self.name, self.topic)?
        })
    }
}

/// The demo's interests. The last one reads what the route writes.
pub(super) fn interests() -> anyhow::Result<Vec<Interest>> {
    let fast = || Interest {
        name: "",
        about: "",
        consumers: 1,
        credit_events: 0,
        work: Duration::ZERO,
        topic: Kind::Bid.topic(),
        filter: None,
        kind: Kind::Bid,
        pattern: None,
    };
    Ok(vec![
        Interest {
            name: "dear-bids",
            about: "filter: price and channel",
            filter: Some(DEAR_BIDS),
            pattern: Some(parse(DEAR_BIDS)?),
            ..fast()
        },
        Interest {
            name: "collectibles",
            about: "filter: category and $or",
            topic: Kind::Auction.topic(),
            kind: Kind::Auction,
            filter: Some(COLLECTIBLES),
            pattern: Some(parse(COLLECTIBLES)?),
            ..fast()
        },
        Interest {
            name: "settlement",
            about: "group of three",
            consumers: 3,
            ..fast()
        },
        Interest {
            name: "audit",
            about: "slow, 16 in flight",
            topic: Kind::Person.topic(),
            kind: Kind::Person,
            credit_events: 16,
            work: Duration::from_millis(5),
            ..fast()
        },
        Interest {
            name: "won",
            about: "through the route",
            topic: WON_TOPIC,
            pattern: Some(parse(WINNING_BIDS)?),
            ..fast()
        },
    ])
}

/// The route that writes winning bids, reshaped, to a topic of their own.
pub(super) fn route() -> anyhow::Result<SubscriptionSpec> {
    Ok(SubscriptionSpec {
        filters: vec![plugin_named("event-pattern", WINNING_BIDS)],
        transforms: vec![plugin_named("json-reshape", WON)],
        outputs: BTreeMap::from([("won".parse()?, WON_TOPIC.parse()?)]),
        ..subscription("winning-bids", Kind::Bid.topic())?
    })
}

fn subscription(name: &str, topic: &str) -> anyhow::Result<SubscriptionSpec> {
    Ok(SubscriptionSpec::new(name.parse()?, vec![topic.parse()?]))
}

fn parse(pattern: &str) -> anyhow::Result<Pattern> {
    Pattern::parse(pattern).with_context(|| format!("the demo's own pattern {pattern}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::auction;

    #[test]
    fn every_interest_gets_some_events_and_only_filters_refuse() {
        let events: Vec<_> = auction::share(0, 1, 5_000).collect();
        for interest in interests().expect("the demo's patterns are valid") {
            let wanted = events.iter().filter(|event| interest.wants(event)).count();
            let of_kind = events
                .iter()
                .filter(|event| event.kind == interest.kind)
                .count();
            assert!(wanted > 0, "{}", interest.name);
            assert_eq!(
                wanted < of_kind,
                interest.pattern.is_some(),
                "{}",
                interest.name
            );
        }
    }

    #[test]
    fn specifications_are_well_formed() {
        for interest in interests().expect("the demo's patterns are valid") {
            let spec = interest.spec().expect("valid");
            assert!(!spec.is_route());
        }
        assert!(route().expect("valid").is_route());
    }
}
