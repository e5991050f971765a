//! An event comes: whom it is for, and what it is to each of them.

use std::collections::BTreeSet;

use es_core::{BoxError, Metadata, RecordedEvent};
use uuid::Uuid;

use super::{Book, definition_of};
use crate::definition::{RawStep, Whom};
use crate::instance::{Instance, Moment};
use crate::process;
use crate::rows::{Input, Noted};

impl Book {
    /// An event means something to instances: those that `admits` says yes to. All that are stored and may be meant are
    /// kept.
    ///
    /// # Errors
    ///
    /// Too many events wait for this key already.
    pub(crate) fn event(
        &mut self,
        event: &RecordedEvent,
        of: usize,
        nth: u32,
        step: &RawStep<'_>,
        mut admits: impl FnMut(&str) -> bool,
        id: &dyn Fn() -> Uuid,
    ) -> Result<(), (String, BoxError)> {
        for key in self.meant_by(step) {
            if self.is_waited_for_by_too_many(&key, of, step) || admits(&key) {
                self.step(&key, event, of, nth, step, id).map_err(|error| (key, error))?;
            }
        }
        Ok(())
    }

    /// The keys that a step is for, each once.
    fn meant_by(&self, step: &RawStep<'_>) -> Vec<String> {
        let found = |association| self.by_association.get(association).into_iter().flatten().cloned();
        let (mut keys, mut seen) = (Vec::new(), BTreeSet::new());
        for whom in &step.whom {
            match whom {
                Whom::Key(key) => keys.push(key.clone()),
                Whom::Found(association) => keys.extend(found(association)),
            }
        }
        keys.retain(|key| seen.insert(key.clone()));
        keys
    }

    pub(super) fn step(
        &mut self,
        key: &str,
        event: &RecordedEvent,
        of: usize,
        nth: u32,
        step: &RawStep<'_>,
        id: &dyn Fn() -> Uuid,
    ) -> Result<(), BoxError> {
        let (version, newest, again) = (self.definitions[of].version(), of == 0, self.begins_again());
        let begins = match self.now(key) {
            None => step.starts,
            Some(Instance { ended: true, ends: Some(end), .. }) => {
                step.starts && again && event.place() > *end
            }
            Some(instance) => {
                let (has_code, lags) =
                    (definition_of(&self.definitions, instance).is_some(), instance.taken < instance.noted);
                match (instance.is_running(), again && lags) {
                    // Whether that is for this one or for the next is seen when it has taken in what waits for it.
                    (false, true) if newest => self.note_event(key, event),
                    _ if !has_code && newest => self.note_event(key, event),
                    (true, next) if instance.version == version && (next || !step.starts) => {
                        self.take_event(key, event, nth, step);
                    }
                    // What comes behind a start that waits is for the one that it begins.
                    (false, false) if has_code && newest && again && (step.starts || self.waits(key)) => {
                        self.wait(key, event, nth)?;
                    }
                    _ => {}
                }
                return Ok(());
            }
        };
        if !newest {
            return Ok(());
        }
        if begins {
            let origin = Metadata::caused_by(event);
            let kept = self.kept.entry(key.to_owned()).or_default();
            kept.now = Some(Instance::begin(key, id(), version, origin).into());
            self.take_event(key, event, nth, step);
            self.take_early(key, id);
        } else if self.now(key).is_none() && step.early == process::Early::Stash {
            self.wait(key, event, nth)?;
        }
        Ok(())
    }

    fn take_event(&mut self, key: &str, event: &RecordedEvent, nth: u32, step: &RawStep<'_>) {
        let moment = Moment { at: event.recorded_at, head: event.place() };
        let noted = Noted::new(moment, Input::Event { position: event.place(), step: Some(nth) });
        self.input(key, noted, Some(step), Some(&Metadata::caused_by(event)));
    }

    /// There is no code for the instance: the event waits for a program that has it, and which says what it means.
    fn note_event(&mut self, key: &str, event: &RecordedEvent) {
        let moment = Moment { at: event.recorded_at, head: event.place() };
        let noted = Noted::new(moment, Input::Event { position: event.place(), step: None });
        let mut before = self.inputs.iter().rev().filter(|(of, ..)| of == key);
        if before.next().is_none_or(|(_, _, _, last)| last.input != noted.input) {
            self.input(key, noted, None, None);
        }
    }
}
