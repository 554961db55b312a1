//! A model of a long path, and the window that follows from it: what the path delivers times how long it takes when nothing queues,
//! so that the path is full and its queues are empty.
//!
//! quinn's pacer sends a window, and a quarter more, each round trip: the window is the only lever, so whatever is to be sent faster
//! or slower is a window that is larger or smaller. In turns the window is a little too large, to see whether the path delivers more;
//! too small, to let queues run dry and see the round trip without them; and, mostly, as the model has it. That is the cycle of
//! BBR (draft-ietf-ccwg-bbr). Round trips are means over a round, since on a radio link the shortest is no measure of the others:
//! a window by the shortest one would shrink for ever.
//!
//! Who shares a queue with a sender that fills it would get less and less: the queue makes round trips longer, and the window, by the
//! round trip of an empty queue, delivers less. A queue that does not run dry in [`RECENT_ROUNDS`] is therefore taken to be
//! somebody else's, as in Copa (Arun and Balakrishnan, NSDI 2018), and the window goes by the round trips there are.
//!
//! Loss does not shrink the window while it is what the path always loses. What is lost beyond that is a queue that runs over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::delivery_rate::{DeliveryRate, Sample};

/// Of so many rounds the highest rate counts. A cycle of probing is shorter, so that each rate that was seen while probing counts
/// until the next.
const RATE_ROUNDS: usize = 10;
/// As long does a round trip count as that of an empty queue.
const EMPTY_FOR: Duration = Duration::from_secs(10);
/// As long is the shortest round trip remembered against which a queue is noticed that never runs dry.
const SHORTEST_FOR: Duration = Duration::from_secs(60);
/// Rounds in which a queue of ours has run dry: two cycles and some.
const RECENT_ROUNDS: usize = 16;
/// Round trips longer by this are a queue.
const QUEUE: f64 = 1.3;

/// Packets that may be under way always, or two ends that both wait for a delayed acknowledgement would stand still.
const PACKETS_MIN: u64 = 4;
/// Packets on top of what the path holds, for acknowledgements that come in pairs.
const PACKETS_SLACK: f64 = 3.0;
/// A window of so many packets no longer doubles with each round while starting up. The round in which the path proves full loses
/// every other packet of what is too much, and quinn's peers give up a connection with more than 1,024 gaps in a stream.
const PACKETS_DOUBLED: u64 = 1_024;

const GAIN_UP: f64 = 1.25;
const GAIN_DOWN: f64 = 0.8;
const GAIN_CRUISE: f64 = 1.03;
/// On top of it where somebody else fills the queue. Shares with cubic and with BBR were even with 1.1 on emulated links.
const GAIN_CONTESTED: f64 = 1.1;
const CRUISE_ROUNDS: u32 = 4;
/// One in so many cycles of a contested queue looks whether it is still contested, with a window for an empty queue.
const CYCLES_BETWEEN_LOOKS: u32 = 4;
const LOOK_ROUNDS: u32 = 3;
/// Rounds without more rate after which the path is full.
const FULL_AFTER: u32 = 2;
const GROWTH: f64 = 1.15;

/// Loss is judged over so many packets at least: of fewer it is a throw of dice.
const LOSS_PACKETS: u64 = 60;
/// Loss beyond what the path has lost in the best of so many spans is congestion, if it is this much.
const LOSS_SPANS: usize = 10;
const LOSS_TOLERATED: f64 = 0.08;
/// The same where somebody else makes the queue run over.
const LOSS_TOLERATED_CONTESTED: f64 = 0.16;
/// While starting up, the least number of packets that says it within a round.
const LOSS_PACKETS_STARTING: u64 = 16;
const LOSS_TOLERATED_STARTING: f64 = 0.12;
/// What a window makes up for of what is lost: of more it would not be a path.
const LOSS_MADE_UP_MAX: f64 = 0.4;
/// After congestion the window is held at this much of the model's, and let go by so much with each round.
const HELD: f64 = 0.9;
const LET_GO: f64 = 1.1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    StartUp {
        stalled: u32,
    },
    Drain,
    Cruise {
        rounds: u32,
    },
    Up {
        stalled: u32,
    },
    Down,
    /// As `Down`, for somewhat longer and to the shortest round trip.
    Look {
        rounds: u32,
    },
}

