//! What a test and a program say to each other: a line of JSON each, on standard input and output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the test asks for. The end of the input means [`Stop`](Self::Stop).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "both sides are built together")]
pub enum Order {
    /// Send so many commands.
    Send {
        /// How many.
        commands: usize,
        /// Also such as write what the program before cannot read.
        unreadable_before: bool,
    },
    /// Compare all projections with a plain fold of the log.
    Check,
    /// Say what is parked or skipped.
    Parked,
    /// Wait until no newer program works on the projections of this one.
    TakeBack,
    /// Shut down.
    Stop,
}

/// What a program says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "both sides are built together")]
pub enum Report {
    /// The app has started.
    Started,
    /// `App::ready` has become true.
    Ready,
    /// Why it is not ready yet, said from time to time.
    NotReady(String),
    /// The commands were sent.
    Sent {
        /// How many were done.
        done: usize,
        /// How many the domain refused, or lost to others.
        refused: usize,
        /// How many failed, for an event of the aggregate is one of a newer program.
        unreadable: usize,
    },
    /// All projections equal the fold.
    Checked {
        /// How many rows of each were compared.
        rows: BTreeMap<String, usize>,
        /// How many were left out, for they have changed since.
        left_out: usize,
    },
    /// What is parked or skipped, by processor; nothing, if all is well.
    Parked(BTreeMap<String, Vec<String>>),
    /// This program works on its projections.
    TookBack,
    /// Something else than was asked for.
    Failed(String),
}
