//! Inputs of an instance: noted, and taken in unless others wait before them.

use std::sync::Arc;

use es_core::store::Row;
use es_core::{Metadata, chain};
use uuid::Uuid;

use super::{Book, Kept, apply, definition_of, tell_parked};
use crate::data::{Data, json_len};
use crate::definition::RawStep;
use crate::instance::{Changes, Instance, Moment, ToSend};
use crate::process::{RefusedCommand, Rejected};
use crate::rows::{Input, Instead, Noted, Request, Sending, Trouble, Waits};
use crate::verb::Verb;

impl Book {
    /// A command was answered: `why` if it was refused.
    pub(crate) fn answered(
        &mut self,
        send: &ToSend,
        why: Option<Rejected<Data>>,
        moment: Moment,
        id: &dyn Fn() -> Uuid,
    ) {
        let Some(now) = self.kept.get_mut(&send.key).and_then(Kept::changing) else { return };
        if now.id != send.id {
            return;
        }
        match why {
            None => {
                now.answered();
                self.changed(&send.key);
            }
            Some(why) => {
                let (input, ordinal, command) = (send.input, send.ordinal, send.command.clone());
                let noted = Noted::new(moment, Input::Refused { input, ordinal, command, why });
                self.input(&send.key, noted, None, None);
            }
        }
        if self.now(&send.key).is_some_and(|now| now.ended) {
            // What would begin it again has waited for this.
            self.take_early(&send.key, id);
        }
    }

    /// The time of a timer has come. `false` if it was cleared, or set anew: then it is history.
    pub(crate) fn fired(&mut self, waits: &Waits, moment: Moment) -> bool {
        let Waits { key, id, name, input, ordinal } = waits;
        let Some(now) = self.kept.get_mut(key).and_then(Kept::changing) else { return false };
        if now.id != *id || now.timer(name, *input, *ordinal).is_none_or(|timer| timer.fired) {
            return false;
        }
        let input = Input::Timer { name: name.clone(), input: *input, ordinal: *ordinal };
        self.input(key, Noted::new(moment, input), None, None);
        true
    }

    /// Whether the row of a timer goes with what waits for the flush: its instance has it as it is stored.
    pub(crate) fn clears(&self, waits: &Waits) -> bool {
        let Waits { key, id, name, input, ordinal } = waits;
        let stored =
            self.kept.get(key).and_then(|kept| kept.stored.as_deref()).filter(|stored| stored.id == *id);
        let timer = stored.and_then(|stored| stored.timers.get(name));
        timer.is_some_and(|timer| (timer.input, timer.ordinal) == (*input, *ordinal) && !timer.fired)
    }

    /// An operator wants something done to an instance. `next`: the input that it is parked before, as it is stored; `held`: why
    /// a command of it is not sent; `of_next`: ids of instances that begin. Gives the number of the input that it becomes.
    ///
    /// # Errors
    ///
    /// Why it is not done, and what to do.
    pub(crate) fn verb(
        &mut self,
        request: &Request,
        moment: Moment,
        next: Option<(u64, Row<Noted>)>,
        held: Option<&Trouble>,
        of_next: &dyn Fn() -> Uuid,
    ) -> Result<u64, String> {
        let Request { key, id, verb, by, .. } = request;
        let Some(now) = self.incarnation(key, *id) else {
            return Err("there is no such instance any more: look the key up again".to_owned());
        };
        verb.fits(now, held.is_some(), None)?;
        let instead = match verb {
            Verb::Skip { .. } => Some(Instead::Skip),
            Verb::End => Some(Instead::End(moment.head)),
            _ => None,
        };
        if matches!(verb, Verb::Retry | Verb::Skip { .. } | Verb::End) {
            let next = next.filter(|(number, _)| now.parked.is_some() && *number == now.taken + 1);
            now.unpark();
            if let (Some(instead), Some((_, mut row))) = (instead, next) {
                row.value.instead = Some(instead);
                self.take(key, &row.value, None, None);
                self.marked.push(row);
            }
        }
        let now = self.incarnation(key, *id).ok_or("there is no such instance any more")?;
        if let (Some(trouble), true) = (held, *verb != Verb::Retry) {
            now.park_for_command(&trouble.error, trouble.attempts, trouble.since);
        }
        let input = match verb {
            Verb::Fire { timer } => {
                let set = now.timers.get(timer).ok_or("there is no such timer")?;
                Input::Timer { name: timer.clone(), input: set.input, ordinal: set.ordinal }
            }
            verb => Input::Verb(verb.clone()),
        };
        let number = now.noted + 1;
        self.input(key, Noted { by: Some(by.clone()), ..Noted::new(moment, input) }, None, None);
        if self.now(key).is_some_and(|now| now.ended) {
            // What would begin it again has waited for this.
            self.take_early(key, of_next);
        }
        Ok(number)
    }

    /// Whether a handler takes that a command was refused.
    pub(crate) fn takes_refusal(&self, send: &ToSend, why: &Rejected<Data>) -> bool {
        let now = self.now(&send.key).filter(|now| now.id == send.id);
        let Some((now, state)) = now.and_then(|now| Some((now, now.state.as_ref()?))) else { return true };
        let refused = RefusedCommand { command: send.command.clone(), why: why.clone() };
        definition_of(&self.definitions, now)
            .is_none_or(|definition| !matches!(definition.refused(state, &refused), Ok(None)))
    }

