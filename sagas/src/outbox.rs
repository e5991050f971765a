//! Commands on their way: one of an instance at a time, in order, those of several instances at the same time.
//!
//! Nothing is written here. A command is sent until its answer is definite, under a key that never changes; who loses its
//! answers sends it again, and it still acts once. One that meets an outage is sent again for ever, and what its instance
//! sends after it stays in the store meanwhile: it is in nobody's way. One that fails for a reason that time does not mend is
//! held after a few tries: an operator has to look at it. What an interceptor says no to is refused after as many.
//!
//! What the store has under a command's key is its answer, whatever came back: an interceptor may have failed after it, or
//! say no by now; a newer program may write the same command in other words.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use es_core::command::{NamedDone, SendError, Sender};
use es_core::guarded::caught;
use es_core::id::Ids;
use es_core::store::{IdempotencyKey, Row};
use es_core::{BoxError, ErrorKind, EventStore, chain};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::blame::needs_a_newer_program;
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
    line: Line,
    wake: Arc<Notify>,
    /// By instance: what waits behind the command that is on its way.
    behind: HashMap<Uuid, VecDeque<Row<Sending>>>,
    queued: usize,
    /// Instances with a command that is held: theirs are only in the store.
    held: HashSet<Uuid>,
    /// Instances with a command that was in vain for a while and is sent again: all others of theirs are only in the store.
    stuck: HashSet<Uuid>,
    /// How many are sent, and have not come to anything.
    on_their_way: usize,
    came: (UnboundedSender<Sent>, UnboundedReceiver<Sent>),
    tasks: JoinSet<()>,
}

/// What commands are sent through.
#[derive(Clone)]
struct Line {
    sender: Sender,
    store: Arc<dyn EventStore>,
    ids: Ids,
    slots: Arc<Semaphore>,
}

