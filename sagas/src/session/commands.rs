//! The commands of a range: what is stored is sent, and what it has come to is handled.

use std::collections::BTreeSet;

use es_core::store::keys::{Key, behind};
use es_core::store::{Row, Span, StoreError, StoredRow, is_full};
use es_core::{Backend, BoxError};
use tokio::time::Instant;
use uuid::Uuid;

use super::{AT_ONCE, IN_MEMORY, LOOK, PAGE, ProcessSession};
use crate::damaged::{Damaged, read};
use crate::instance::{Moment, ToSend, cut};
use crate::outbox::Came;
use crate::process::Rejected;
use crate::rows::{Request, Sending, Trouble, of_instance};
use crate::verb::{By, Verb};

impl<B: Backend> ProcessSession<B> {
    /// What was not answered is sent again, as much of it at a time as fits into memory.
    pub(super) async fn resume(&mut self, moment: Moment) -> Result<(), BoxError> {
        for (id, key) in std::mem::take(&mut self.released) {
            self.send_again(&key, id, moment).await?;
        }
        if self.left_behind && self.outbox.is_empty() && self.came.is_empty() {
            self.left_behind = false;
            self.sent_to = Some(Key::in_slice(self.slices.first).prefix());
        }
        while let Some(after) = self.sent_to.clone()
            && !self.outbox.is_full(PAGE)
        {
            let before = Some(behind(&Key::in_slice(self.slices.last).prefix()));
            let page = self.page_of_sends(Span { after, before, limit: PAGE }).await?;
            self.sent_to = page.last().map(|row| row.key.clone()).filter(|_| is_full(&page, PAGE));
            for row in self.unanswered(page) {
                match read(&self.tables.sends, row) {
                    Ok(row) => self.outbox.push(row),
                    Err(damaged) => self.stop_at(damaged, moment).await?,
                }
            }
        }
        self.send_stuck(moment).await
    }

    /// Commands that are stuck are sent again, those whose turn it is.
    async fn send_stuck(&mut self, moment: Moment) -> Result<(), BoxError> {
        let keys = self.outbox.turns();
        if keys.is_empty() {
            return Ok(());
        }
        let rows = self.backend.rows(self.tables.sends.name(), &keys).await?;
        for (key, row) in keys.iter().zip(rows) {
            match row.map(|row| read(&self.tables.sends, row)) {
                Some(Ok(row)) => self.outbox.send_again(row),
                Some(Err(damaged)) => {
                    self.outbox.is_not_sent(key);
                    self.stop_at(damaged, moment).await?;
                }
                // Nobody but this range deletes it: what is behind it is read with all others.
                None => {
                    self.outbox.is_not_sent(key);
                    self.left_behind = true;
                }
            }
        }
        Ok(())
    }

    /// The commands of an instance that was retried are only in the store.
    async fn send_again(&mut self, key: &str, id: Uuid, moment: Moment) -> Result<(), BoxError> {
        let after = of_instance(key, id);
        let span = Span { before: Some(behind(&after)), after, limit: PAGE };
        let page = self.page_of_sends(span).await?;
        let is_part = is_full(&page, PAGE);
        self.outbox.release(id);
        for row in self.unanswered(page) {
            match read(&self.tables.sends, row) {
                Ok(row) => self.send(row),
                Err(damaged) => self.stop_at(damaged, moment).await?,
            }
        }
        self.left_behind |= is_part;
        Ok(())
    }

    async fn page_of_sends(&self, span: Span) -> Result<Vec<StoredRow>, StoreError> {
        let pages = self.backend.scan_many(self.tables.sends.name(), &[span]).await?;
        Ok(pages.into_iter().next().unwrap_or_default())
    }

    /// Without those that have come to something, which is to be taken in.
    fn unanswered(&self, mut page: Vec<StoredRow>) -> Vec<StoredRow> {
        let come: BTreeSet<&String> = self.aside.iter().chain(&self.came).map(|(row, _)| &row.key).collect();
        page.retain(|row| !come.contains(&row.key));
        page
    }

    /// A command cannot be read: its instance waits for an operator, and so do the commands behind it.
    async fn stop_at(&mut self, damaged: Damaged, moment: Moment) -> Result<(), BoxError> {
        let Some(id) = damaged.id() else { return Ok(()) };
        self.outbox.stop_at(id);
        if let Some(key) = damaged.of.clone().filter(|key| self.slices.has(key)) {
            self.load([key.clone()]).await?;
            self.book.park(&key, id, &Trouble::of_damaged(&damaged, moment));
        }
        Ok(())
    }

    /// Commands that are stored are sent, unless they are read from the store later.
    pub(super) fn send(&mut self, row: Row<Sending>) {
        if self.sent_to.as_ref().is_some_and(|sent| row.key > *sent) {
            return;
        }
        self.left_behind |= self.outbox.is_full(IN_MEMORY);
        if !self.left_behind {
            self.outbox.push(row);
        }
    }

