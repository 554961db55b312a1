//! One stream of a publisher, from the broker's yes to its end: which batches were sent on it, what they cost of the broker's
//! credit, and whether it is only waiting for its last answers. What outlives a stream is the driver's.

use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::compact::Packer;
use tidegate_wire::pb;
use tidegate_wire::stream::{Connection, SendError};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::unanswered_batches::Batch;
use super::window::Window;
use crate::frames::FrameStream;
use crate::hello::Established;

/// Bytes handed to the stream ahead of what it takes, at most, and no more than the path carries now. More would only make batches
/// smaller than they need to be, for what waits in the gatherer can still grow.
const STAGED_BYTES_MAX: usize = 512 * 1024;

/// How long the answers still under way are awaited after a refusal that ends the stream.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct PublishStream<C: Connection> {
    pub(super) frames: FrameStream<C>,
    pub(super) established: Arc<Established<C>>,
    _runs: TaskTrackerToken,
    credit_bytes: usize,
    credit_batches: usize,
    /// What each batch sent and not answered costs of the credit, by correlation.
    unanswered: Window<usize>,
    unanswered_cost: usize,
    /// Correlation of the next batch to send.
    next_unsent: u64,
    /// What is said shorter since it was said before; `None` when the broker reads no such thing.
    packer: Option<Packer>,
    /// The head being written; its topic's memory serves the next one.
    head: pb::PublishBatch,
    draining: Option<Draining>,
}

/// Nothing more is staged, and what is unanswered is waited for.
#[derive(Clone, Copy)]
enum Draining {
    /// The broker has refused, or takes no more, and will end the stream: until then at most. It may want us to wait before a retry.
    Refused {
        wait: Option<Duration>,
        deadline: Instant,
    },
    /// There is another connection, and this one goes on until everything is answered.
    Moves,
}

impl<C: Connection> PublishStream<C> {
    /// A stream of the connection of `established` with the credit of `ready`.
    pub(super) fn new(
        established: Arc<Established<C>>,
        runs: TaskTrackerToken,
        frames: FrameStream<C>,
        ready: &pb::PublishReady,
        packer: Option<Packer>,
    ) -> Self {
        Self {
            frames,
            established,
            _runs: runs,
            credit_bytes: usize::try_from(ready.credit_bytes).unwrap_or(usize::MAX),
            // None at all would stop everything for ever.
            credit_batches: ready.credit_batches.max(1) as usize,
            unanswered: Window::new(0),
            unanswered_cost: 0,
            next_unsent: 0,
            packer,
            head: pb::PublishBatch::default(),
            draining: None,
        }
    }

    pub(super) fn credit_bytes(&self) -> usize {
        self.credit_bytes
    }

    pub(super) fn round_trip(&self) -> Duration {
        self.established.connection.round_trip()
    }

    /// Bytes that are worth having ready to be sent, as the path is now.
    pub(super) fn send_window(&self) -> usize {
        self.established.connection.send_window()
    }

    /// The correlation of the next batch to send, if one may be sent now. Batches before `first` are not sent any more.
    pub(super) fn next(&mut self, first: u64) -> Option<u64> {
        let may_send = !self.is_draining()
            && self.frames.queue().bytes() < STAGED_BYTES_MAX.min(self.send_window())
            && self.unanswered.len() < self.credit_batches;
        may_send.then_some(self.next_unsent.max(first))
    }

    /// The batch of `correlation` was sent, or need not be.
    pub(super) fn sent(&mut self, correlation: u64) {
        self.next_unsent = correlation + 1;
    }

    /// Bytes that the next batch may cost.
    pub(super) fn credit_left(&self) -> usize {
        match self.unanswered.is_empty() {
            // A batch above all credit is the broker's to refuse.
            true => usize::MAX,
            false => self.credit_bytes.saturating_sub(self.unanswered_cost),
        }
    }

    /// Queues a batch. What it says of its first number and of what is resolved is `numbers`.
    pub(super) fn stage(&mut self, correlation: u64, batch: &Batch, numbers: Numbers) {
        self.unanswered.skip_to(correlation);
        self.unanswered.push(batch.cost);
        self.unanswered_cost += batch.cost;
        let head = &mut self.head;
        head.correlation = correlation;
        head.topic.clear();
        head.topic.push_str(&batch.topic);
        head.first_number = numbers.first;
        head.resolved_through = numbers.resolved_through;
        let connection = &self.established.connection;
        // The broker wants no packed batch that costs more than all credit.
        let may_pack = batch.cost <= self.credit_bytes;
        let packed = self.packer.as_mut().and_then(|packer| {
            packer.pack_batch(head, &batch.body, may_pack, || connection.is_long())
        });
        let body = packed.as_ref().unwrap_or(&batch.body);
        self.frames.queue().push_batch(head, body);
    }

    /// Writes what is staged as far as that needs no waiting. The rest is written as the stream takes it.
    pub(super) fn write_staged(&mut self) {
        while let Some(written) = self.frames.write_now() {
            self.written(&written);
        }
    }

    /// Something was written, or will not be any more.
    pub(super) fn written(&mut self, written: &Result<(), SendError>) {
        if written.is_err() {
            // The reading side tells why, or goes on with what is still to come.
            self.drain(None);
        }
    }

    /// The broker has answered `correlation`. False when it was not sent on this stream.
    pub(super) fn answered(&mut self, correlation: u64) -> bool {
        let Some(cost) = self.unanswered.take(correlation) else {
            return false;
        };
        self.unanswered_cost -= cost;
        true
    }

    /// Its connection is replaced by a better one, and not since the broker wants it to end.
    pub(super) fn is_worse(&self) -> bool {
        self.established.moves.is_cancelled() && self.established.goodbye.get().is_none()
    }

    /// Stages nothing more; what was staged is sent and answered here.
    pub(super) fn begin_to_move(&mut self) {
        self.draining.get_or_insert(Draining::Moves);
    }

    /// Sends nothing more, and waits only for the answers still under way.
    pub(super) fn drain(&mut self, wait: Option<Duration>) {
        self.frames.queue().clear();
        if !matches!(self.draining, Some(Draining::Refused { .. })) {
            let deadline = Instant::now() + DRAIN_TIMEOUT;
            self.draining = Some(Draining::Refused { wait, deadline });
        }
    }

    /// When no further answers are awaited, once there is such a time.
    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        match self.draining {
            Some(Draining::Refused { deadline, .. }) => Some(deadline),
            Some(Draining::Moves) | None => None,
        }
    }

    /// How long the broker wants us to wait before a retry, when it said so; no time, when it is none.
    pub(super) fn retry_wait(&self) -> Option<Duration> {
        match self.draining? {
            Draining::Refused { wait, .. } => wait,
            Draining::Moves => Some(Duration::ZERO),
        }
    }

    /// Nothing more is staged.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// It was draining, and there is nothing more to wait for.
    pub(super) fn is_drained(&self) -> bool {
        let is_overdue = || self.drain_deadline().is_some_and(|at| Instant::now() >= at);
        self.is_draining() && (self.unanswered.is_empty() || is_overdue())
    }

    /// It has moved: everything that was sent on it is answered.
    pub(super) fn has_moved(&self) -> bool {
        matches!(self.draining, Some(Draining::Moves)) && self.unanswered.is_empty()
    }
}

/// What a batch says of numbers. Both 0 on a stream without them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    /// That of its first event.
    pub(super) first: u64,
    /// All events up to this one are resolved.
    pub(super) resolved_through: u64,
}
