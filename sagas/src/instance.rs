//! An instance of a process, as a pure state machine: an instance and an input give an instance and commands to send.
//!
//! No IO, no clock, no ids. What its rows are follows from the instance before and the one after ([`Changes`]).

use std::collections::{BTreeMap, BTreeSet};

use es_core::command::NamedCommand;
use es_core::store::Position;
use es_core::{BoxError, Metadata, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::data::{Data, json_len};
use crate::definition::Reply;
use crate::next::{Association, Effect};

/// Effects of one call of a handler.
const MAX_EFFECTS: usize = 1_000;
/// Bytes of a state.
const MAX_STATE: usize = 64 * 1024;
/// Bytes of an association's value, and of its name.
const MAX_VALUE: usize = 1_000;
const MAX_NAME: usize = 255;
/// Associations and timers of an instance, each, and bytes of them: they are written with each change of it.
const MAX_KEPT: usize = 1_000;
const MAX_KEPT_BYTES: usize = 256 * 1024;
/// Bytes of the commands of one call of a handler.
const MAX_SENT: usize = 2 << 20;
/// Entries that a map has room for at once.
const ROOM: usize = 11;
/// Bytes of an error that are kept.
const MAX_ERROR: usize = 4_000;

/// An instance, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// The text of its key.
    pub(crate) key: String,
    /// Of this incarnation. Never used again: idempotency keys are made of it.
    pub(crate) id: Uuid,
    /// Of its definition.
    pub(crate) version: u32,
    /// The flow that it belongs to: commands that no event leads to carry it.
    pub(crate) origin: Metadata,
    /// How many inputs it has; each has a number, from 1.
    pub(crate) noted: u64,
    /// How many of them are taken in; fewer only while it is parked.
    pub(crate) taken: u64,
    /// Commands that were not answered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) open: u64,
    /// How often the input that it takes next was tried; counted once it was to be tried again.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub(crate) tried: u32,
    /// It takes no more events and timers: a handler said so when everything up to here was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ends: Option<Position>,
    /// It has ended: its commands are answered, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ended: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parked: Option<Parked>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) timers: BTreeMap<String, SetTimer>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) associations: BTreeSet<Association>,
    /// `None` before its first input is taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<Data>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_nothing(n: &u32) -> bool {
    *n == 0
}

/// Why an instance waits for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parked {
    pub(crate) since: Timestamp,
    pub(crate) error: String,
    /// How often the input was tried.
    pub(crate) attempts: u32,
    /// Not an input failed, but a command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) command: bool,
}

/// A timer that is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SetTimer {
    pub(crate) due: Timestamp,
    /// The input that set it, and which of its effects it is: a timer that was set again is another one.
    pub(crate) input: u64,
    pub(crate) ordinal: u32,
    pub(crate) data: Data,
    /// Its time has come, and that is noted: it is not in the queue any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fired: bool,
}

/// A command that is to be sent: by whom, and its place among all that the instance sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ToSend {
    pub(crate) key: String,
    pub(crate) id: Uuid,
    pub(crate) input: u64,
    pub(crate) ordinal: u32,
    pub(crate) command: NamedCommand,
}

impl ToSend {
    /// How many bytes it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        json_len(&self.command.payload)
    }
}

/// When something comes to an instance: the time of the input, and up to where the log was handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) head: Position,
}

impl Instance {
    pub(crate) fn begin(key: impl Into<String>, id: Uuid, version: u32, origin: Metadata) -> Self {
        Self {
            key: key.into(),
            id,
            version,
            origin,
            noted: 0,
            taken: 0,
            open: 0,
            tried: 0,
            ends: None,
            ended: false,
            parked: None,
            timers: BTreeMap::new(),
            associations: BTreeSet::new(),
            state: None,
        }
    }

    /// Whether it takes events and timers.
    pub(crate) const fn is_running(&self) -> bool {
        self.ends.is_none()
    }

    /// Whether inputs wait for it, and nobody is to be asked before it takes them.
    pub(crate) const fn lags(&self) -> bool {
        self.parked.is_none() && self.taken < self.noted
    }

    fn bytes_of_timers(&self) -> usize {
        self.timers.values().map(|timer| timer.data.text().len()).sum()
    }

    fn bytes_of_associations(&self) -> usize {
        self.associations.iter().map(Association::bytes).sum()
    }

