//! What a worker is told to do, and what it answers: one line of JSON each way.

use serde::{Deserialize, Serialize};

/// One kind of work. A unit is what its rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Work {
    /// Tables, once for each database.
    Create,
    /// A command on an aggregate: load as the library does it, decide, append. Unit: commands.
    Command,
    /// A command that appends a hundred events. Unit: events.
    Batch,
    /// A command whose boundary is a query by tag, not a stream. Unit: commands.
    Condition,
    /// Load and fold, with nothing kept from before. Unit: events.
    Load,
    /// A table of balances from every stored event, from nothing. Unit: events.
    Rebuild,
    /// As fast as the side can fill: each unit of work is a thousand events. Unit: events.
    Fill,
    /// The same, each event in a stream of its own. Unit: events.
    Scatter,
}

/// When a worker stops.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Until {
    /// After this long, whatever is done.
    pub seconds: f64,
    /// After this many calls of each caller.
    pub calls: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub url: String,
    pub work: Work,
    pub callers: u64,
    /// Caller `c` takes aggregate `first + (c + i * callers) % span` in its call `i`.
    pub first: u64,
    pub span: u64,
    /// Each caller makes a call before the clock runs: connections are there then, and statements prepared.
    pub warm: bool,
    pub until: Until,
    /// Arrivals a second, whoever is still waiting; without it a caller goes on when it was answered.
    pub arrivals: Option<f64>,
}

impl Job {
    pub fn aggregate(&self, caller: u64, call: u64) -> u64 {
        self.first + (caller + call * self.callers) % self.span
    }
}

/// What one worker did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub calls: u64,
    pub units: u64,
    pub seconds: f64,
    /// When each thousandth call was answered, in seconds from the start.
    pub thousands: Vec<f64>,
    /// From the planned arrival to the answer, in milliseconds; only with arrivals.
    pub p50: f64,
    pub p99: f64,
    pub peak: Peak,
}

/// The most memory the process ever held, in KiB, where the system tells.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Peak(pub Option<u64>);

impl Peak {
    /// From now on, what was held before does not count (Linux).
    pub fn begin() {
        // It only tells less if that is not allowed.
        drop(std::fs::write("/proc/self/clear_refs", "5"));
    }

    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Self(line.and_then(|line| line.split_whitespace().next()?.parse().ok()))
    }

    /// In MiB; 0 where the system does not tell.
    pub fn mib(self) -> u64 {
        self.0.unwrap_or_default() / 1_024
    }
}

/// A side as its binary lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    /// Whose versions stand in the report.
    pub crates: Vec<String>,
    pub can: Vec<Work>,
    /// Whether it brings a server of its own.
    pub server: bool,
}
