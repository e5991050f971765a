//! What operators ask for, of instances of a range.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::store::keys::{Key, behind};
use es_core::store::{Row, Span, StoreError, StoredRow, is_full};
use es_core::{Backend, BoxError};
use tokio::time::Instant;
use uuid::Uuid;

use super::{LOOK, ProcessSession};
use crate::damaged::{Damaged, read};
use crate::instance::Moment;
use crate::journal;
use crate::rows::{Answered, Noted, Request, Sending, Trouble, answered_key, of_instance};
use crate::verb::{Answer, Verb};

/// Requests that are done at once.
const AT_ONCE: usize = 50;
/// The longest pause before one is looked at again that could not be done.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A request that cannot be done now, since it cannot be read, or its instance cannot: it waits for a repair, or for a newer
/// program, and is looked at ever less often.
#[derive(Debug)]
pub(super) struct Left {
    until: Instant,
    pause: Duration,
}

/// What is stored of the instances that requests are about, by their ids.
#[derive(Debug, Default)]
struct Stored {
    /// The first command that was not answered: those behind it wait.
    commands: BTreeMap<Uuid, Result<Row<Sending>, Damaged>>,
    /// The next input of one that is parked.
    inputs: BTreeMap<Uuid, (u64, Result<Row<Noted>, Damaged>)>,
}

