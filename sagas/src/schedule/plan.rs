//! What an owner has planned: the facts that the schedule works by.

use std::collections::BTreeMap;

use es_core::command::NamedCommand;
use es_core::{Aggregate, Apply, Context, Event, StreamId, Timestamp, commands};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::data::json_len;

/// How much an owner may have planned at once.
const MOST: usize = 1_000;
/// For how long it is remembered that something was planned, once its time has come: so long it can be called off, though
/// it may have happened.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// Longest name and owner, together, in bytes.
const MAX_NAMES: usize = 250;

/// Longest command, in bytes: what an instance of a process keeps of its timers, less what names it.
const MAX_COMMAND: usize = 200 * 1024;

/// Whose plans a stream has.
pub(super) fn owner(stream: &StreamId) -> &str {
    stream.as_str().split_once('-').map_or("", |(_, owner)| owner)
}

/// A command is to be sent at a time. If something with this name was planned, this takes its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Planned {
    /// Names it among those of its owner.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// The command.
    pub command: NamedCommand,
    /// When it was planned.
    pub since: Timestamp,
}

/// These are not to be sent, if they were not yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CalledOff {
    /// Their names.
    pub names: Vec<String>,
}

/// What an owner decides.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "schedule")]
#[non_exhaustive]
pub enum PlanEvent {
    /// A command is to be sent.
    Planned(Planned),
    /// Some are not.
    CalledOff(CalledOff),
}

/// What one owner has planned.
///
/// Stored as a snapshot: another shape is another version of it.
#[derive(Aggregate, Clone, Debug, Default, Serialize, Deserialize)]
#[aggregate(name = "schedule", id = String, event = PlanEvent, error = PlanError, snapshot(every = 200))]
#[non_exhaustive]
pub struct Plans {
    /// When each is due; what was due long ago is forgotten, and the oldest of what is over if that is much.
    open: BTreeMap<String, Timestamp>,
}

/// Why a command cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The name or the owner cannot be one.
    #[error(
        "{0:?} cannot name what is scheduled: a name has no `/`, and with its owner 1 to {MAX_NAMES} bytes"
    )]
    Name(String),
    /// So much is planned already.
    #[error(
        "{MOST} commands are planned for this owner already: give each its own, or an owner to fewer of them"
    )]
    TooMany,
    /// It waits with all that an instance keeps, which is bounded.
    #[error("the command has {0} bytes as JSON, and one that is scheduled has {MAX_COMMAND} at most")]
    TooLarge(usize),
}

impl Apply for Plans {
    fn apply(&mut self, event: &PlanEvent) {
        match event {
            PlanEvent::Planned(Planned { name, at, since, .. }) => {
                self.open.retain(|_, due| is_remembered(*due, *since));
                self.forget(*since);
                self.open.insert(name.clone(), *at);
            }
            PlanEvent::CalledOff(CalledOff { names }) => {
                self.open.retain(|name, _| !names.contains(name));
            }
        }
    }
}

impl Plans {
    /// Of those whose time has come, as many are remembered as can wait: the latest.
    fn forget(&mut self, now: Timestamp) {
        let over = |(_, due): &(&String, &Timestamp)| **due <= now;
        let more = self.open.iter().filter(over).count().saturating_sub(MOST);
        if more == 0 {
            return;
        }
        let mut oldest: Vec<_> =
            self.open.iter().filter(over).map(|(name, due)| (*due, name.clone())).collect();
        oldest.sort_unstable();
        for (_, name) in oldest.drain(..more) {
            self.open.remove(&name);
        }
    }
}

fn is_remembered(due: Timestamp, now: Timestamp) -> bool {
    now.duration_since(due) < REMEMBERED
}

/// Plans a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Names it among those of its owner.
    pub name: String,
    /// When it is to be sent; at once, if that is over.
    pub at: Timestamp,
    /// The command.
    pub command: NamedCommand,
}

/// Calls one off, if it is planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallOff {
    /// Its name.
    pub name: String,
}

/// Calls everything off that the owner has planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallOffAll {}

#[commands]
impl Plans {
    #[create_if_missing]
    fn plan(&self, cmd: Plan, ctx: &Context) -> Result<Planned, PlanError> {
        let Plan { name, at, command } = cmd;
        let owner = owner(ctx.stream());
        if name.is_empty() || name.contains(['/', '\0']) || name.len() + owner.len() > MAX_NAMES {
            return Err(PlanError::Name(name));
        }
        let bytes = json_len(&command.payload);
        if bytes > MAX_COMMAND {
            return Err(PlanError::TooLarge(bytes));
        }
        let since = ctx.now();
        let waiting = self.open.iter().filter(|(of, due)| **of != name && **due > since);
        if waiting.count() >= MOST {
            return Err(PlanError::TooMany);
        }
        Ok(Planned { name, at, command, since })
    }

    #[create_if_missing]
    fn call_off(&self, cmd: CallOff) -> Result<Option<CalledOff>, PlanError> {
        Ok(self.open.contains_key(&cmd.name).then(|| CalledOff { names: vec![cmd.name] }))
    }

    #[create_if_missing]
    fn call_off_all(&self, _: CallOffAll) -> Result<Option<CalledOff>, PlanError> {
        let names: Vec<String> = self.open.keys().cloned().collect();
        Ok((!names.is_empty()).then_some(CalledOff { names }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_pinned() {
        let planned = r#"{"name":"close","at":"2026-12-27T00:00:00Z","command":{"aggregate":"account","id":"ada","name":"close","payload":{}},"since":"2026-11-27T00:00:00Z"}"#;
        let read: Planned = serde_json::from_str(planned).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), planned);
        let plans = r#"{"open":{"close":"2026-12-27T00:00:00Z"}}"#;
        let read: Plans = serde_json::from_str(plans).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), plans);
        let off = r#"{"names":["close"]}"#;
        let read: CalledOff = serde_json::from_str(off).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), off);
    }
}