impl Outbox {
    /// `wake` is told of each answer.
    pub(crate) fn new(sender: Sender, store: Arc<dyn EventStore>, ids: Ids, wake: Arc<Notify>) -> Self {
        let (slots, tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        let (held, stuck) = (HashSet::new(), HashSet::new());
        let line = Line { sender, store, ids, slots };
        let (behind, came) = (HashMap::new(), unbounded_channel());
        Self { line, wake, behind, queued: 0, held, stuck, on_their_way: 0, came, tasks }
    }

    /// How many commands it has in memory that are likely to leave it soon.
    pub(crate) fn len(&self) -> usize {
        (self.on_their_way + self.queued).saturating_sub(self.stuck.len())
    }

    /// Another command is sent, after those of its instance that were put in before; not before one that is held, or in vain
    /// so far.
    pub(crate) fn push(&mut self, row: Row<Sending>) {
        let id = row.value.send.id;
        if row.value.is_held() {
            self.held.insert(id);
        }
        if self.held.contains(&id) || self.stuck.contains(&id) {
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
        let id = row.value.send.id;
        if row.value.trouble.is_some() {
            self.stuck.insert(id);
            let behind = self.behind.get_mut(&id).map(std::mem::take);
            self.queued -= behind.map_or(0, |behind| behind.len());
        }
        let (line, wake, answers) = (self.line.clone(), self.wake.clone(), self.came.0.clone());
        while self.tasks.try_join_next().is_some() {}
        self.on_their_way += 1;
        self.tasks.spawn(async move {
            let came = caught(line.answer(&row.value)).await.unwrap_or_else(|panic| {
                // The texts of errors are the user's code.
                Came::Trouble { error: cut(&chain(&*panic.boxed())), attempts: 1, held: true }
            });
            // In this order: who is woken finds it.
            let _nobody_asks = answers.send((row, came));
            wake.notify_one();
        });
    }

    /// The command of an instance that is on its way is held.
    pub(crate) fn hold(&mut self, id: Uuid) {
        self.held.insert(id);
        self.stuck.remove(&id);
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

    /// The command of an instance is answered. Whether the others of it are only in the store.
    pub(crate) fn goes_on(&mut self, id: Uuid) -> bool {
        self.stuck.remove(&id)
    }

    /// What has come, at most so many. What waits behind an answer is sent.
    pub(crate) fn came(&mut self, most: usize) -> Vec<Sent> {
        let mut all = Vec::new();
        while all.len() < most
            && let Ok((row, came)) = self.came.1.try_recv()
        {
            self.on_their_way -= 1;
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

/// Why a command has no answer yet.
struct Failed {
    text: String,
    /// Time alone does not mend it.
    for_good: bool,
    /// People are to see it at once.
    shown: bool,
    /// It is an answer, if it stays so: an interceptor says no, or has failed.
    is_answer: bool,
}

impl Failed {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), for_good: false, shown: false, is_answer: false }
    }
}

impl Line {
    /// Sends a command until its answer is definite, or there is trouble to be noted.
    async fn answer(&self, sending: &Sending) -> Came {
        let (mut pause, mut attempts, mut in_vain) = (PAUSE.0, 0_u32, 0);
        loop {
            let Failed { text, for_good, shown, is_answer } = match self.send(sending).await {
                Ok(answer) => return Came::Answer(answer),
                Err(failed) => failed,
            };
            let (instance, command) = (&sending.send.key, &sending.send.command.name);
            tracing::warn!(instance, command, error = text, "a command is sent again");
            attempts = attempts.saturating_add(1);
            in_vain = if for_good { in_vain + 1 } else { 0 };
            let held = in_vain >= TRIES;
            if held && is_answer {
                return Came::Answer(Some(Rejected::Intercepted(text)));
            }
            if held || (shown || attempts == TRIES) && sending.trouble.is_none() {
                return Came::Trouble { error: cut(&text), attempts, held };
            }
            tokio::time::sleep(pause.mul_f64(0.5 + self.ids.fraction() / 2.0)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Sends it once: why it was refused, if it was.
    async fn send(&self, sending: &Sending) -> Result<Option<Rejected<Data>>, Failed> {
        let Sending { send, metadata, .. } = sending;
        let key = format!("process/{}/{}/{}", send.id, send.input, send.ordinal);
        let slot = self.slots.acquire().await.expect("it is never closed");
        let sent =
            self.sender.send_named(send.command.clone()).idempotency_key(&key).metadata(metadata.clone());
        // Interceptors, ids and payloads are the user's code, too.
        let sent = caught(sent.into_future()).await;
        drop(slot);
        let error = match sent {
            Ok(Ok(NamedDone { .. })) => return Ok(None),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(Failed { for_good: true, ..Failed::new("a panic while it was sent") });
            }
        };
        if let Some(refusal) = error.refusal() {
            let refusal = Data::of(refusal).map(Rejected::Domain);
            return Ok(Some(refusal.unwrap_or_else(|_| Rejected::Otherwise(chain(&error)))));
        }
        if error.kind() != ErrorKind::Transient {
            match self.outcome(&key).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) if matches!(error, SendError::Intercepted { .. }) => {
                    return Err(Failed { for_good: true, is_answer: true, ..Failed::new(chain(&error)) });
                }
                Ok(None) if error.kind() == ErrorKind::Refused => {
                    return Ok(Some(Rejected::Otherwise(chain(&error))));
                }
                Ok(None) => {}
                Err(unread) => return Err(Failed::new(chain(&*unread))),
            }
        }
        let unknown = needs_a_newer_program(&error);
        let for_good = !unknown && matches!(error.kind(), ErrorKind::Misuse | ErrorKind::Corrupt);
        Err(Failed { for_good, shown: unknown, ..Failed::new(chain(&error)) })
    }

    /// What the store has under the key of a command: it was answered before. Why it was refused, if it was.
    async fn outcome(&self, key: &str) -> Result<Option<Option<Rejected<Data>>>, BoxError> {
        let Some(outcome) = self.store.outcome(&IdempotencyKey::new(key)?).await? else { return Ok(None) };
        let refusal = outcome.refusal.map(|refusal| serde_json::from_slice(&refusal)).transpose()?;
        Ok(Some(refusal.map(Rejected::Domain)))
    }
}