/// Decides the window of one path.
#[derive(Clone, Debug)]
pub(super) struct PathModel {
    packet: u64,
    window: u64,
    phase: Phase,
    cycles: u32,
    delivery: DeliveryRate,
    round: Round,
    /// Highest rates of past rounds, newest last.
    rates: VecDeque<f64>,
    /// The rate that growth is measured against.
    reference: f64,
    round_trips: RoundTrips,
    loss: Loss,
    /// Where the window is held since congestion.
    ceiling: Option<f64>,
}

/// What the round that is going on has shown.
#[derive(Clone, Debug, Default)]
struct Round {
    rate: f64,
    began_delivered: u64,
    round_trip_sum: f64,
    acks: f64,
    lost: u64,
    /// A router has marked packets (RFC 3168), which says of a queue what loss says.
    marked: bool,
    application_limited: bool,
}

impl PathModel {
    pub(super) fn new(window: u64, packet: u64) -> Self {
        Self {
            packet,
            window,
            phase: Phase::StartUp { stalled: 0 },
            cycles: 0,
            delivery: DeliveryRate::default(),
            round: Round::default(),
            rates: VecDeque::new(),
            reference: 0.0,
            round_trips: RoundTrips::default(),
            loss: Loss::default(),
            ceiling: None,
        }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> u64 {
        self.window.max(PACKETS_MIN * self.packet)
    }

    pub(super) fn on_packet_size(&mut self, packet: u64) {
        self.packet = packet;
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        self.delivery.on_sent(now);
    }

    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        application_limited: bool,
    ) {
        self.delivery.on_ack(now, sent, bytes);
        let round_trip = now.saturating_duration_since(sent).as_secs_f64();
        self.round.round_trip_sum += round_trip;
        self.round.acks += 1.0;
        self.round.application_limited |= application_limited;
        self.round_trips.first(now, round_trip);
        if matches!(self.phase, Phase::StartUp { .. }) && !application_limited {
            self.grow(bytes);
        }
    }

    pub(super) fn on_acks_end(&mut self, now: Instant, application_limited: bool) {
        let remember = Duration::from_secs_f64(4.0 * self.round_trips.last()).max(EMPTY_FOR / 10);
        let sample = self
            .delivery
            .on_acks_end(now, application_limited, remember);
        let Some(sample) = sample else { return };
        let Sample { rate, .. } = sample;
        if !sample.application_limited || rate > self.rate() {
            self.round.rate = self.round.rate.max(rate);
        }
        if sample.round_over {
            self.end_round(now);
            self.round = Round {
                began_delivered: self.delivery.delivered(),
                application_limited,
                ..Round::default()
            };
        }
        self.set_window();
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.round.lost += bytes;
        let arrived = self.delivery.delivered() - self.round.began_delivered;
        if matches!(self.phase, Phase::StartUp { .. })
            && self.round.lost >= LOSS_PACKETS_STARTING * self.packet
            && arrived >= 2 * LOSS_PACKETS_STARTING * self.packet
            && share(self.round.lost, arrived) > self.loss.usual() + LOSS_TOLERATED_STARTING
        {
            self.phase = Phase::Drain;
        }
    }

    pub(super) fn on_marked(&mut self) {
        self.round.marked = true;
    }

    /// Nothing has arrived for several round trips: what was known of the path may be of another one.
    pub(super) fn on_silence(&mut self) {
        *self = Self::new(PACKETS_MIN * self.packet, self.packet);
    }

