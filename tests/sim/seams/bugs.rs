//! Faults that are planted in the simulated library, to see that runs find them. Each stands at one place of `host/src`, where `planted!`
//! names it, and is there only in a run that asks for it. What each does, and what finds it, is in `tests/RELIABILITY.md`.

use std::cell::Cell;

macro_rules! bugs {
    ($($list:tt)*) => {
        named! {
            /// A fault.
            Bug { $($list)* }
        }
    };
}

bugs! {
    // The journal.
    /// The journal says that it is durable, and was not synced.
    SyncLeftOut,
    /// A batch is answered before the journal is synced, which comes at the next interval.
    AnsweredBeforeSync,
    /// The end of an interval counts as a sync, and is none.
    IntervalForgotten,
    /// While nothing can be appended, what was written before counts as synced.
    NotSyncedInTrouble,
    /// Acks are confirmed that are written and not synced.
    AcksConfirmedUnsynced,
    /// The name of a journal file is not made durable.
    NameNotSynced,
    /// A journal file is not cut at its end before the next one begins.
    OldFileNotCut,
    /// The witness names a journal file before it has its name.
    WitnessAhead,
    /// A group claims that it is durable before it is.
    DurableTooHigh,
    /// A start leaves the torn end of the journal as it is.
    TornEndKept,
    /// One file more of the journal is released than is in the checkpoint.
    ReleasedOneFileEarly,
    /// Of what is released half counts as free again.
    FreedCountedWrong,
    /// A new journal file begins with the end of the one before.
    TailOfOldFileKept,

    /// A store that was moved away stays so when it is back.
    LostFolderStays,

    // Checkpoints.
    /// The journal is released before what stands for it is named.
    ReleaseBeforeManifest,
    /// A sealed database is not made durable.
    GenerationNotSynced,
    /// The manifest is not written.
    ManifestNotSaved,
    /// Producers are left out of the state that a checkpoint saves.
    ProducersNotSaved,
    /// Topics are saved as if nothing had been published to them.
    SequencesNotSaved,
    /// A checkpoint does not keep what is undecided.
    UndecidedNotKept,
    /// A checkpoint keeps one event less of what is undecided.
    FloorOffByOne,
    /// A checkpoint does not keep a block of which one event only is pending.
    LastOneNotKept,
    /// A checkpoint does not wait until the router has shown all that was before it.
    CheckpointBeforeRouter,
    /// A generation counts as needed by nobody.
    NeededForgotten,
    /// Only the newest generation is read.
    OlderGenerationsNotRead,
    /// The state of a subscription is saved as if it had decided one event more.
    SavedAsDecided,

    /// The checkpointer goes on when the broker stops.
    CheckpointerGoesOn,

    // Starts.
    /// The end of the journal is brought to what was found before it is known whether the broker starts.
    TidiedTooEarly,
    /// The first group after a checkpoint is not replayed.
    ReplayFromTheNext,
    /// Acks in the journal are not replayed.
    AcksNotReplayed,
    /// Batches in the journal are not told to their producers.
    ProducerForgotten,
    /// A start does not go on after the positions in the journal.
    PositionsGivenAgain,
    /// A start does not go on after the sequences in the journal.
    SequencesGivenAgain,
    /// A change of filters in the journal is not replayed.
    FiltersNotReplayed,
    /// Any other change of a subscription in the journal is not replayed.
    SettingsNotReplayed,
    /// The deletion of a topic in the journal is not replayed.
    DeletionNotReplayed,
    /// That a subscription is paused is not replayed.
    PauseNotReplayed,
    /// That one was resumed is not replayed.
    ResumeNotReplayed,
    /// Numbers that an earlier start skipped are given.
    ReservedIgnored,
    /// Numbers of what may have been handed out and lost are not skipped.
    NothingReserved,
    /// Which numbers are skipped is not written down.
    ReservedNotWritten,
    /// What came back of events is not replayed.
    ReturnsNotReplayed,
    /// What is to wait, as the journal says, does not.
    WaitForgotten,
    /// An attempt in the journal counts once more.
    AttemptCountedTwice,
    /// What the state of a subscription waits for is not armed.
    NothingArmedAtStart,

    // Damage and losses.
    /// What is damaged is delivered as it is.
    DamageDelivered,
    /// A record loses its damaged events, and nobody is told.
    DamagePassedOver,
    /// Of what is lost the first event is not told.
    LossToldShort,
    /// With the damaged events of a record its sound ones are given up.
    SoundGivenUpToo,
    /// Numbers that something lost may have had are given.
    NumbersOfLostGivenAgain,

    // Commits.
    /// Whoever adds to the inbox does not wake the committer.
    WakeLost,
    /// That acks were taken is not told to whoever waits for room.
    AcksTakenUntold,
    /// Publishers without a sync are answered before their events are written.
    AnsweredBeforeWritten,
    /// The batch that makes a topic is stored, and refused.
    RefusedWithItsTopic,
    /// Acks are not written down.
    AcksNotNoted,
    /// Acks of what outputs and dead letters are made of are not written down.
    OutputAcksNotNoted,
    /// Publishes go on into a journal that is full.
    FullJournalTakesMore,
    /// Notes that do not fit into a group are not written before it.
    NotesBeforeSkipped,
    /// A topic gives the sequences of a group again.
    TopicNotAdvanced,
    /// A large batch uses up one sequence more than it has events.
    SequenceSkipped,
    /// Answers go to the publisher whose batch was before.
    AnswersMixed,
    /// A new subscription begins one event late.
    StartsOneLate,
    /// A new subscription that begins with what comes gets the event before it.
    BeginsOneEarly,
    /// Changed filters hold for the last event before them, too.
    FenceTooEarly,
    /// Changes of topics and subscriptions are answered before they are synced.
    ChangesNotSynced,
    /// The sequences of a deleted topic are not remembered.
    DeletedForgotten,
    /// A resent batch is stored again.
    ResendIsFresh,
    /// A resent batch is answered with the sequence after its own.
    ResendAnsweredWrong,
    /// One batch less is remembered than may be sent again.
    AnswersForgottenEarly,

    // Who gets what.
    /// The recent end of the log is read from the block after the one that was asked for.
    TailPassesOver,
    /// The end of the log is taken after it was read, and what came between is passed over.
    RoutedPastNew,
    /// The first event of what is shown to subscriptions is left out.
    RoutedFromTheNext,
    /// A subscription joins the others although it has not seen all that they have.
    JoinedBehind,
    /// What a step of a catch-up did not come to is passed over.
    CatchUpCutShort,
    /// What was acked before it was matched comes again.
    AckedAheadForgotten,
    /// The last event of what is handed out comes first.
    LastHandedOutFirst,
    /// An event that is not the first of what is read from its block is the one before it.
    NeighbourHandedOut,
    /// An event is passed over where a consumer takes no more.
    FreshPassedOver,
    /// The first event that a filter lets through of what it was shown is left out.
    MatchedFromTheNext,
    /// All rules of a call that fails on an event pay for it.
    AllBlamed,
    /// A paused subscription hands out events.
    PausedHandsOut,
    /// Consumers are not told that their subscription is paused.
    PauseUntold,

    // What consumers hold.
    /// What is acked counts as in flight for good.
    AckedStaysInFlight,
    /// What is wanted again comes nowhere.
    NackLost,
    /// What its consumer has not seen when it goes comes nowhere.
    UnseenGoesNowhere,
    /// What has one attempt left is given up.
    GivenUpEarly,
    /// What failed too often is said to be refused.
    WrongReasonTold,
    /// What a consumer had in hand when it or the broker went has failed.
    OthersPay,
    /// What failed comes again at once.
    BackoffIgnored,
    /// Of what a route makes of an event only the first is written.
    RouteOutputLost,
    /// A dead letter is written without the ack of its event.
    LetterWithoutAck,
    /// What is given up is acked without its dead letter.
    AckWithoutLetter,
    /// What comes back does not count as handed out.
    AttemptNotCounted,
    /// What misses its deadline comes nowhere.
    LateGoesNowhere,
    /// What was left alone for a while comes nowhere.
    DueGoesNowhere,
    /// What misses its deadline makes its task panic.
    LatePanics,
    /// An ack takes the event after its own, too.
    AckTakesTheNext,
    /// Nobody looks when the deadline of what is handed out is over.
    DeadlineNotArmed,
    /// A consumer whose application stands still keeps suspects from all others.
    StalledDrains,
    /// A suspect that is acked stays where suspects wait.
    SuspectStaysPlaced,
    /// What was leased and not read is nobody's.
    LeasesNotGivenBack,

    // Connections.
    /// What a lost connection had not sent is not given back.
    UnsentCounts,
    /// Acks are confirmed before they are written.
    ConfirmedEarly,
    /// Credit that a consumer grants is not counted.
    CreditNotGrown,
    /// Whoever waits for credit is not told of it.
    CreditUntold,
    /// Credit of an answered batch is not given back.
    CreditKept,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a fault in what this thread runs from now on, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this one is planted.
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
