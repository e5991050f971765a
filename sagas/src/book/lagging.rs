//! Instances that have inputs to take in which have waited for them: one that was parked, or had no code.

use std::collections::BTreeMap;
use std::ops::Bound;

use es_core::store::{Position, Row};
use es_core::{BoxError, Metadata, RecordedEvent, Timestamp, chain};
use uuid::Uuid;

use super::{Book, Kept, definition_of, tell_parked};
use crate::blame::is_for_a_newer_program;
use crate::instance::Instance;
use crate::journal;
use crate::rows::{Input, Noted};

/// Which part of a commit they fill.
const CATCHING_UP: usize = 2;

impl Book {
    /// Puts in which instances have inputs to take in.
    pub(crate) fn put_lagging(&mut self, keys: impl IntoIterator<Item = String>) {
        self.lagging.extend(keys);
    }

    /// An instance cannot be read now, or its next input: whether it has inputs to take in is seen with the next session.
    pub(crate) fn leave(&mut self, key: &str) {
        self.lagging.remove(key);
    }

    /// Whether instances have inputs to take in.
    pub(crate) fn lags(&self) -> bool {
        !self.lagging.is_empty()
    }

    /// Whether an instance has inputs to take in, or one that it failed at is not stored yet.
    pub(crate) fn is_taking_in(&self, key: &str) -> bool {
        let Some(now) = self.now(key) else { return false };
        let is_next = |(of, id, number, _): &(String, Uuid, u64, Noted)| {
            of == key && *id == now.id && *number == now.taken + 1
        };
        self.lagging.contains(key) || self.inputs.iter().any(is_next)
    }

    /// Some instances that have inputs to take in: those whose turn it is.
    pub(crate) fn next_lagging(&mut self, most: usize) -> Vec<String> {
        let behind = self.lagging.range::<str, _>((Bound::Excluded(&*self.turn), Bound::Unbounded));
        let keys = behind
            .chain(self.lagging.range::<str, _>((Bound::Unbounded, Bound::Included(&*self.turn))))
            .take(most);
        let keys: Vec<String> = keys.cloned().collect();
        self.turn = keys.last().cloned().unwrap_or_default();
        keys
    }

    /// Instances are kept now that were said to have inputs to take in: those that do, with their place among them.
    pub(crate) fn look_at_lagging(&mut self, keys: &[String]) -> Vec<Instance> {
        keys.iter().for_each(|key| self.mark_lagging(key));
        let lagging = keys.iter().filter(|key| self.lagging.contains(*key));
        lagging.filter_map(|key| self.now(key)).cloned().collect()
    }

    /// An instance takes inputs in that have waited for it, as they are stored: those that come next.
    pub(crate) fn catch_up(
        &mut self,
        key: &str,
        inputs: &[(u64, Row<Noted>)],
        events: &BTreeMap<Position, RecordedEvent>,
        id: &dyn Fn() -> Uuid,
    ) {
        let mut waits = false;
        for (number, Row { value: noted, .. }) in inputs {
            let is_next = |now: &&Instance| now.lags() && now.taken + 1 == *number;
            // Answers, requests and timers come after it in the same commit.
            let Some(now) = self.now(key).filter(is_next).filter(|_| !self.fills(CATCHING_UP)) else { break };
            let position = match noted.input {
                Input::Event { position, .. } => Some(position),
                _ => None,
            };
            let event = position.and_then(|at| events.get(&at));
            let asks = journal::asks(now, noted);
            let definition = definition_of(&self.definitions, now).filter(|_| asks).cloned();
            let steps = match (definition, position, event) {
                (Some(definition), _, Some(event)) => definition.steps(event),
                (Some(_), Some(at), None) => Err(format!("there is no event at {at} any more").into()),
                _ => Ok(Vec::new()),
            };
            let Some(now) = self.now(key) else { break };
            let is_behind = |event: &&RecordedEvent| now.ends.is_some_and(|end| event.place() > end);
            let next = event.filter(is_behind).filter(|_| self.begins_again());
            let steps = steps.and_then(|steps| {
                // What it ended before may be for the next one.
                next.map_or(Ok(()), |event| self.wait_behind(key, event))?;
                Ok(steps)
            });
            match steps {
                Ok(steps) => {
                    let step = self.now(key).and_then(|now| journal::step_of(now, noted, &steps));
                    self.take(key, noted, step, event.map(Metadata::caused_by).as_ref());
                    self.changed(key);
                }
                Err(error) => {
                    waits = self.cannot_take(key, *number, &error, noted.at);
                    break;
                }
            }
        }
        if waits {
            self.leave(key);
        } else {
            self.mark_lagging(key);
        }
        if self.now(key).is_some_and(|now| now.ended) {
            self.take_early(key, id);
        }
    }

