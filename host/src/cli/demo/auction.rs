//! The demo's events: people, auctions and bids from the nexmark generator, as topics and JSON payloads. Every
//! event is a function of its number, so the same stream can be made again anywhere. No I/O here.

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event as Nexmark;
use serde_json::json;

/// Start of the auction house's time, in milliseconds since the epoch: fixed, so that runs are comparable.
const BASE_TIME_MS: u64 = 1_700_000_000_000;

/// What an event is about; each kind has a topic of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody registered.
    Person,
    /// Somebody offers an item.
    Auction,
    /// Somebody bids for an item.
    Bid,
}

impl Kind {
    /// Topic of the events of this kind.
    pub(super) fn topic(self) -> &'static str {
        match self {
            Self::Person => "auction.person",
            Self::Auction => "auction.auction",
            Self::Bid => "auction.bid",
        }
    }
}

/// One event of the stream.
#[derive(Clone, Debug)]
pub(super) struct AuctionEvent {
    /// Its place in the whole stream, from 0.
    pub(super) number: u64,
    /// What it is about.
    pub(super) kind: Kind,
    /// Its payload, JSON. The member `n` repeats the number, so that it survives a transform.
    pub(super) payload: String,
}

/// The share of one of `publishers` publishers in the stream of `events` events: every `publishers`th one.
pub(super) fn share(
    publisher: u64,
    publishers: u64,
    events: u64,
) -> impl Iterator<Item = AuctionEvent> {
    let config = NexmarkConfig {
        base_time: BASE_TIME_MS,
        ..NexmarkConfig::default()
    };
    let generator = EventGenerator::new(config)
        .with_offset(publisher)
        .with_step(publishers);
    (publisher..events)
        .step_by(publishers as usize)
        .zip(generator)
        .map(|(number, event)| describe(number, event))
}

fn describe(number: u64, event: Nexmark) -> AuctionEvent {
    let (kind, payload) = match event {
        Nexmark::Person(person) => (
            Kind::Person,
            json!({
                "n": number,
                "id": person.id,
                "name": person.name,
                "email": person.email_address,
                "city": person.city,
                "state": person.state,
                "time": person.date_time,
                "extra": person.extra,
            }),
        ),
        Nexmark::Auction(auction) => (
            Kind::Auction,
            json!({
                "n": number,
                "id": auction.id,
                "item": auction.item_name,
                "description": auction.description,
                "initial_bid": auction.initial_bid,
                "reserve": auction.reserve,
                "time": auction.date_time,
                "expires": auction.expires,
                "seller": auction.seller,
                "category": auction.category,
                "extra": auction.extra,
            }),
        ),
        Nexmark::Bid(bid) => (
            Kind::Bid,
            json!({
                "n": number,
                "auction": bid.auction,
                "bidder": bid.bidder,
                "price": bid.price,
                "channel": bid.channel,
                "url": bid.url,
                "time": bid.date_time,
                "extra": bid.extra,
            }),
        ),
    };
    AuctionEvent {
        number,
        kind,
        payload: payload.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_up_the_stream_without_overlap() {
        let mut numbers: Vec<u64> = (0..4)
            .flat_map(|publisher| share(publisher, 4, 1_001))
            .map(|event| event.number)
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1_001).collect::<Vec<_>>());
    }

    #[test]
    fn an_event_is_a_function_of_its_number() {
        let alone: Vec<_> = share(0, 1, 200).collect();
        let third: Vec<_> = share(2, 3, 200).collect();
        for event in third {
            let same = &alone[event.number as usize];
            assert_eq!((same.kind, &same.payload), (event.kind, &event.payload));
        }
        assert!(alone.iter().any(|event| event.kind == Kind::Person));
        assert!(alone.iter().any(|event| event.kind == Kind::Auction));
        assert!(alone.iter().any(|event| event.kind == Kind::Bid));
    }
}
