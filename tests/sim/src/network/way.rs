//! One direction of a link: when what is sent now arrives at the other end. Arithmetic on virtual time; whose bytes they are is not known
//! here.

use std::time::Duration;

use tokio::time::Instant;

use super::{BROKER, CLIENT, Outage};
use crate::scheduler::{mix, text};

/// Longer than any run: what is lost arrives then.
pub(super) const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

/// Which way something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    Up,
    /// From the broker to the client.
    Down,
}

impl Direction {
    pub(super) fn from(self) -> usize {
        match self {
            Self::Up => CLIENT,
            Self::Down => BROKER,
        }
    }
}

/// What a link is like, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkShape {
    /// How long a byte is under way at least.
    pub delay: Duration,
    /// How much longer at most, each piece of a stream by itself.
    pub jitter: Duration,
    /// Bytes in a millisecond; 0 is without a bound.
    pub bytes_per_ms: u64,
    /// Bytes that arrive as one piece at most.
    pub piece_bytes_max: usize,
    /// Bytes of a direction of a stream that may be under way or unread before its sender waits.
    pub stream_bytes_max: usize,
    /// Streams that one side may have opened and the other not accepted.
    pub streams_waiting_max: usize,
    /// After so long without anything heard a side gives the connection up.
    pub idle_timeout: Duration,
    /// A side that has nothing to say lets itself be heard after so long.
    pub keep_alive: Duration,
}

impl LinkShape {
    /// A link on which everything arrives at once.
    pub const NONE: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        bytes_per_ms: 0,
        piece_bytes_max: usize::MAX,
        stream_bytes_max: 64 * 1024,
        streams_waiting_max: 100,
        idle_timeout: Duration::from_secs(30),
        keep_alive: Duration::from_secs(10),
    };

    pub(super) fn round_trip(&self) -> Duration {
        2 * self.delay + self.jitter
    }
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Way {
    shape: LinkShape,
    seed: u64,
    pub(super) slow: u32,
    pub(super) outage: Option<Outage>,
    /// Bytes after which the connection is cut.
    pub(super) cut_after: Option<u64>,
    /// Nothing that is sent arrives any more.
    pub(super) is_lost: bool,
    /// Bytes of streams so far.
    pub(super) bytes: u64,
    /// When what was sent before has left.
    free_at: Option<Instant>,
    /// Pieces so far.
    pieces: u64,
}

impl Way {
    pub(super) fn new(shape: LinkShape, seed: u64) -> Self {
        Self {
            shape,
            seed,
            slow: 1,
            outage: None,
            cut_after: None,
            is_lost: false,
            bytes: 0,
            free_at: None,
            pieces: 0,
        }
    }

    /// When a piece of so many bytes arrives.
    pub(super) fn arrival(&mut self, now: Instant, bytes: usize) -> Instant {
        if self.is_lost {
            return now + NEVER;
        }
        self.pieces += 1;
        let jitter = self.draw("jitter", self.shape.jitter);
        let leaves = match self.shape.bytes_per_ms {
            // Whoever says next to nothing waits for nobody.
            per_ms if per_ms == 0 || bytes == 0 => now,
            per_ms => {
                let micros = (bytes as u64).saturating_mul(1000) / per_ms;
                let begins = self.free_at.map_or(now, |free| free.max(now));
                let leaves = begins + self.slow * Duration::from_micros(micros);
                *self.free_at.insert(leaves)
            }
        };
        let takes = self.slow * (self.shape.delay + jitter);
        match self.outage {
            Some(outage) if outage.is_at(leaves + takes) => outage.until + takes,
            _ => leaves + takes,
        }
    }

    /// Less than `below`, by the seed and the number of the piece.
    pub(super) fn draw(&self, what: &str, below: Duration) -> Duration {
        let below = u64::try_from(below.as_micros()).unwrap_or(u64::MAX);
        if below == 0 {
            return Duration::ZERO;
        }
        let drawn = mix(&[self.seed, text(what), self.pieces]);
        Duration::from_micros(drawn % below)
    }

    /// How long a message and its answer take at present.
    pub(super) fn round_trip(&self) -> Duration {
        self.slow * self.shape.round_trip()
    }
}
