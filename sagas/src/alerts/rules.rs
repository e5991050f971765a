//! The rules, as data.

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// What is counted is counted over this long.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// A run waits for a lock that waits for longer than this.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(300);

/// When somebody is to look at something.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What is measured.
    pub measure: Measure,
    /// From where on it is an alarm.
    pub limit: Limit,
    /// For how long that has to be so.
    pub hold: Duration,
    /// How soon somebody is to look at it.
    pub severity: Severity,
    /// What is so.
    pub summary: &'static str,
    /// What to do.
    pub to_do: &'static str,
}

/// What is measured, of each kind of sagas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Measure {
    /// The part of the runs that completed, of those that ended in the last five minutes.
    SuccessRate,
    /// How many seconds those took, on the average, without the time for which some waited for the one around them.
    MeanSeconds,
    /// Runs that wait for a person.
    Parked,
    /// Runs that cannot go on as they are stored.
    Damaged,
    /// Runs of versions of the definition that no node has.
    Unattended,
    /// Runs that are to be forgotten, and cannot be.
    Unforgotten,
    /// The age of the oldest run that has not ended, in seconds.
    OldestSeconds,
    /// Writes in the last five minutes that were refused because another node has the run.
    Fenced,
    /// For how many seconds nobody has seen what is due.
    SilentSeconds,
    /// For how many seconds the first of those runs has waited that wait for locks. Each node has it of the store, whatever
    /// the saga. For Prometheus only.
    LockWaitSeconds,
    /// Parked sequences of a processor, in what is read: of a relay, keys with a message that could not be sent. For Prometheus
    /// only.
    ParkedSequences,
    /// Events that a build of a processor is behind while it does not go on. For Prometheus only.
    StandsBehind,
    /// For how many seconds a node has not renewed its lease and seen the others. For Prometheus only.
    NodeSilentSeconds,
    /// For how many seconds the oldest branch of a transaction across databases has been prepared. For Prometheus only.
    InDoubtSeconds,
    /// Branches that are decided, and not committed. For Prometheus only.
    UnfinishedBranches,
    /// Branches that are not what was decided. For Prometheus only.
    ParkedBranches,
    /// Transactions across databases that a person has to decide about. For Prometheus only.
    TornTransactions,
    /// For how many seconds a participant has not said what is prepared there. For Prometheus only.
    UnaskedSeconds,
    /// Transactions that need a person, of whichever pattern. For Prometheus only.
    WaitingTransactions,
    /// Differences that the last run of a reconciliation has found; without a class 1 if it came to no end. For Prometheus
    /// only.
    Unreconciled,
}

/// From where on it is an alarm.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Limit {
    /// Above this.
    Above(f64),
    /// Below this.
    Below(f64),
    /// Above so many times the deadline of the definition; never for one without a deadline.
    Deadlines(f64),
}

/// How soon somebody is to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Severity {
    /// On the next working day.
    Warning,
    /// Now.
    Critical,
}

impl Severity {
    /// The label of it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Begins a rule: what is measured, its limit, and for how long.
const fn rule(name: &'static str, measure: Measure, limit: Limit, hold: Duration) -> Rule {
    Rule { name, measure, limit, hold, severity: Severity::Warning, summary: "", to_do: "" }
}

impl Rule {
    const fn urgent(self) -> Self {
        Self { severity: Severity::Critical, ..self }
    }

