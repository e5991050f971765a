//! Sends a command, and says what that came to.
//!
//! What the store has under a command's key is its answer, whatever came back: an interceptor may have failed after it, or
//! say no by now; a newer program may write the same command in other words.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use es_core::command::{NamedDone, SendError, Sender};
use es_core::guarded::caught;
use es_core::id::Ids;
use es_core::store::{CommitError, IdempotencyKey, Outcome, OutcomeMark, Position, StreamId, Version};
use es_core::{BoxError, Commit, ErrorKind, EventStore, chain};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::writes::Writes;
use super::{Came, PAUSE, TRIES};
use crate::blame::needs_a_newer_program;
use crate::data::Data;
use crate::instance::cut;
use crate::process::Rejected;
use crate::rows::Sending;

/// For so long a command keeps its place from others that wait for one.
const KEEPS: Duration = Duration::from_secs(2);

/// What commands are sent through.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) sender: Sender,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) writes: Writes,
    pub(super) ids: Ids,
    /// Places for commands that are sent for the first time; for those that are sent again, or for long.
    pub(super) first: Arc<Semaphore>,
    pub(super) again: Arc<Semaphore>,
}

/// Why a command has no answer yet.
pub(super) struct Failed {
    text: String,
    /// Time alone does not mend it.
    pub(super) for_good: bool,
    /// People are to see it at once.
    shown: bool,
    /// It may be an answer, if it stays so: an interceptor says no, or has failed.
    is_intercepted: bool,
}

impl Failed {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), for_good: false, shown: false, is_intercepted: false }
    }

    /// What it comes to after so many tries.
    pub(super) fn in_vain(self, attempts: u32) -> Came {
        if self.is_intercepted {
            return Came::Intercepted { error: self.text, attempts };
        }
        Came::Trouble { error: cut(&self.text), attempts, held: true }
    }
}

/// The idempotency key of a command. A store forgets no outcome of a key that begins like this: the instance may have begun
/// long ago.
pub(super) fn key_of(Sending { send, .. }: &Sending) -> String {
    format!("process/{}/{}/{}", send.id, send.input, send.ordinal)
}

impl Line {
    /// Sends a command until its answer is definite, or there is trouble to be noted.
    pub(super) async fn answer(&self, sending: &Sending) -> Came {
        let (mut pause, mut attempts, mut in_vain) = (PAUSE.0, 0_u32, 0);
        loop {
            let failed = match self.send(sending, true).await {
                Ok(answer) => return Came::Answer(answer),
                Err(failed) => failed,
            };
            let (instance, command) = (&sending.send.key, &sending.send.command.name);
            tracing::debug!(instance, command, error = failed.text, "a command is sent again");
            attempts += 1;
            in_vain = if failed.for_good { in_vain + 1 } else { 0 };
            if in_vain >= TRIES {
                return failed.in_vain(attempts);
            }
            if failed.shown || attempts >= TRIES {
                return Came::Trouble { error: cut(&failed.text), attempts, held: false };
            }
            tokio::time::sleep(self.some_of(pause)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Sends one that is stuck once more.
    pub(super) async fn again(&self, sending: &Sending) -> Result<Came, Failed> {
        let sent = self.send(sending, false).await.map(Came::Answer);
        sent.inspect_err(|failed| {
            let (instance, command) = (&sending.send.key, &sending.send.command.name);
            tracing::debug!(
                instance,
                command,
                error = failed.text,
                "a command that is stuck was sent in vain"
            );
        })
    }

    /// At least half of a pause: not all come again together.
    pub(super) fn some_of(&self, pause: Duration) -> Duration {
        pause.mul_f64(0.5 + self.ids.fraction() / 2.0)
    }

    /// Waits for a place, and for the answer. `None`: others wait for the place. Whoever is sent for the first time goes on
    /// in a place of the other kind, if there is one.
    async fn in_its_place<T>(&self, is_first: bool, sent: impl Future<Output = T>) -> Option<T> {
        let (mut sent, never) = (pin!(sent), "it is never closed");
        if !is_first {
            let _place = timeout(KEEPS, self.again.acquire()).await.ok()?.expect(never);
            return Some(sent.await);
        }
        let place = self.first.acquire().await.expect(never);
        loop {
            if let Ok(answer) = timeout(KEEPS, &mut sent).await {
                return Some(answer);
            }
            if self.first.available_permits() == 0 {
                let _other = self.again.try_acquire().ok()?;
                drop(place);
                return Some(sent.await);
            }
        }
    }

    /// Sends it once: why it was refused, if it was. It is blamed for a failure only if the store takes a write after that.
    async fn send(&self, sending: &Sending, is_first: bool) -> Result<Option<Rejected<Data>>, Failed> {
        let mut sent = self.send_once(sending, is_first).await;
        if let Err(failed) = &mut sent {
            failed.for_good = failed.for_good && self.writes.are_taken().await;
        }
        sent
    }

    async fn send_once(&self, sending: &Sending, is_first: bool) -> Result<Option<Rejected<Data>>, Failed> {
        let Sending { send, metadata, .. } = sending;
        let key = key_of(sending);
        let sent =
            self.sender.send_named(send.command.clone()).idempotency_key(&key).metadata(metadata.clone());
        // Interceptors, ids and payloads are the user's code, too.
        let error = match self.in_its_place(is_first, caught(sent.into_future())).await {
            Some(Ok(Ok(NamedDone { .. }))) => return Ok(None),
            Some(Ok(Err(error))) => error,
            None => {
                let text = format!("it had no place, or no answer, within {KEEPS:?}, and others waited");
                return Err(Failed { shown: true, ..Failed::new(text) });
            }
            Some(Err(_)) => {
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
                    return Err(Failed {
                        for_good: true,
                        is_intercepted: true,
                        ..Failed::new(chain(&error))
                    });
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
        let Some(refusal) = outcome.refusal else { return Ok(Some(None)) };
        if let Ok(GivenUp { given_up }) = serde_json::from_slice(&refusal) {
            return Ok(Some(Some(Rejected::Otherwise(given_up))));
        }
        Ok(Some(Some(Rejected::Domain(serde_json::from_slice(&refusal)?))))
    }

    /// A command is given up: whoever sends it still, on a node that was stopped in the middle of it, finds a refusal under
    /// its key. If it was answered before that: what it came to.
    pub(super) async fn close(
        &self,
        sending: &Sending,
        why: String,
    ) -> Result<Option<Option<Rejected<Data>>>, BoxError> {
        let (key, command) = (key_of(sending), &sending.send.command);
        // What cannot be the name of a stream has never acted, and never will.
        let Ok(stream) = StreamId::new(format!("{}-{}", command.aggregate, command.id)) else {
            return Ok(None);
        };
        let refusal = Some(serde_json::to_vec(&GivenUp { given_up: why })?.into());
        // No request has this fingerprint: none is answered with it.
        let outcome = Outcome {
            fingerprint: 0,
            stream,
            version: Version(0),
            position: Position(0),
            events: 0,
            refusal,
        };
        let mark = OutcomeMark { key: IdempotencyKey::new(&*key)?, outcome };
        let closed = self.store.commit(Commit { outcomes: vec![mark], ..Commit::default() }).await;
        match closed {
            // Or it was closed before, and whoever did so was interrupted.
            Ok(_) | Err(CommitError::Repeated { .. }) => Ok(None),
            Err(CommitError::KeyReused { .. }) => self.outcome(&key).await,
            Err(error) => Err(error.into()),
        }
    }
}

/// The refusal under the key of a command that was given up.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenUp {
    #[serde(rename = "sagas.given_up")]
    given_up: String,
}