    // Bytes a second that the path delivers.
    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(self.round.rate, f64::max)
    }

    // Bytes that the path holds, with what will be missing of them.
    fn holds(&self) -> Option<f64> {
        let round_trip = match self.phase {
            Phase::Look { .. } => self.round_trips.shortest(),
            _ => self.round_trips.base(),
        }?;
        let rate = self.rate();
        (rate > 0.0).then(|| rate * round_trip / (1.0 - self.loss.usual()))
    }

    fn grow(&mut self, bytes: u64) {
        let doubling = self.window <= PACKETS_DOUBLED * self.packet;
        let (more, most) = if doubling {
            (bytes, 2.3)
        } else {
            (bytes * 3 / 10, 1.5)
        };
        // Before the first round is over there is nothing to compare with.
        let room = self.rates.is_empty()
            || self.holds().is_none_or(|holds| {
                (self.window as f64) < most * holds + 10.0 * self.packet as f64
            });
        if room {
            self.window += more;
        }
    }

    fn end_round(&mut self, now: Instant) {
        let arrived = self.delivery.delivered() - self.round.began_delivered;
        let mean = if self.round.acks > 0.0 {
            self.round.round_trip_sum / self.round.acks
        } else {
            self.round_trips.last()
        };
        self.round_trips.end_round(now, mean);
        let limited = self.round.application_limited;
        if !limited || self.round.rate > self.rate() {
            if self.rates.len() == RATE_ROUNDS {
                self.rates.pop_front();
            }
            self.rates.push_back(self.round.rate);
        }
        let contested = self.round_trips.is_contested();
        let tolerated = if contested {
            LOSS_TOLERATED_CONTESTED
        } else {
            LOSS_TOLERATED
        };
        let beyond = self
            .loss
            .end_round(self.round.lost, arrived, LOSS_PACKETS * self.packet);
        let congested = self.round.marked || beyond.is_some_and(|beyond| beyond > tolerated);
        let queued = self.round_trips.base().map_or(0.0, |base| mean / base);
        self.phase = self.next_phase(limited, congested, queued, contested);
        if congested && !matches!(self.phase, Phase::StartUp { .. }) {
            self.ceiling = self.holds().map(|holds| HELD * holds);
        } else {
            self.ceiling = self.ceiling.map(|ceiling| ceiling * LET_GO);
        }
    }

    fn next_phase(
        &mut self,
        limited: bool,
        congested: bool,
        queued: f64,
        contested: bool,
    ) -> Phase {
        let grew = |rate: f64, reference: f64| rate >= reference * GROWTH;
        match self.phase {
            Phase::StartUp { .. } if limited => self.phase,
            Phase::StartUp { .. } if grew(self.round.rate, self.reference) => {
                self.reference = self.round.rate;
                Phase::StartUp { stalled: 0 }
            }
            Phase::StartUp { stalled } => {
                let full = stalled + 1 >= FULL_AFTER || congested || queued > 1.5;
                if full {
                    Phase::Drain
                } else {
                    Phase::StartUp {
                        stalled: stalled + 1,
                    }
                }
            }
            Phase::Look { rounds } if rounds > 1 => Phase::Look { rounds: rounds - 1 },
            Phase::Drain | Phase::Down | Phase::Look { .. } => Phase::Cruise { rounds: 0 },
            Phase::Cruise { rounds } if rounds + 1 < CRUISE_ROUNDS => {
                Phase::Cruise { rounds: rounds + 1 }
            }
            // Whoever has nothing to send learns nothing by sending more of it.
            Phase::Cruise { .. } if limited => self.phase,
            Phase::Cruise { .. } => {
                self.reference = self.rate();
                Phase::Up { stalled: 0 }
            }
            Phase::Up { .. }
                if grew(self.round.rate, self.reference) && !congested && queued < QUEUE =>
            {
                self.reference = self.round.rate;
                Phase::Up { stalled: 0 }
            }
            // What was sent in the first round is answered in the second.
            Phase::Up { stalled: 0 } if !congested && queued <= 1.2 => Phase::Up { stalled: 1 },
            Phase::Up { .. } => {
                self.cycles = self.cycles.wrapping_add(1);
                if contested && self.cycles.is_multiple_of(CYCLES_BETWEEN_LOOKS) {
                    Phase::Look {
                        rounds: LOOK_ROUNDS,
                    }
                } else {
                    Phase::Down
                }
            }
        }
    }

    fn set_window(&mut self) {
        let gain = match self.phase {
            Phase::StartUp { .. } => return,
            Phase::Drain | Phase::Down | Phase::Look { .. } => GAIN_DOWN,
            Phase::Up { .. } => GAIN_UP,
            Phase::Cruise { .. } => GAIN_CRUISE,
        };
        let Some(holds) = self.holds() else { return };
        let contested = if self.round_trips.is_contested() {
            GAIN_CONTESTED
        } else {
            1.0
        };
        let wanted = contested * gain * holds + PACKETS_SLACK * self.packet as f64;
        self.window = wanted.min(self.ceiling.unwrap_or(f64::INFINITY)) as u64;
    }
}