    const fn says(self, summary: &'static str, to_do: &'static str) -> Self {
        Self { summary, to_do, ..self }
    }
}

/// The rules.
pub const RULES: &[Rule] = &[
    rule("TransactionsWaiting", Measure::WaitingTransactions, Limit::Above(0.0), WINDOW).says(
        "Transactions need a person: runs, instances of processes, or transactions across databases.",
        "`app.transactions()` lists all of them (`Filter::needs_person`), each with its reason; mend what fails, then have it \
         tried again, skipped, resolved or decided there (`Overview::ask`).",
    ),
    rule("Unreconciled", Measure::Unreconciled, Limit::Above(0.0), MINUTE).says(
        "Two sides that are to say the same differ, or it is not known whether they do.",
        "`last` in `app.reconciliations()` names the first differences of each class: mend what differs, or `accept` it as it is. \
         Without a class: the last run came to no end, or none has for long; `App::health` says why.",
    ),
    rule("SagaSuccessRateLow", Measure::SuccessRate, Limit::Below(0.95), WINDOW).says(
        "Fewer than 95 % of the runs that ended in the last five minutes have completed.",
        "List the runs that ended since then (`Runs::list` with `RunStatus::Ended` and `ended_since`): their errors say which step \
         refuses or fails. A refusal by the business may be right; a partner that fails is to be mended.",
    ),
    rule("SagaSlow", Measure::MeanSeconds, Limit::Above(5.0), WINDOW).says(
        "Runs that ended in the last five minutes took more than 5 seconds on the average.",
        "Look at what running ones wait for (`Runs::list` with `RunStatus::Running`, then `Runs::show`): a partner that is slow, or \
         pauses between tries. For sagas that are slow by their nature raise the limit.",
    ),
    rule("SagaParked", Measure::Parked, Limit::Above(0.0), WINDOW).says(
        "Runs wait for a person.",
        "`Runs::waiting` says which, and why. Mend what fails; then `Retry` it, or say what has happened with `Resolve` or `Skip`.",
    ),
    rule("SagaParkedMany", Measure::Parked, Limit::Above(10.0), MINUTE).urgent().says(
        "More than ten runs wait for a person.",
        "They most likely fail for one reason: list them by their error (`RunFilter::failing_with`), mend that, freeze the list \
         (`Runs::freeze`), and retry all of it (`Runs::ask_each`).",
    ),
    rule("SagaDamaged", Measure::Damaged, Limit::Above(0.0), WINDOW).urgent().says(
        "Runs cannot go on as they are stored.",
        "`Runs::waiting` names the rows and what is wrong with them. After a deploy: the definition has changed without a new \
         version, so take it back. Else repair the row from a backup. They go on by themselves.",
    ),
    rule("SagaUnattended", Measure::Unattended, Limit::Above(0.0), WINDOW).urgent().says(
        "Runs of a version of the definition go on that no node has.",
        "`Runs::list` says which version they are of. Have a node with that definition, `.earlier_saga(..)`, until they have ended.",
    ),
    rule("SagaUnforgotten", Measure::Unforgotten, Limit::Above(0.0), WINDOW).says(
        "Runs that ended long ago cannot be forgotten: their rows stay, and so do their keys.",
        "The log of the node names the first of them and the error: most likely a statement that takes too long, a lock, or a \
         privilege or trigger of the database. The others are forgotten meanwhile. Each is tried again every two minutes.",
    ),
    rule("SagaOld", Measure::OldestSeconds, Limit::Deadlines(2.0), WINDOW).says(
        "A run has not ended within two times its deadline.",
        "List the old ones (`RunFilter::begun_before`), and look at what the oldest waits for, and who will wake it (`Runs::show`).",
    ),
    rule("SagaFenced", Measure::Fenced, Limit::Above(20.0), MINUTE).says(
        "Many writes were refused because another node has the run.",
        "A few are normal while nodes come and go. If it goes on, nodes lose their leases: look for long pauses of the process, \
         an overloaded store, or a lease that is too short (`.lease`). Nothing is done twice by it, but for calls under one key.",
    ),
    rule("SagaEngineSilent", Measure::SilentSeconds, Limit::Above(60.0), MINUTE).urgent().says(
        "Nobody has seen for a minute what is due.",
        "Look whether a node with this saga runs, and whether its store answers: `App::health` says what is wrong (`engines`).",
    ),
    rule("SagaLockWait", Measure::LockWaitSeconds, Limit::Above(300.0), MINUTE).says(
        "A run has waited for a lock for more than five minutes.",
        "`Locks::waiting` says which, and `Locks::lock` who has it: look at what that one waits for (`Runs::show`). Runs that wait \
         for each other are found and are not it. Give sagas with locks a deadline.",
    ),
    rule("ProcessorParked", Measure::ParkedSequences, Limit::Above(0.0), WINDOW).says(
        "Events or messages of a processor or relay are set aside, and their keys with them.",
        "`Processor::parked` says which, and why. Mend it, then retry or discard them.",
    ),
    rule("ProcessorStands", Measure::StandsBehind, Limit::Above(0.0), MINUTE).urgent().says(
        "A build of a processor or relay is behind, and has not gone on for five minutes.",
        "`App::health` says whether it fails, is halted, has no node, or a node that hangs, and its state whether it is paused \
         (`resume`). A build that is not read yet, or no more: `Processor::builds`; `abort` it, or `drop_previous`. A relay waits \
         while its receiver is away.",
    ),
    rule("NodeSilent", Measure::NodeSilentSeconds, Limit::Above(60.0), MINUTE).urgent().says(
        "A node has not renewed its lease for a minute, or cannot look at the others: it does not work, and what it shows is old.",
        "`App::health` says why (`node`). Most likely its store takes no writes: a full disk, a server or a file that is read-only.",
    ),
    rule("TwoPhaseInDoubt", Measure::InDoubtSeconds, Limit::Above(30.0), MINUTE).urgent().says(
        "A branch of a transaction across databases has been prepared for long, and holds its locks.",
        "The store with the decisions does not answer, or no node with this participant recovers: look at `App::health` \
         (`engines`, `two-phase`).",
    ),
    rule("TwoPhaseUnfinished", Measure::UnfinishedBranches, Limit::Above(0.0), WINDOW).urgent().says(
        "Transactions across databases are decided, and not committed here.",
        "Its database does not answer, or the participant is not configured any more: `TwoPhase::pending` says which.",
    ),
    rule("TwoPhaseParked", Measure::ParkedBranches, Limit::Above(0.0), MINUTE).urgent().says(
        "Branches of transactions across databases are not what was decided: somebody has ended them by hand.",
        "`TwoPhase::pending` names them. Mend by hand what differs, then `TwoPhase::accept` it.",
    ),
    rule("TwoPhaseTorn", Measure::TornTransactions, Limit::Above(0.0), MINUTE).urgent().says(
        "Transactions across databases are committed in one, prepared in another, and undecided: somebody has committed by \
         hand, or the store has lost what it had decided.",
        "`TwoPhase::strays` names them, and recovery leaves them alone. Find out what each is to be, then `TwoPhase::adopt` it.",
    ),
    rule("TwoPhaseUnasked", Measure::UnaskedSeconds, Limit::Above(60.0), MINUTE).urgent().says(
        "Nobody has heard for a minute what is prepared here, and holds its locks.",
        "Look whether its database can be reached, and whether a node with this participant runs: `App::health` says why \
         (`engines`, `two-phase`).",
    ),
];
