//! The rows of the table: which work, by how many, on what.

use bench_kit::{Job, Work};

use super::contender::Contender;

/// What is stored before the clock runs, and read by the rows below.
pub const STREAMS: u64 = 2_000;
pub const EACH: u64 = 100;
const LONG_STREAM: u64 = 1_000_000;
const LONG: u64 = 10_000;
/// Whatever takes longer is cut, so that one side cannot hold up the others.
const LIMIT: f64 = 120.0;

pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub work: Work,
    pub processes: u64,
    callers: u64,
    on: On,
}

enum On {
    /// Each caller its own aggregate, new in each round.
    Own,
    /// As many aggregates for each caller, new in each round.
    Many(u64),
    Stored {
        first: u64,
        span: u64,
    },
}

const fn row(name: &'static str, work: Work, processes: u64, callers: u64, on: On) -> Row {
    let unit = match work {
        Work::Command | Work::Condition => "commands/s",
        _ => "events/s",
    };
    Row { name, unit, work, processes, callers, on }
}

/// Runs before the others, while nothing else is stored.
pub const REBUILD: Row =
    row("rebuild of 200,000 events", Work::Rebuild, 1, 1, On::Stored { first: 0, span: 1 });

pub const ROWS: &[Row] = &[
    row("1 caller, 1 aggregate", Work::Command, 1, 1, On::Own),
    row("32 callers, 32 aggregates", Work::Command, 1, 32, On::Own),
    row("256 callers, 256 aggregates", Work::Command, 1, 256, On::Own),
    row("4 processes of 8 callers", Work::Command, 4, 8, On::Own),
    row("16 processes of 1 caller", Work::Command, 16, 1, On::Own),
    row("batches of 100, 1 caller", Work::Batch, 1, 1, On::Many(100)),
    row("batches of 100, 32 callers", Work::Batch, 1, 32, On::Many(20)),
    row("boundary by tag, 1 caller", Work::Condition, 1, 1, On::Many(100)),
    row("boundary by tag, 32 callers", Work::Condition, 1, 32, On::Many(20)),
    row("load of 10,000 events", Work::Load, 1, 1, On::Stored { first: LONG_STREAM, span: 1 }),
    row("load of 1,000 streams of 100", Work::Load, 1, 1, On::Stored { first: 0, span: 1_000 }),
];

impl Row {
    /// One round of it.
    pub fn job(&self, contender: &Contender) -> Job {
        let mut job = contender.job(self.work, self.callers);
        (job.first, job.span) = match self.on {
            On::Own => (contender.fresh(self.callers * self.processes), self.callers),
            On::Many(each) => (contender.fresh(self.callers * each), self.callers * each),
            On::Stored { first, span } => (first, span),
        };
        if self.work == Work::Rebuild {
            job.until.seconds = 5.0;
            job.until.calls = Some(1);
        }
        job
    }
}

/// What the rows that read will read.
pub fn prepare(contender: &Contender) -> anyhow::Result<()> {
    let mut job = contender.job(Work::Batch, 20);
    job.span = STREAMS;
    job.warm = false;
    job.until.seconds = LIMIT;
    job.until.calls = Some(STREAMS * EACH / 100 / job.callers);
    contender.run(&job, 1).map(drop)
}

/// A long stream, beside those.
pub fn prepare_long(contender: &Contender) -> anyhow::Result<()> {
    let mut job = contender.job(Work::Batch, 1);
    job.first = LONG_STREAM;
    job.warm = false;
    job.until.seconds = LIMIT;
    job.until.calls = Some(LONG / 100);
    contender.run(&job, 1).map(drop)
}
