//! States and transitions of the broker, to see how deep runs come. Each is reached at one place of `host/src`, where `reached!` names it,
//! and counted there for the run that its thread plays. Which runs hardly ever reach, and why, is in `tests/RELIABILITY.md`.

use std::cell::RefCell;
use std::collections::BTreeMap;

macro_rules! states {
    ($($list:tt)*) => {
        named! {
            /// A state, or a transition.
            State { $($list)* }
        }
    };
}

states! {
    // A subscription.
    /// An operator lets it stand still.
    PausedByHand,
    /// A filter that failed does.
    PausedByFilter,
    /// It goes on.
    Resumed,
    /// It is shown older events before it can be shown new ones with the others.
    CatchesUp,
    /// What it is to be shown cannot be read.
    CatchUpStands,
    /// It is shown new events with the others from now on.
    JoinedRouter,
    /// It is not any more.
    LeftRouter,
    /// Other filters judge from now on.
    FiltersTakeOver,
    /// One of its filters failed, and is looked at apart from those of others.
    FilterSetApart,
    /// It was acked before it was known that it is wanted.
    AckedBeforeMatch,
    /// It came back before a crash, after which it is judged again.
    CameBackBeforeMatch,
    /// As much is in flight as may be.
    WindowFull,
    /// A consumer lost its connection, and had something in hand.
    ConsumerLostWithLeases,
    /// What a consumer that went had not seen is there for others.
    UnseenCameBack,
    /// What may have brought a consumer down waits for one that holds nothing.
    SuspectQueued,
    /// It is with one.
    SuspectHandedOut,
    /// It was alone in the hands of one that was lost.
    SuspectAccused,
    /// A busy consumer gets nothing more until it holds nothing, since none does.
    DrainsForSuspects,
    /// It is let go, since its application stands still.
    StalledDrainsNoMore,
    /// A consumer took nothing for as long as it may.
    ApplicationStands,
    /// It did not answer in time.
    DeadlineMissed,
    /// It answered too late.
    AnsweredTooLate,
    /// It wants an event again.
    Nacked,
    /// What was left alone for a while is there again.
    DelayOver,
    /// Nobody will get an event any more.
    GivenUp,

    // The committer.
    /// More waits than fits into a group.
    GroupFull,
    /// Notes that did not fit into a group are written before it.
    NotesBeforeGroup,
    /// A sync since it is time, and not since somebody waits for it.
    SyncedAtInterval,
    /// A group for which there is no room is taken back.
    GroupPutOff,
    /// Nothing is written any more.
    WritingEnded,
    /// Publishes wait until a checkpoint makes room in the journal.
    PublishesWaitForRoom,
    /// Acks wait until the committer has taken those before them.
    AcksWaitForRoom,
    /// Outputs wait for room in the journal.
    OutputsWait,
    /// What came back is not written while there is little room.
    ReturnsHeld,
    /// A batch that is there came again.
    BatchResent,
    /// There is no room but the reserve.
    DiskFull,
    /// There is room again.
    GoesOnAfterFullDisk,
    /// The journal is full, and no checkpoint makes room.
    JournalFull,
    /// There is no file descriptor for another file.
    OutOfFiles,
    /// A new journal file is the one that was kept for a full disk.
    ReserveTaken,
    /// A folder of the store is not where it was.
    FolderLost,
    /// It is back.
    FolderBack,

    // Checkpoints.
    /// One was not written.
    CheckpointFailed,
    /// It is tried again as of the same moment.
    CheckpointTriedAgain,
    /// One that does not fit is made in part.
    CheckpointInPart,
    /// What is in one leaves the journal.
    JournalReleased,
    /// A generation that nobody needs goes.
    GenerationDeleted,
    /// Events that cannot be read were found.
    Unreadable,
    /// They are given up, as an operator asked.
    DamageGivenUp,

    // Starts.
    /// A torn end of the journal is cut off.
    TornEndCut,
    /// A journal file goes of which a checkpoint has everything.
    StaleFileRemoved,
    /// The witness asks for a journal file that is not there.
    WitnessAhead,
    /// The newest journal file is shorter than it began.
    JournalCutShort,
    /// A journal file has no head.
    DamagedFileHead,
    /// A record that was durable is damaged.
    DamagedRecord,
    /// Of a record some events are.
    DamagedEvents,
    /// The manifest is made again of the generations.
    ManifestMadeAgain,
    /// A state does not read, and an older one has to do.
    StateRejected,
    /// A generation that the manifest does not name goes.
    GenerationRejected,
    /// Damage is found that nobody has accepted.
    StartRefusedForDamage,
    /// A loss that was accepted.
    LossAccepted,
    /// A group is in the state already.
    ReplayedForItsEventsOnly,
    /// Groups are not there.
    ReplayedGap,
    /// A change of the catalog.
    ReplayedChange,
    /// Acks.
    ReplayedAcks,
    /// A batch of a producer.
    ReplayedBatch,
    /// What came back.
    ReplayedCameBack,
    /// That a subscription stands still, or goes on.
    ReplayedPause,
    /// When the broker ended.
    ReplayedStop,
    /// Numbers that an earlier start skipped.
    ReplayedSkippedNumbers,
    /// Numbers of a topic that may have been handed out and lost are skipped.
    NumbersSkipped,
    /// A change of filters is lost, and those before it judge.
    LostFiltersReplaced,
}

/// How often each was reached; those that were not are not in it.
pub type Reached = BTreeMap<State, u64>;

thread_local! {
    static REACHED: RefCell<Reached> = const { RefCell::new(BTreeMap::new()) };
}

/// This one is reached.
pub fn reached(state: State) {
    REACHED.with_borrow_mut(|reached| *reached.entry(state).or_default() += 1);
}

/// How often this one was reached on this thread so far.
#[must_use]
pub fn times_reached(state: State) -> u64 {
    REACHED.with_borrow(|reached| reached.get(&state).copied().unwrap_or_default())
}

/// What was reached on this thread since this was asked last.
#[must_use]
pub fn take_reached() -> Reached {
    REACHED.take()
}
