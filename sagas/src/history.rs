//! What came to an instance, and what it did about it.

use std::collections::BTreeMap;

use es_core::command::NamedCommand;
use es_core::store::Position;
use es_core::{BoxError, Timestamp};

use crate::instance::{Instance, ToSend};
use crate::operate::Instances;
use crate::process::RefusedCommand;
use crate::rows::{Input, Noted};

/// Something that came to an instance, and what its handler wanted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InputStatus {
    /// When it came: its timers count from here.
    pub at: Timestamp,
    /// Where an event is in the log; of anything else, what was in the log when it came.
    pub position: Position,
    /// What came.
    pub what: Came,
    /// The commands that its handler sent.
    pub sends: Vec<NamedCommand>,
    /// The timers that were set after it, and when each is due.
    pub timers: BTreeMap<String, Timestamp>,
    /// Whether it waits, because the instance is parked.
    pub waits: bool,
}

/// What can come to an instance.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there are no other inputs of a process")]
pub enum Came {
    /// An event.
    Event,
    /// One of its commands was refused.
    Refused(RefusedCommand),
    /// The time of a timer has come.
    Elapsed {
        /// Its name.
        timer: String,
    },
}

impl From<Input> for Came {
    fn from(input: Input) -> Self {
        match input {
            Input::Event { .. } => Self::Event,
            Input::Refused { command, why, .. } => Self::Refused(RefusedCommand { command, why }),
            Input::Timer { name, .. } => Self::Elapsed { timer: name },
        }
    }
}

impl Instances {
    /// What came to an instance, in order; nothing if there is no instance of this key. Its handlers are called for it,
    /// as by [`rebuild`](Self::rebuild).
    ///
    /// # Errors
    ///
    /// It cannot be read, or a handler fails on an input that it has taken in before.
    pub async fn history(&self, key: &str) -> Result<Vec<InputStatus>, BoxError> {
        let Some(stored) = self.stored(key).await? else { return Ok(Vec::new()) };
        let mut history = Vec::new();
        let each = |noted: Noted, instance: &Instance, sends: Vec<_>| {
            // Later than the row was read.
            if history.len() as u64 >= stored.noted {
                return;
            }
            let position = match &noted.input {
                Input::Event { position, .. } => *position,
                _ => noted.head,
            };
            let timers = instance.timers.iter().filter(|(_, timer)| !timer.fired);
            history.push(InputStatus {
                at: noted.at,
                position,
                what: noted.input.into(),
                sends: sends.into_iter().map(|send: ToSend| send.command).collect(),
                timers: timers.map(|(name, timer)| (name.clone(), timer.due)).collect(),
                waits: history.len() as u64 >= stored.taken,
            });
        };
        self.folded(&stored, each).await?;
        Ok(history)
    }
}