    /// An operator gives a command up: that is a refusal. Gives the number of the input that it becomes.
    ///
    /// # Errors
    ///
    /// There is no such instance any more.
    pub(crate) fn give_up(
        &mut self,
        send: &ToSend,
        request: &Request,
        moment: Moment,
        of_next: &dyn Fn() -> Uuid,
    ) -> Result<u64, String> {
        let Some(now) = self.incarnation(&send.key, send.id) else {
            return Err("there is no such instance any more: look the key up again".to_owned());
        };
        if now.parked.as_ref().is_some_and(|parked| parked.command) {
            now.unpark();
        }
        let (number, command) = (now.noted + 1, send.command.clone());
        let why = Rejected::Otherwise(request.by.given_up());
        let input = Input::Refused { input: send.input, ordinal: send.ordinal, command, why };
        self.input(
            &send.key,
            Noted { by: Some(request.by.clone()), ..Noted::new(moment, input) },
            None,
            None,
        );
        if self.now(&send.key).is_some_and(|now| now.ended) {
            // What would begin it again has waited for this.
            self.take_early(&send.key, of_next);
        }
        Ok(number)
    }

    /// An instance, if it is this incarnation.
    fn incarnation(&mut self, key: &str, id: Uuid) -> Option<&mut Instance> {
        self.kept.get_mut(key)?.changing().filter(|now| now.id == id)
    }

    /// A command of an instance failed for good: an operator has to look at it.
    pub(crate) fn park(&mut self, key: &str, id: Uuid, trouble: &Trouble) {
        if let Some(now) = self.incarnation(key, id).filter(|now| now.parked.is_none()) {
            now.park_for_command(&trouble.error, trouble.attempts, trouble.since);
            self.changed(key);
        }
    }

    /// Another input of an instance: noted, and taken in unless others wait before it.
    pub(super) fn input(
        &mut self,
        key: &str,
        noted: Noted,
        step: Option<&RawStep<'_>>,
        metadata: Option<&Metadata>,
    ) {
        let Some(now) = self.kept.get_mut(key).and_then(Kept::changing) else { return };
        let number = now.note();
        if let Input::Refused { command, .. } = &noted.input {
            now.answered();
            self.bytes += json_len(&command.payload);
        }
        if let Input::Timer { name, input, ordinal } = &noted.input
            && let Some(timer) = now.timer(name, *input, *ordinal)
        {
            timer.fired = true;
        }
        let (id, is_next) = (now.id, now.taken + 1 == number);
        // One that is parked for a command takes what an operator wants of it.
        if is_next && (now.parked.is_none() || noted.by.is_some()) {
            self.take(key, &noted, step, metadata);
        }
        self.inputs.push((key.to_owned(), id, number, noted));
        self.changed(key);
    }

    /// An instance takes its next input in; if its handler fails, it is parked. Without code for it, it lags.
    pub(super) fn take(
        &mut self,
        key: &str,
        noted: &Noted,
        step: Option<&RawStep<'_>>,
        metadata: Option<&Metadata>,
    ) {
        let definitions = &self.definitions;
        let Some(now) = self.kept.get_mut(key).and_then(|kept| kept.now.as_mut()) else { return };
        if definition_of(definitions, now).is_none() {
            return;
        }
        let mut next = Instance::clone(now);
        match apply(definitions, &mut next, noted, step) {
            Ok(sends) => {
                let metadata = metadata.unwrap_or(&now.origin);
                let sending = |send| Sending { send, metadata: metadata.clone(), trouble: None };
                let sends: Vec<Sending> = sends.into_iter().map(sending).collect();
                self.bytes += sends.iter().map(|sending| sending.send.bytes()).sum::<usize>();
                self.sends.extend(sends);
            }
            Err(error) => {
                let error = chain(&*error);
                tell_parked(definitions[0].name(), key, &error);
                next = Instance::clone(now);
                next.park(&error, noted.at);
            }
        }
        self.beside += Changes::between(Some(now), Some(&next)).len();
        let before = std::mem::replace(now, Arc::new(next));
        let (before, after) = (&before.associations, &now.associations);
        for gone in before.difference(after) {
            self.by_association.entry(gone.clone()).or_default().remove(key);
        }
        for new in after.difference(before) {
            self.bytes += new.bytes();
            self.by_association.entry(new.clone()).or_default().insert(key.to_owned());
        }
    }

    /// An instance is not as it was.
    pub(super) fn changed(&mut self, key: &str) {
        if let Some(kept) = self.kept.get_mut(key) {
            let before = std::mem::replace(&mut kept.bytes, kept.now.as_deref().map_or(0, Instance::bytes));
            let counted = if self.touched.insert(key.to_owned()) { 0 } else { before };
            self.kept_bytes = self.kept_bytes + kept.bytes - before;
            self.touched_bytes = self.touched_bytes + kept.bytes - counted;
        }
        self.mark_lagging(key);
    }
}