    /// Handles what commands have come to. Whether there is more of it.
    pub(super) async fn take_answers(&mut self, moment: Moment) -> Result<bool, BoxError> {
        let left = AT_ONCE - self.came.len().min(AT_ONCE);
        self.came.extend(self.outbox.came(left));
        self.look_aside();
        let more = self.came.len() >= AT_ONCE;
        let keys: BTreeSet<String> = self.came.iter().map(|(row, _)| row.value.send.key.clone()).collect();
        self.load(keys.clone()).await?;
        self.load_early_of_ended(keys).await?;
        let ids = self.ids.clone();
        while !self.is_full()
            && let Some((mut row, came)) = self.came.pop_front()
        {
            if self.unreadable.contains_key(&row.value.send.key) {
                self.aside.push((row, came));
                continue;
            }
            let came = match came {
                Came::Intercepted { error, attempts } => self.intercepted(&row.value.send, error, attempts),
                came => came,
            };
            let ToSend { key, id, command, .. } = &row.value.send;
            match came {
                Came::Intercepted { .. } => unreachable!("it has come to an answer or to trouble"),
                Came::Answer(why) => {
                    self.book.answered(&row.value.send, why, moment, &|| ids.next());
                    self.rows.push(self.tables.sends.delete(&row));
                    if self.outbox.goes_on(*id) {
                        self.released.insert(*id, key.clone());
                    }
                }
                Came::Trouble { error, attempts, held } => {
                    let (command, what) = (&command.name, if held { "held" } else { "stuck" });
                    let process = self.book.process();
                    tracing::warn!(process, instance = key, command, error, attempts, "a command is {what}");
                    let trouble = Trouble { since: moment.at, error, attempts, held };
                    if held {
                        self.book.park(key, *id, &trouble);
                    }
                    row.value.trouble = Some(trouble);
                    self.rewritten.insert(row.key.clone(), row);
                }
            }
        }
        Ok(more || !self.came.is_empty())
    }

    /// An interceptor says no to a command: that is its answer, where a handler takes that. Else it is held, for nothing else
    /// would send it ever again.
    fn intercepted(&mut self, send: &ToSend, error: String, attempts: u32) -> Came {
        let why = Rejected::Intercepted(error);
        if self.book.takes_refusal(send, &why) {
            self.outbox.next_of(send.id);
            return Came::Answer(Some(why));
        }
        let Rejected::Intercepted(error) = why else { unreachable!("it is made above") };
        Came::Trouble { error: cut(&error), attempts, held: true }
    }

    /// The first command of an instance that was not answered, if a skip means that: it is stuck, or held.
    pub(super) fn skipped(
        &self,
        request: &Request,
        first: Option<&Result<Row<Sending>, Damaged>>,
    ) -> Option<Row<Sending>> {
        let is_of = |row: &&Row<Sending>| row.value.send.id == request.id;
        let waits = self.rewritten.values().find(is_of);
        let row = waits.or_else(|| first?.as_ref().ok()).filter(|row| row.value.trouble.is_some())?;
        let is_meant = matches!(request.verb, Verb::Skip { input } if input == row.value.send.input);
        let answers = self.came.iter().chain(&self.aside);
        let is_answered = answers.into_iter().any(|(came, _)| came.key == row.key);
        (is_meant && !is_answered && !self.released.contains_key(&request.id)).then(|| row.clone())
    }

    /// Whether a command that is to be given up is being sent, or has acted though nobody was told: then what it comes to is
    /// taken in first. If not, it never acts from now on.
    pub(super) async fn may_act(&mut self, row: &Row<Sending>, by: &By) -> bool {
        if self.rewritten.contains_key(&row.key) || self.outbox.is_sent_again(&row.key) {
            return true;
        }
        match self.outbox.close(&row.value, by.given_up()).await {
            Ok(None) => false,
            Ok(Some(answer)) => {
                self.came.push_back((row.clone(), Came::Answer(answer)));
                true
            }
            Err(_) => true,
        }
    }

    /// A command is not sent any more: it is as if it had been refused.
    ///
    /// # Errors
    ///
    /// Why it is not done.
    pub(super) fn give_up(
        &mut self,
        row: &Row<Sending>,
        request: &Request,
        moment: Moment,
    ) -> Result<u64, String> {
        let ids = self.ids.clone();
        let input = self.book.give_up(&row.value.send, request, moment, &|| ids.next())?;
        self.rewritten.remove(&row.key);
        self.rows.push(self.tables.sends.delete(row));
        self.released.insert(request.id, request.key.clone());
        Ok(input)
    }

    /// What was set aside comes again now and then, and always before what came later to the same instance.
    fn look_aside(&mut self) {
        let aside: BTreeSet<&String> = self.aside.iter().map(|(row, _)| &row.value.send.key).collect();
        let follows = self.came.iter().any(|(row, _)| aside.contains(&row.value.send.key));
        if follows || Instant::now() >= self.looks_aside {
            self.looks_aside = Instant::now() + LOOK;
            for sent in std::mem::take(&mut self.aside).into_iter().rev() {
                self.came.push_front(sent);
            }
        }
    }

    /// Commands whose rows were written are sent further on, or not.
    pub(super) fn written(&mut self) {
        for row in std::mem::take(&mut self.rewritten).into_values() {
            let id = row.value.send.id;
            if self.released.contains_key(&id) {
                // With all others of its instance, as they are stored.
            } else if row.value.is_held() {
                self.outbox.hold(id);
            } else {
                self.outbox.stuck(row.written());
            }
        }
        self.released.keys().for_each(|id| self.outbox.hold(*id));
    }
}