    /// An instance cannot take its next input in. Whether a newer program can: then it waits for that, else it is parked.
    fn cannot_take(&mut self, key: &str, number: u64, error: &BoxError, at: Timestamp) -> bool {
        let (waits, error) = (is_for_a_newer_program(&**error), chain(&**error));
        if waits {
            let process = self.process();
            tracing::warn!(
                process,
                instance = key,
                error,
                "an input waits for a program that can read its event"
            );
        } else {
            self.fail(key, number, &error, at);
        }
        waits
    }

    /// An instance cannot take its next input in, if that is the one with this number: it is parked.
    pub(crate) fn fail(&mut self, key: &str, number: u64, why: &str, at: Timestamp) {
        let process = self.process();
        let now = self.kept.get_mut(key).and_then(Kept::changing);
        if let Some(now) = now.filter(|now| now.lags() && now.taken + 1 == number) {
            tell_parked(process, key, why);
            now.park(why, at);
            self.changed(key);
        }
    }

    /// Whether it has inputs to take in. One without code for them has none for as long as this program runs.
    pub(super) fn mark_lagging(&mut self, key: &str) {
        let has_code = |now: &Instance| definition_of(&self.definitions, now).is_some();
        if self.now(key).is_some_and(|now| now.lags() && has_code(now)) {
            self.lagging.insert(key.to_owned());
        } else {
            self.lagging.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use es_core::command::NamedCommand;
    use es_core::testing::Log;

    use super::*;
    use crate::data::Data;
    use crate::definition::Definition;
    use crate::instance::{Moment, ToSend};
    use crate::process::Rejected;
    use crate::schedule::CallOffAll;

    fn lags(key: &str, version: u32) -> Instance {
        Instance { noted: 1, ..Instance::begin(key, Uuid::nil(), version, Metadata::default()) }
    }

    #[test]
    fn an_input_that_failed_is_being_taken_in_until_it_is_stored() {
        let (log, _guard) = Log::catch();
        let mut book = Book::new(vec![Definition::of::<crate::Schedule>()]);
        let instance = Instance { noted: 2, taken: 2, open: 1, state: Data::of(&()).ok(), ..lags("k", 1) };
        book.put("k", Some((1, instance)));
        let command = NamedCommand::of::<CallOffAll>(&"ada".to_owned(), &CallOffAll {}).unwrap();
        let send = ToSend { key: "k".to_owned(), id: Uuid::nil(), input: 1, ordinal: 0, command };
        let moment = Moment { at: Timestamp::UNIX_EPOCH, head: Position(1) };
        assert!(!book.is_taking_in("k"));
        book.answered(&send, Some(Rejected::Intercepted("no".to_owned())), moment, &Uuid::nil);
        assert!(book.now("k").unwrap().parked.is_some() && !book.lags());
        let said = log.take();
        assert!(
            matches!(&said[..], [one] if one.contains("process=\"schedule\" instance=\"k\"")),
            "{said:?}"
        );
        assert!(book.is_taking_in("k"));
        drop(book.flushed());
        assert!(!book.is_taking_in("k"));
    }

    #[test]
    fn instances_that_lag_take_turns_and_those_without_code_have_none() {
        let mut book = Book::new(vec![Definition::of::<crate::Schedule>()]);
        let keys: Vec<String> = (0..25).map(|n| format!("k{n:02}")).collect();
        book.put_lagging(keys.clone());
        let turns: Vec<String> = (0..3).flat_map(|_| book.next_lagging(10)).collect();
        assert_eq!((&turns[..25], &turns[25..]), (&keys[..], &keys[..5]));
        for (n, key) in keys.iter().enumerate() {
            book.put(key, Some((1, lags(key, if n % 5 == 0 { 9 } else { 1 }))));
        }
        assert_eq!(book.look_at_lagging(&keys).len(), 20);
        // They are not looked at again because they are not kept any more.
        book.forget((0, 0));
        assert_eq!(book.next_lagging(100).len(), 20);
        for key in &keys {
            book.leave(key);
        }
        assert!(!book.lags() && book.next_lagging(1).is_empty());
    }
}