    /// How many bytes it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let state = self.state.as_ref().map_or(0, |state| state.text().len());
        let timers = map::<(String, SetTimer)>(self.timers.len()) + self.bytes_of_timers();
        let associations = map::<Association>(self.associations.len()) + self.bytes_of_associations();
        size_of::<Self>() + self.key.len() + texts(&self.origin) + state + timers + associations
    }

    /// Another input of it: gives its number.
    pub(crate) const fn note(&mut self) -> u64 {
        self.noted += 1;
        self.noted
    }

    /// Takes in what the handler of its next input came to.
    ///
    /// # Errors
    ///
    /// It is over a limit; the instance is of no use then.
    pub(crate) fn take(&mut self, reply: Reply, moment: Moment) -> Result<Vec<ToSend>, BoxError> {
        let Reply { state, effects, ends } = reply;
        within("the state", state.text().len(), MAX_STATE, "bytes")?;
        within("what a handler wants to happen", effects.len(), MAX_EFFECTS, "effects")?;
        (self.taken, self.tried) = (self.taken + 1, 0);
        self.state = Some(state);
        let (input, mut sends, mut sets) = (self.taken, Vec::new(), false);
        for (ordinal, effect) in (0_u32..).zip(effects) {
            match effect {
                Effect::Send(command) => {
                    let (key, id) = (self.key.clone(), self.id);
                    sends.push(ToSend { key, id, input, ordinal, command });
                }
                Effect::Set { name, after, data } => {
                    let due = moment.at.checked_add(after);
                    let due =
                        due.map_err(|e| format!("timer {name:?} is due at no time that there is: {e}"))?;
                    let timer = SetTimer { due, input, ordinal, data, fired: false };
                    sets = true;
                    self.timers.insert(name.to_owned(), timer);
                }
                Effect::Clear(name) => drop(self.timers.remove(name)),
                Effect::Associate(association) => self.associate(association)?,
                Effect::Dissociate(association) => drop(self.associations.remove(&association)),
            }
        }
        within("what a handler sends", sends.iter().map(ToSend::bytes).sum(), MAX_SENT, "bytes")?;
        // It may have more of them since before there was a limit.
        if sets {
            within("an instance", self.timers.len(), MAX_KEPT, "timers")?;
            within("what the timers of an instance hold", self.bytes_of_timers(), MAX_KEPT_BYTES, "bytes")?;
        }
        self.open += sends.len() as u64;
        if ends {
            self.ends = self.ends.or(Some(moment.head));
        }
        self.settle();
        Ok(sends)
    }

    /// From now on it is found by this, too.
    ///
    /// # Errors
    ///
    /// It is too long, or there are too many.
    pub(crate) fn associate(&mut self, association: Association) -> Result<(), BoxError> {
        within("the name of an association", association.name.len(), MAX_NAME, "bytes")?;
        within("the value of an association", association.value.len(), MAX_VALUE, "bytes")?;
        self.associations.insert(association);
        within("an instance", self.associations.len(), MAX_KEPT, "associations")?;
        within("the associations of an instance", self.bytes_of_associations(), MAX_KEPT_BYTES, "bytes")
    }

    /// An input is passed: nobody is asked.
    pub(crate) fn pass(&mut self) {
        (self.taken, self.tried) = (self.taken + 1, 0);
        self.settle();
    }

    /// A command of it was answered.
    pub(crate) fn answered(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.settle();
    }

    /// The handler of its next input failed.
    pub(crate) fn park(&mut self, error: &str, at: Timestamp) {
        let attempts = self.tried.saturating_add(1);
        self.parked = Some(Parked { since: at, error: cut(error), attempts, command: false });
    }

    /// A command of it failed, so often.
    pub(crate) fn park_for_command(&mut self, error: &str, attempts: u32, at: Timestamp) {
        let parked = Parked { since: at, error: cut(error), attempts, command: true };
        self.parked.get_or_insert(parked);
    }

    /// What waits is to be taken.
    pub(crate) fn unpark(&mut self) {
        let of_input = self.parked.take().filter(|parked| !parked.command);
        self.tried = of_input.map_or(self.tried, |parked| parked.attempts);
    }

    /// A timer of it whose time has come; `None` if it was cleared, or set anew.
    pub(crate) fn timer(&mut self, name: &str, input: u64, ordinal: u32) -> Option<&mut SetTimer> {
        self.timers.get_mut(name).filter(|timer| (timer.input, timer.ordinal) == (input, ordinal))
    }

    /// Whether it has ended by now.
    pub(crate) fn settle(&mut self) {
        if self.ends.is_some() {
            self.timers.clear();
            self.associations.clear();
            self.ended = self.open == 0 && self.taken == self.noted && self.parked.is_none();
        }
    }
}