impl<B: Backend> ProcessSession<B> {
    /// Does what operators ask for. Whether there is more of it.
    pub(super) async fn take_requests(&mut self, moment: Moment) -> Result<bool, BoxError> {
        if self.asked_to.is_none() {
            let heard = self.requests.has_changed().unwrap_or_default();
            if !heard && Instant::now() < self.look {
                return Ok(false);
            }
            self.requests.mark_unchanged();
            self.look = Instant::now() + LOOK;
        }
        let table = self.tables.requests.clone();
        let mut asked = Vec::new();
        for row in self.next_requests().await? {
            let key = row.key.clone();
            match read(&table, row) {
                Ok(row) => asked.push(row),
                Err(_) => self.leave_request(key),
            }
        }
        let keys: BTreeSet<String> = asked.iter().map(|row| row.value.key.clone()).collect();
        self.load(keys.clone()).await?;
        self.load_early_of_ended(keys).await?;
        let (left, asked): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|row| self.unreadable.contains_key(&row.value.key));
        left.into_iter().for_each(|row: Row<Request>| self.leave_request(row.key));
        let mut stored = self.stored_of(&asked).await?;
        let mut later = false;
        for row in asked {
            let Request { key, verb, .. } = &row.value;
            // It takes the place of an input that fails: whether one does is seen once all were taken in and written.
            if matches!(verb, Verb::End | Verb::Skip { .. }) && self.book.is_taking_in(key) {
                later = true;
                continue;
            }
            let given_up = self.skipped(&row.value, stored.commands.get(&row.value.id));
            if let Some(command) = &given_up
                && self.may_act(command, &row.value.by).await
            {
                self.leave_request(row.key);
                continue;
            }
            self.carry_out(&row.value, given_up, moment, &mut stored)?;
            self.left.remove(&row.key);
            self.rows.push(table.delete(&row));
        }
        if later {
            self.look = Instant::now();
        }
        Ok(later || self.asked_to.is_some())
    }

    /// The next page of requests, without those that were looked at in vain a short while ago.
    async fn next_requests(&mut self) -> Result<Vec<StoredRow>, StoreError> {
        let first = || Key::in_slice(self.slices.first).prefix();
        let span = Span {
            after: self.asked_to.take().unwrap_or_else(first),
            before: Some(behind(&Key::in_slice(self.slices.last).prefix())),
            limit: AT_ONCE,
        };
        let pages = self.backend.scan_many(self.tables.requests.name(), &[span]).await?;
        let mut page = pages.into_iter().next().unwrap_or_default();
        self.asked_to = page.last().filter(|_| is_full(&page, AT_ONCE)).map(|row| row.key.clone());
        let now = Instant::now();
        page.retain(|row| self.left.get(&row.key).is_none_or(|left| left.until <= now));
        Ok(page)
    }

    fn leave_request(&mut self, key: String) {
        let left = self.left.entry(key).or_insert_with(|| Left { until: Instant::now(), pause: LOOK / 2 });
        left.pause = (left.pause * 2).min(MAX_PAUSE);
        left.until = Instant::now() + left.pause;
    }

    /// Reads the first commands of instances, and the inputs that they are parked at.
    async fn stored_of(&self, asked: &[Row<Request>]) -> Result<Stored, StoreError> {
        let ids: BTreeMap<Uuid, &str> = asked.iter().map(|row| (row.value.id, &*row.value.key)).collect();
        let first = |after: String| Span { before: Some(behind(&after)), after, limit: 1 };
        let spans: Vec<Span> = ids.iter().map(|(id, key)| first(of_instance(key, *id))).collect();
        let commands = self.backend.scan_many(self.tables.sends.name(), &spans).await?;
        let now = |(id, key): (&Uuid, &&str)| self.book.now(key).filter(|now| now.id == *id);
        let parked: Vec<_> = ids.iter().filter_map(now).filter(|now| now.parked.is_some()).collect();
        let spans = parked.iter().map(|now| journal::span(now, now.taken, 1));
        let spans = spans.collect::<Result<Vec<_>, _>>()?;
        let inputs = self.backend.scan_many(self.tables.inputs.name(), &spans).await?;
        let commands = ids.into_keys().zip(commands.into_iter().map(|page| page.into_iter().next()));
        let inputs =
            parked.iter().map(|now| now.id).zip(inputs.into_iter().map(|page| page.into_iter().next()));
        let (sends, noted) = (&self.tables.sends, &self.tables.inputs);
        Ok(Stored {
            commands: commands.filter_map(|(id, row)| Some((id, read(sends, row?)))).collect(),
            inputs: inputs
                .filter_map(|(id, row)| row.map(|row| (id, (journal::number(&row.key), read(noted, row)))))
                .collect(),
        })
    }

    /// Does what an operator asks for, and notes what became of it. `given_up` is the command that is not sent any more.
    fn carry_out(
        &mut self,
        request: &Request,
        given_up: Option<Row<Sending>>,
        moment: Moment,
        stored: &mut Stored,
    ) -> Result<(), StoreError> {
        let Request { key, id, verb, .. } = request;
        let (held, ids) = (self.held(*id, stored.commands.get(id), moment), self.ids.clone());
        let done = match (given_up, stored.inputs.remove(id)) {
            (Some(row), _) => self.give_up(&row, request, moment),
            (None, Some((number, Err(damaged)))) if matches!(verb, Verb::Skip { .. } | Verb::End) => Err(
                format!("input {number} cannot be replaced: {}; repair the row, and ask again", damaged.why),
            ),
            (None, input) => {
                let input = input.and_then(|(number, row)| Some((number, row.ok()?)));
                self.book.verb(request, moment, input, held.as_ref(), &|| ids.next())
            }
        };
        if done.is_ok() && *verb == Verb::Retry && held.is_some() {
            let rewritten = self.rewritten.values().find(|row| row.value.send.id == *id).cloned();
            let stored = || stored.commands.remove(id)?.ok().filter(|row| row.value.is_held());
            if let Some(mut row) = rewritten.or_else(stored) {
                row.value.trouble = None;
                self.rewritten.insert(row.key.clone(), row);
            }
            self.released.insert(*id, key.clone());
        }
        let answer = done.map_or_else(|why| Answer::Refused { why }, |input| Answer::Done { input });
        let answered = Answered { asked: request.clone(), done_at: moment.at, answer };
        self.rows.push(self.tables.answered.insert(answered_key(request)?, answered)?);
        Ok(())
    }

    /// Why the commands of an instance are held, if they are.
    fn held(
        &self,
        id: Uuid,
        first: Option<&Result<Row<Sending>, Damaged>>,
        moment: Moment,
    ) -> Option<Trouble> {
        if self.released.contains_key(&id) {
            return None;
        }
        let of = |row: &Row<Sending>| row.value.trouble.clone().filter(|trouble| trouble.held);
        if let Some(row) = self.rewritten.values().find(|row| row.value.send.id == id) {
            return of(row);
        }
        match first {
            Some(Ok(row)) if row.value.is_held() => of(row),
            Some(Err(damaged)) => Some(Trouble::of_damaged(damaged, moment)),
            _ if self.outbox.is_held(id) => Some(Trouble {
                since: moment.at,
                error: "a command of it cannot be read".to_owned(),
                attempts: 0,
                held: true,
            }),
            _ => None,
        }
    }
}
