//! Commands on their way: one of an instance at a time, in order, those of several instances at the same time.
//!
//! Nothing is written here. A command is sent until its answer is definite, under a key that never changes; who loses its
//! answers sends it again, and it still acts once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use es_core::command::{NamedDone, SendError, Sender};
use es_core::id::Ids;
use es_core::{ErrorKind, chain};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::data::Data;
use crate::process::Rejected;
use crate::rows::Sending;

/// How many commands of a range are handled at once.
const AT_ONCE: usize = 64;
/// The first and the longest pause before a command is sent again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// A command and its answer: why it was refused, if it was.
pub(crate) type Answer = (Sending, Option<Rejected<Data>>);

/// Commands on their way.
pub(crate) struct Outbox {
    sender: Sender,
    ids: Ids,
    wake: Arc<Notify>,
    slots: Arc<Semaphore>,
    /// By instance: what waits behind the command that is on its way.
    behind: HashMap<Uuid, VecDeque<Sending>>,
    tasks: JoinSet<Answer>,
}

impl Outbox {
    /// `wake` is told of each answer.
    pub(crate) fn new(sender: Sender, ids: Ids, wake: Arc<Notify>) -> Self {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        Self { sender, ids, wake, slots, behind: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Another command is sent, after those of its instance that were put in before.
    pub(crate) fn push(&mut self, sending: Sending) {
        match self.behind.get_mut(&sending.send.id) {
            Some(behind) => behind.push_back(sending),
            None => {
                self.behind.insert(sending.send.id, VecDeque::new());
                self.begin(sending);
            }
        }
    }

    fn begin(&mut self, sending: Sending) {
        let (sender, ids, wake) = (self.sender.clone(), self.ids.clone(), self.wake.clone());
        let slots = self.slots.clone();
        self.tasks.spawn(async move {
            let answer = answer(&sender, &ids, &slots, &sending).await;
            wake.notify_one();
            (sending, answer)
        });
    }

    /// Answers that have come, at most so many. What waits behind them is sent.
    pub(crate) fn answers(&mut self, most: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        while answers.len() < most
            && let Some(Ok((sending, why))) = self.tasks.try_join_next()
        {
            let id = sending.send.id;
            answers.push((sending, why));
            match self.behind.get_mut(&id).and_then(VecDeque::pop_front) {
                Some(next) => self.begin(next),
                None => drop(self.behind.remove(&id)),
            }
        }
        answers
    }
}

/// Sends a command until its answer is definite.
async fn answer(sender: &Sender, ids: &Ids, slots: &Semaphore, sending: &Sending) -> Option<Rejected<Data>> {
    let Sending { send, metadata } = sending;
    let key = format!("process/{}/{}/{}", send.id, send.input, send.ordinal);
    let mut pause = PAUSE.0;
    loop {
        let slot = slots.acquire().await.expect("it is never closed");
        let sent =
            sender.send_named(send.command.clone()).idempotency_key(&key).metadata(metadata.clone()).await;
        drop(slot);
        match definite(sent) {
            Ok(answer) => return answer,
            Err(error) => {
                let (instance, command) = (&send.key, &send.command.name);
                tracing::warn!(instance, command, error = chain(&error), "a command is sent again");
            }
        }
        tokio::time::sleep(pause.mul_f64(0.5 + ids.fraction() / 2.0)).await;
        pause = (pause * 2).min(PAUSE.1);
    }
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
