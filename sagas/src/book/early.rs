//! What comes before its instance: it waits for it, and is taken in right after its start.

use es_core::{BoxError, RecordedEvent};
use uuid::Uuid;

use super::Book;
use crate::definition::RawStep;

/// Events that may wait for one instance to start.
const MAX_EARLY: usize = 1_000;

/// An event that waits for its instance.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) step: u32,
    pub(crate) event: RecordedEvent,
    /// The key and the revision of its row; `None` if it is not stored yet.
    pub(crate) row: Option<(String, u64)>,
}

impl Book {
    /// Whether it is known how many events wait for an instance.
    pub(crate) fn counts_early(&self, key: &str) -> bool {
        self.waiting.contains_key(key)
    }

    /// Puts in what waits for an instance.
    pub(crate) fn put_early(&mut self, key: &str, mut waiting: Vec<Waiting>) {
        self.waiting.remove(key);
        let kept = self.early.entry(key.to_owned()).or_default();
        let at = |waiting: &Waiting| (waiting.event.place(), waiting.step);
        waiting.retain(|stored| !kept.iter().any(|kept| at(kept) == at(stored)));
        kept.splice(0..0, waiting);
    }

    /// Whether a step starts an instance for which so many events wait that others were set aside. It comes behind those,
    /// but there is nothing that they could be handled with before it.
    pub(super) fn is_waited_for_by_too_many(&self, key: &str, of: usize, step: &RawStep<'_>) -> bool {
        let is_full = || self.early.get(key).is_some_and(|waiting| waiting.len() >= MAX_EARLY);
        of == 0 && step.starts && self.knows(key) && self.now(key).is_none() && is_full()
    }

    /// Whether something waits for the next instance of a key.
    pub(super) fn waits(&self, key: &str) -> bool {
        self.early.get(key).is_some_and(|waiting| !waiting.is_empty())
    }

    /// The event waits for the instance.
    pub(super) fn wait(&mut self, key: &str, event: &RecordedEvent, step: u32) -> Result<(), BoxError> {
        let waiting = self.early.entry(key.to_owned()).or_default();
        if waiting.len() + self.waiting.get(key).copied().unwrap_or_default() >= MAX_EARLY {
            return Err(format!("{MAX_EARLY} events wait for {key:?} to start, and no more fit").into());
        }
        waiting.push(Waiting { step, event: event.clone(), row: None });
        Ok(())
    }

    /// An event has waited for an instance that had ended before it: it is for the next one, if that is begun by it or by
    /// one before it. It is stored already, so there is room for it.
    pub(super) fn wait_behind(&mut self, key: &str, event: &RecordedEvent) -> Result<(), BoxError> {
        // Each of its steps may have been an input.
        let last = self.early.get(key).and_then(|waiting| waiting.last());
        if last.is_some_and(|last| last.event.place() >= event.place()) {
            return Ok(());
        }
        let definition = self.definitions[0].clone();
        for (nth, step) in (0_u32..).zip(definition.steps(event)?) {
            if step.keys().any(|of| of == key) && (step.starts || self.waits(key)) {
                let waiting = Waiting { step: nth, event: event.clone(), row: None };
                self.early.entry(key.to_owned()).or_default().push(waiting);
            }
        }
        Ok(())
    }

    /// What has waited for an instance is taken in.
    pub(super) fn take_early(&mut self, key: &str, id: &dyn Fn() -> Uuid) {
        let (definition, mut left) = (self.definitions[0].clone(), Vec::new());
        for waiting in self.early.remove(key).unwrap_or_default() {
            let Waiting { step: nth, event, row } = &waiting.clone();
            let steps = definition.steps(event);
            let ends = self.now(key).is_some_and(|now| !now.is_running() && !now.ended);
            let step = match &steps {
                // A program that can decode it takes it in.
                Err(_) => {
                    left.push(waiting);
                    continue;
                }
                Ok(steps) => steps.get(*nth as usize),
            };
            // The one that the start before it has begun is ending already: it goes on waiting, where it is.
            if ends && (!left.is_empty() || step.is_some_and(|step| step.starts)) {
                left.push(waiting);
                continue;
            }
            self.gone.extend(row.clone());
            if let Some(step) = step {
                drop(self.step(key, event, 0, *nth, step, id));
            }
        }
        if !left.is_empty() {
            self.early.insert(key.to_owned(), left);
        }
    }
}
