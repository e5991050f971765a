//! Commands on their way: one of an instance at a time, in order, those of several instances at the same time.
//!
//! Nothing is written here. A command is sent until its answer is definite, under a key that never changes; who loses its
//! answers sends it again, and it still acts once. One that meets an outage is sent again for ever. One that fails for a
//! reason that time does not mend is held after a few tries: an operator has to look at it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use es_core::command::{NamedDone, SendError, Sender};
use es_core::id::Ids;
use es_core::store::Row;
use es_core::{ErrorKind, chain};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::data::Data;
use crate::instance::cut;
use crate::process::Rejected;
use crate::rows::Sending;

/// How many commands of a range are handled at once.
const AT_ONCE: usize = 64;
/// The first and the longest pause before a command is sent again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How often it is sent before that is shown; and before it is held, if that does not help.
const TRIES: u32 = 5;

/// A command and what it came to.
pub(crate) type Sent = (Row<Sending>, Came);

/// What a command came to.
#[derive(Debug)]
pub(crate) enum Came {
    /// An answer: why it was refused, if it was.
    Answer(Option<Rejected<Data>>),
    /// None so far. `held`: to send it again does not help.
    Trouble { error: String, attempts: u32, held: bool },
}

/// Commands on their way.
pub(crate) struct Outbox {
    sender: Sender,
    ids: Ids,
    wake: Arc<Notify>,
    slots: Arc<Semaphore>,
    /// By instance: what waits behind the command that is on its way.
    behind: HashMap<Uuid, VecDeque<Row<Sending>>>,
    queued: usize,
    /// Instances with a command that is held: theirs are only in the store.
    held: HashSet<Uuid>,
    tasks: JoinSet<Sent>,
}

impl Outbox {
    /// `wake` is told of each answer.
    pub(crate) fn new(sender: Sender, ids: Ids, wake: Arc<Notify>) -> Self {
        let (slots, tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        Self { sender, ids, wake, slots, behind: HashMap::new(), queued: 0, held: HashSet::new(), tasks }
    }

    /// How many commands it has in memory.
    pub(crate) fn len(&self) -> usize {
        self.tasks.len() + self.queued
    }

    /// Another command is sent, after those of its instance that were put in before; not before one that is held.
    pub(crate) fn push(&mut self, row: Row<Sending>) {
        let id = row.value.send.id;
        if row.value.is_held() {
            self.held.insert(id);
        }
        if self.held.contains(&id) {
            return;
        }
        match self.behind.get_mut(&id) {
            Some(behind) => {
                behind.push_back(row);
                self.queued += 1;
            }
            None => {
                self.behind.insert(id, VecDeque::new());
                self.begin(row);
            }
        }
    }

    /// The command of an instance that is on its way is sent further on.
    pub(crate) fn begin(&mut self, row: Row<Sending>) {
        let (sender, ids, wake) = (self.sender.clone(), self.ids.clone(), self.wake.clone());
        let slots = self.slots.clone();
        self.tasks.spawn(async move {
            let came = answer(&sender, &ids, &slots, &row.value).await;
            wake.notify_one();
            (row, came)
        });
    }

    /// The command of an instance that is on its way is held.
    pub(crate) fn hold(&mut self, id: Uuid) {
        self.held.insert(id);
        self.queued -= self.behind.remove(&id).map_or(0, |behind| behind.len());
    }

    /// A command of an instance cannot be sent: what is put in from now on is only in the store.
    pub(crate) fn stop_at(&mut self, id: Uuid) {
        self.held.insert(id);
    }

    /// Whether a command of an instance is held.
    pub(crate) fn is_held(&self, id: Uuid) -> bool {
        self.held.contains(&id)
    }

    /// The commands of an instance may be put in again.
    pub(crate) fn release(&mut self, id: Uuid) {
        self.held.remove(&id);
    }

    /// What has come, at most so many. What waits behind an answer is sent.
    pub(crate) fn came(&mut self, most: usize) -> Vec<Sent> {
        let mut all = Vec::new();
        while all.len() < most
            && let Some(Ok((row, came))) = self.tasks.try_join_next()
        {
            if matches!(came, Came::Answer(_)) {
                self.next_of(row.value.send.id);
            }
            all.push((row, came));
        }
        all
    }

    fn next_of(&mut self, id: Uuid) {
        match self.behind.get_mut(&id).and_then(VecDeque::pop_front) {
            Some(next) => {
                self.queued -= 1;
                self.begin(next);
            }
            None => drop(self.behind.remove(&id)),
        }
    }
}

/// Sends a command until its answer is definite, or there is trouble to be noted.
async fn answer(sender: &Sender, ids: &Ids, slots: &Semaphore, sending: &Sending) -> Came {
    let Sending { send, metadata, trouble } = sending;
    let key = format!("process/{}/{}/{}", send.id, send.input, send.ordinal);
    let (mut pause, mut attempts, mut in_vain) = (PAUSE.0, 0_u32, 0);
    loop {
        let slot = slots.acquire().await.expect("it is never closed");
        let sent =
            sender.send_named(send.command.clone()).idempotency_key(&key).metadata(metadata.clone()).await;
        drop(slot);
        let error = match definite(sent) {
            Ok(answer) => return Came::Answer(answer),
            Err(error) => error,
        };
        let (instance, command, text) = (&send.key, &send.command.name, chain(&error));
        tracing::warn!(instance, command, error = text, "a command is sent again");
        attempts = attempts.saturating_add(1);
        in_vain = if is_for_good(&error) { in_vain + 1 } else { 0 };
        let held = in_vain >= TRIES;
        // That it is unknown is for people to see at once.
        let shown = attempts == TRIES || matches!(error, SendError::UnknownCommand { .. });
        if held || shown && trouble.is_none() {
            return Came::Trouble { error: cut(&text), attempts, held };
        }
        tokio::time::sleep(pause.mul_f64(0.5 + ids.fraction() / 2.0)).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Whether time alone does not mend it. A command that this program does not know may be known to the next one.
const fn is_for_good(error: &SendError) -> bool {
    !matches!(error, SendError::UnknownCommand { .. })
        && matches!(error.kind(), ErrorKind::Misuse | ErrorKind::Corrupt)
}

/// What an outcome means, if it is one.
fn definite(sent: Result<NamedDone, SendError>) -> Result<Option<Rejected<Data>>, SendError> {
    match sent {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Refused => Ok(Some(match error.refusal().map(Data::of) {
            Some(Ok(refusal)) => Rejected::Domain(refusal),
            _ => Rejected::Otherwise(chain(&error)),
        })),
        Err(error) => Err(error),
    }
}