/// Round trips, in seconds, as means over rounds.
#[derive(Clone, Debug, Default)]
struct RoundTrips {
    empty: LowestLately,
    shortest: LowestLately,
    recent: VecDeque<f64>,
}

impl RoundTrips {
    // The very first, so that there is one before a round is over.
    fn first(&mut self, now: Instant, round_trip: f64) {
        if self.empty.lowest().is_none() {
            self.empty.add(now, round_trip, EMPTY_FOR);
        }
    }

    fn end_round(&mut self, now: Instant, mean: f64) {
        self.empty.add(now, mean, EMPTY_FOR);
        self.shortest.add(now, mean, SHORTEST_FOR);
        if self.recent.len() == RECENT_ROUNDS {
            self.recent.pop_front();
        }
        self.recent.push_back(mean);
    }

    fn last(&self) -> f64 {
        self.recent.back().copied().unwrap_or_default()
    }

    fn shortest(&self) -> Option<f64> {
        self.shortest.lowest()
    }

    // Somebody else keeps the queue from running dry.
    fn is_contested(&self) -> bool {
        self.recent.len() == RECENT_ROUNDS
            && self
                .shortest()
                .is_some_and(|shortest| self.lowest_recent() > QUEUE * shortest)
    }

    // What a window goes by.
    fn base(&self) -> Option<f64> {
        if self.is_contested() {
            Some(self.lowest_recent())
        } else {
            self.empty.lowest()
        }
    }

    fn lowest_recent(&self) -> f64 {
        self.recent.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// The lowest of what was added in the last so-and-so long, or the newest.
#[derive(Clone, Debug, Default)]
struct LowestLately {
    // Rising, oldest first: what is higher than a later one is never asked for.
    rising: VecDeque<(Instant, f64)>,
}

impl LowestLately {
    fn add(&mut self, now: Instant, value: f64, counts_for: Duration) {
        while self.rising.back().is_some_and(|(_, last)| *last >= value) {
            self.rising.pop_back();
        }
        self.rising.push_back((now, value));
        let old = |at: Instant| now.saturating_duration_since(at) > counts_for;
        while self.rising.len() > 1 && self.rising.front().is_some_and(|(at, _)| old(*at)) {
            self.rising.pop_front();
        }
    }

    fn lowest(&self) -> Option<f64> {
        self.rising.front().map(|(_, value)| *value)
    }
}

/// What is lost, in spans of enough packets to say anything.
#[derive(Clone, Debug, Default)]
struct Loss {
    lost: u64,
    arrived: u64,
    spans: VecDeque<f64>,
}

impl Loss {
    // The share that the path loses in the best of spans.
    fn usual(&self) -> f64 {
        let best = self.spans.iter().copied().fold(f64::INFINITY, f64::min);
        if best.is_finite() {
            best.min(LOSS_MADE_UP_MAX)
        } else {
            0.0
        }
    }

    // How much more than usual was lost, if a span is over.
    fn end_round(&mut self, lost: u64, arrived: u64, span: u64) -> Option<f64> {
        self.lost += lost;
        self.arrived += arrived;
        if self.lost + self.arrived < span {
            return None;
        }
        let now = share(self.lost, self.arrived);
        (self.lost, self.arrived) = (0, 0);
        if self.spans.len() == LOSS_SPANS {
            self.spans.pop_front();
        }
        self.spans.push_back(now);
        Some(now - self.usual())
    }
}

fn share(lost: u64, arrived: u64) -> f64 {
    if lost == 0 {
        return 0.0;
    }
    lost as f64 / (lost + arrived) as f64
}
