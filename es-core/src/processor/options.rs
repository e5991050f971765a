//! How a processor is run.

use std::time::Duration;

use super::Backfill;

/// How much may be parked: beyond it, a processor stops instead of dropping anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkingLimits {
    /// Sequences of one processor: 1,024 by default.
    pub sequences: usize,
    /// Events of one sequence: 100,000 by default.
    pub events: u64,
}

impl Default for ParkingLimits {
    fn default() -> Self {
        Self { sequences: 1_024, events: 100_000 }
    }
}

impl ParkingLimits {
    /// Other limits.
    #[must_use]
    pub const fn new(sequences: usize, events: u64) -> Self {
        Self { sequences, events }
    }
}

/// How a processor is run: for [all of an app](crate::AppBuilder::processors), or for
/// [one](crate::AppBuilder::processor_options).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessorOptions {
    /// How often a handler is called again before its event is parked (or what the projection chose); 4 by default.
    ///
    /// Once that was in vain for eight events, and for none between them it helped, a projection's next ones are given up when
    /// they fail for the first time, until there was none for a minute: thousands of events that fail alike hold their range up
    /// for seconds. Events that never fail say nothing. The handlers of a reactor, which may wait for a partner, are always
    /// called again.
    pub retries: u32,
    /// The first wait after a failure, 50 ms by default; doubled each time.
    pub first_wait: Duration,
    /// The longest wait after a failure; 10 s by default.
    pub longest_wait: Duration,
    /// For how long a failure that looks like one of the store (a refused connection, a statement or a lock that timed
    /// out) is believed to be one, while the store takes writes; then it is the event's. 10 s by default.
    ///
    /// Meanwhile the range waits. Once that was in vain for eight events, and none that had failed went through between them, a
    /// projection's next ones are only called again as often as [`retries`](Self::retries) says, until there was none for a
    /// minute, or for twice this and [`handler_limit`](Self::handler_limit) together, if that is longer. What an operator asked
    /// for is tried for that long and that often, and the range goes on: each row of a rebuild by itself, the sequences of a
    /// retry together, none of which is given up at its first try.
    pub patience: Duration,
    /// The longest that one call of a handler may take; 60 s by default.
    pub handler_limit: Duration,
    /// How many ranges of slices a node works on at once; 1 by default. More of them help where the handlers wait: for
    /// SQL, or for another service.
    pub workers: usize,
    /// How many events are handled together, at most; by default what suits the kind of processor.
    pub page: Option<usize>,
    /// How many bytes of payload are handled together, and how many bytes of rows a view keeps in memory, about; 4 MiB by
    /// default.
    pub bytes: usize,
    /// How much may be parked; 1,024 sequences of 100,000 events each by default.
    pub parking: ParkingLimits,
    /// What is done when the program handles events that the projection has passed without it, or finds its rows by other
    /// keys; [`Backfill::Online`] by default.
    pub backfill: Backfill,
    /// For how long another version of the projection is kept that no live node runs; 7 days by default, and at least two
    /// [leases](crate::AppBuilder::lease), for a node that starts is not seen either. Then it goes, with its rows and tables.
    pub keep_versions: Duration,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            retries: 4,
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(10),
            patience: Duration::from_secs(10),
            handler_limit: Duration::from_secs(60),
            workers: 1,
            page: None,
            bytes: 4 << 20,
            parking: ParkingLimits::default(),
            backfill: Backfill::default(),
            keep_versions: Duration::from_hours(7 * 24),
        }
    }
}

impl ProcessorOptions {
    /// Calls a handler again so often, after waits from `first`, doubled each time, up to `longest`.
    #[must_use]
    pub const fn retries(self, retries: u32, first: Duration, longest: Duration) -> Self {
        Self { retries, first_wait: first, longest_wait: longest, ..self }
    }

    /// Believes for so long that a failure is one of the store, while the store takes writes.
    #[must_use]
    pub const fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Lets a call of a handler take so long.
    #[must_use]
    pub const fn handler_limit(self, limit: Duration) -> Self {
        Self { handler_limit: limit, ..self }
    }

    /// Works on so many ranges of slices at once.
    #[must_use]
    pub const fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Handles at most so many events together.
    #[must_use]
    pub const fn page(self, events: usize) -> Self {
        Self { page: Some(events), ..self }
    }

    /// Handles about so many bytes of payload together, and keeps about so many bytes of rows.
    #[must_use]
    pub const fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Lets so much be parked.
    #[must_use]
    pub const fn parking(self, limits: ParkingLimits) -> Self {
        Self { parking: limits, ..self }
    }

    /// Does this when the program handles events that the projection has passed without it.
    #[must_use]
    pub const fn backfill(self, backfill: Backfill) -> Self {
        Self { backfill, ..self }
    }

    /// Keeps another version of the projection that no live node runs for so long, at least two
    /// [leases](crate::AppBuilder::lease).
    #[must_use]
    pub const fn keep_versions(self, time: Duration) -> Self {
        Self { keep_versions: time, ..self }
    }

    /// What is out of range, a line each.
    pub(crate) fn problems(&self, of: &str) -> Vec<String> {
        let Self {
            retries: _,
            patience: _,
            first_wait,
            longest_wait,
            handler_limit,
            workers,
            page,
            bytes,
            parking,
            backfill: _,
            keep_versions: _,
        } = self;
        let mut problems = Vec::new();
        let mut check = |holds: bool, what: &str| {
            if !holds {
                problems.push(format!("options of {of}: {what}"));
            }
        };
        check(first_wait <= longest_wait, "the first wait is longer than the longest");
        check(
            !first_wait.is_zero(),
            "the first wait is nothing: a failure would be repeated without a pause",
        );
        check(!handler_limit.is_zero(), "the limit of a handler is nothing");
        check((1..=1_024).contains(workers), "workers are between 1 and 1,024");
        check(
            page.is_none_or(|page| (1..=crate::limits::MAX_PAGE).contains(&page)),
            "a page has 1 to 10,000 events",
        );
        check(*bytes > 0, "a page has at least one byte");
        check(parking.sequences > 0 && parking.events > 0, "nothing may be parked");
        problems
    }
}