fn texts(of: &Metadata) -> usize {
    let Metadata { actor, tenant, trace_parent, trace_state, user, .. } = of;
    let texts = [actor, tenant, trace_parent, trace_state].into_iter().flatten();
    texts.chain(user.keys()).chain(user.values()).map(String::len).sum()
}

/// How many bytes a map takes, or a set, beside what its entries point to: it has room for some, however few there are.
const fn map<T>(entries: usize) -> usize {
    entries.next_multiple_of(ROOM) * size_of::<T>()
}

/// As much of an error as is kept.
pub(crate) fn cut(error: &str) -> String {
    error[..error.floor_char_boundary(MAX_ERROR)].to_owned()
}

fn within(what: &str, actual: usize, limit: usize, unit: &str) -> Result<(), BoxError> {
    if actual <= limit {
        return Ok(());
    }
    Err(format!("{what} has {actual} {unit}, over the limit of {limit}").into())
}

/// What differs between an instance as it is stored and as it is now.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes<'i> {
    pub(crate) set: Vec<(&'i str, &'i SetTimer)>,
    pub(crate) cleared: Vec<&'i SetTimer>,
    pub(crate) associated: Vec<&'i Association>,
    pub(crate) dissociated: Vec<&'i Association>,
}

impl<'i> Changes<'i> {
    /// How many rows change.
    pub(crate) const fn len(&self) -> usize {
        self.set.len() + self.cleared.len() + self.associated.len() + self.dissociated.len()
    }

    /// `None`: there is none. Both are of one incarnation.
    pub(crate) fn between(before: Option<&'i Instance>, after: Option<&'i Instance>) -> Self {
        let mut changes = Self::default();
        let queued = |instance: Option<&'i Instance>| -> BTreeMap<&'i str, &'i SetTimer> {
            let timers = instance.into_iter().flat_map(|instance| &instance.timers);
            timers.filter(|(_, timer)| !timer.fired).map(|(name, timer)| (&**name, timer)).collect()
        };
        let (old, new) = (queued(before), queued(after));
        let only = |one: &BTreeMap<&'i str, &'i SetTimer>, other: &BTreeMap<&'i str, &'i SetTimer>| {
            let only = one.iter().filter(|(name, timer)| other.get(*name) != Some(timer));
            only.map(|(name, timer)| (*name, *timer)).collect::<Vec<_>>()
        };
        changes.cleared = only(&old, &new).into_iter().map(|(_, timer)| timer).collect();
        changes.set = only(&new, &old);
        let associations = |of: Option<&'i Instance>| -> BTreeSet<&'i Association> {
            of.into_iter().flat_map(|instance| &instance.associations).collect()
        };
        let (old, new) = (associations(before), associations(after));
        changes.dissociated = old.difference(&new).copied().collect();
        changes.associated = new.difference(&old).copied().collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_are_held_to_their_limit_when_one_is_set() {
        let (at, head) = (Timestamp::UNIX_EPOCH, Position(1));
        let data = |bytes: usize| Data::of(&"x".repeat(bytes)).unwrap();
        let mut of = Instance::begin("k", Uuid::nil(), 1, Metadata::default());
        let timer = SetTimer { due: at, input: 1, ordinal: 0, data: data(MAX_KEPT_BYTES), fired: false };
        of.timers.insert("of before".to_owned(), timer);
        let reply = |effects| Reply { state: data(1), effects, ends: false };
        of.clone().take(reply(Vec::new()), Moment { at, head }).unwrap();
        of.clone().take(reply(vec![Effect::Clear("another")]), Moment { at, head }).unwrap();
        let set = Effect::Set { name: "another", after: Duration::ZERO, data: data(1) };
        let error = of.take(reply(vec![set]), Moment { at, head }).unwrap_err();
        assert!(error.to_string().contains("timers"), "{error}");
    }
}
