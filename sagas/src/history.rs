//! What came to an instance, and what it did about it.

use std::collections::BTreeMap;

use es_core::command::NamedCommand;
use es_core::store::Position;
use es_core::{BoxError, Timestamp};

use crate::damaged::Damaged;
use crate::instance::{Instance, ToSend};
use crate::operate::Instances;
use crate::rows::{Input, Noted};
use crate::show::InputShown;

/// Something that came to an instance, and what its handler wanted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InputStatus {
    /// What came, and when: its timers count from there.
    pub input: InputShown,
    /// Where an event is in the log; of anything else, what was in the log when it came, or when the input before it did if
    /// it cannot be read.
    pub position: Position,
    /// The commands that its handler sent.
    pub sends: Vec<NamedCommand>,
    /// The timers that were set after it, and when each is due.
    pub timers: BTreeMap<String, Timestamp>,
    /// Whether it waits, because the instance is parked.
    pub waits: bool,
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
        let each = |number: u64, noted: Result<Noted, Damaged>, instance: &Instance, sends: Vec<_>| {
            // Later than the row was read.
            if history.len() as u64 >= stored.noted {
                return;
            }
            let position = match &noted {
                Ok(Noted { input: Input::Event { position, .. }, .. }) => *position,
                Ok(noted) => noted.head,
                Err(_) => history.last().map_or_else(Position::default, |last: &InputStatus| last.position),
            };
            let timers = instance.timers.iter().filter(|(_, timer)| !timer.fired);
            history.push(InputStatus {
                input: InputShown::of(number, noted),
                position,
                sends: sends.into_iter().map(|send: ToSend| send.command).collect(),
                timers: timers.map(|(name, timer)| (name.clone(), timer.due)).collect(),
                waits: history.len() as u64 >= stored.taken,
            });
        };
        self.folded(&stored, each).await?;
        Ok(history)
    }
}
