//! A session of the suites' own: it keeps state, sends commands, and is woken by time.
//!
//! Each account has a row: what was paid in, in order, and when its reminder is due. Opening an account sets the reminder,
//! closing it calls it off. All of this is in the commit of the checkpoint.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::domain::{AccountEvent, Donate};
use super::patient::ask;
use crate::clock::Timestamp;
use crate::command::{NamedCommand, SendError, Sender};
use crate::event::Event as _;
use crate::processor::{Admission, Execution, Failure, Keeps, Opening, Runner, Session};
use crate::projection::OnFailure;
use crate::slices::Slices;
use crate::store::{
    Backend, Commit, CommitError, EventFilter, Position, RecordedEvent, Row, RowStore, RowWrite, Table,
};
use crate::{BoxError, Payload};

pub(super) const NAME: &str = "relay";
/// The table of its rows.
pub(super) const TABLE: &str = "relayed";

/// What it keeps of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// How many payments.
    pub(super) n: u64,
    /// All together.
    pub(super) sum: i64,
    /// The amount of the last one.
    pub(super) last: i64,
    /// How often another one came than the next.
    pub(super) disorder: u64,
    /// When it is to be reminded.
    pub(super) due: Option<Timestamp>,
    /// How often it was.
    pub(super) reminded: u64,
}

/// What was seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Folded(Position),
    Due {
        now: Timestamp,
        head: Position,
        next: Option<Timestamp>,
    },
    Reminded {
        key: String,
        now: Timestamp,
        head: Position,
    },
    /// The tables of the rows that were written, those of the engine first.
    Flushed(Vec<Arc<str>>),
    FlushFailed,
    Marked(&'static str),
}

/// What it does, and what it did. Clones share what it did.
#[expect(clippy::struct_excessive_bools, reason = "a rule asks for one or two of them")]
#[derive(Clone, Debug, Default)]
pub(super) struct Relay {
    pub(super) shared: Arc<Shared>,
    /// How long after it was opened an account is reminded.
    pub(super) delay: Duration,
    /// Whether it sends commands when an account is opened, and when it is reminded.
    pub(super) sends: bool,
    /// Whether it always asks to be called at a time that has passed.
    pub(super) hasty: bool,
    /// Whether it is halted by an event that fails.
    pub(super) stops: bool,
    /// Whether nodes share its slices.
    pub(super) splits: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    seen: Mutex<Vec<(Instant, Seen)>>,
    /// How often what is due fails from now on, every other time with a panic.
    failures: AtomicU32,
    /// Whether it fails on withdrawals.
    poisoned: AtomicBool,
}

impl Relay {
    /// On a backend.
    pub(super) fn on<B: Backend + RowStore + Clone>(&self, backend: &B) -> RelayRunner<B> {
        RelayRunner { backend: backend.clone(), relay: self.clone() }
    }

    fn note(&self, seen: Seen) {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), seen));
    }

    pub(super) fn mark(&self, what: &'static str) {
        self.note(Seen::Marked(what));
    }

    /// Everything that was seen, in order.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.timed().into_iter().map(|(_, seen)| seen).collect()
    }

    pub(super) fn timed(&self) -> Vec<(Instant, Seen)> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fail(&self, times: u32) {
        self.shared.failures.store(times, Ordering::SeqCst);
    }

    pub(super) fn poison(&self, poisoned: bool) {
        self.shared.poisoned.store(poisoned, Ordering::SeqCst);
    }
}

pub(super) struct RelayRunner<B> {
    backend: B,
    relay: Relay,
}

impl<B: Backend + RowStore + Clone> Runner for RelayRunner<B> {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn filter(&self) -> EventFilter {
        use super::domain::{Closed, Deposited, Opened, Withdrawn};
        let types = [Opened::SOURCES, Deposited::SOURCES, Withdrawn::SOURCES, Closed::SOURCES].concat();
        EventFilter::types(types)
    }

    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn execution(&self) -> Execution {
        let on_failure = if self.relay.stops { OnFailure::Stop } else { OnFailure::Park };
        Execution { on_failure, splits: self.relay.splits, ..Execution::default() }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.stream.as_str().to_owned()])
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        Box::new(RelaySession {
            backend: self.backend.clone(),
            relay: self.relay.clone(),
            table: Table::new(TABLE).expect("a short name"),
            slices: opening.slices,
            sender: opening.sender.clone(),
            rows: BTreeMap::new(),
        })
    }
}

struct RelaySession<B> {
    backend: B,
    relay: Relay,
    table: Table<Kept>,
    slices: Slices,
    sender: Sender,
    /// What waits for the flush.
    rows: BTreeMap<String, Row<Kept>>,
}

impl<B: Backend + RowStore + Clone> RelaySession<B> {
    async fn row(&mut self, key: &str) -> &mut Row<Kept> {
        if !self.rows.contains_key(key) {
            let stored = ask(|| self.table.get(&self.backend, key)).await;
            let row = stored.unwrap_or_else(|| Row::new(key, Kept::default()));
            self.rows.insert(key.to_owned(), row);
        }
        self.rows.get_mut(key).expect("it was just put there")
    }

    /// One command by its type, and one by its names.
    async fn send(&self, from: &str, event: Option<&RecordedEvent>) -> Result<(), SendError> {
        let (typed, named) = (format!("typed-{from}"), format!("named-{from}"));
        let key = |id: &str| format!("relay-{id}");
        let donate = Donate { amount: 1 };
        let mut by_type = self.sender.send(&typed, donate.clone()).idempotency_key(key(&typed));
        let kept = NamedCommand::of(&named, &donate)?;
        let mut by_name = self.sender.send_named(kept).idempotency_key(key(&named));
        if let Some(event) = event {
            (by_type, by_name) = (by_type.caused_by(event), by_name.caused_by(event));
        } else {
            (by_type, by_name) = (by_type.actor("clock"), by_name.actor("clock"));
        }
        by_type.await.map_err(SendError::of::<Donate>)?;
        by_name.await?;
        Ok(())
    }

    async fn handle(&mut self, event: &RecordedEvent) -> Result<(), BoxError> {
        let (key, relay) = (event.stream.as_str(), self.relay.clone());
        for payload in AccountEvent::decode(event)? {
            match payload {
                AccountEvent::Opened(opened) => {
                    if relay.sends {
                        self.send(&opened.owner, Some(event)).await?;
                    }
                    self.row(key).await.value.due = Some(event.recorded_at + relay.delay);
                }
                AccountEvent::Deposited(payment) => {
                    let kept = &mut self.row(key).await.value;
                    kept.n += 1;
                    kept.sum += payment.amount;
                    kept.disorder += u64::from(payment.amount != kept.last + 1);
                    kept.last = payment.amount;
                }
                AccountEvent::Closed(_) => self.row(key).await.value.due = None,
                _ if relay.shared.poisoned.load(Ordering::SeqCst) => return Err("poisoned".into()),
                _ => {}
            }
        }
        relay.note(Seen::Folded(event.place()));
        Ok(())
    }
}

#[async_trait]
impl<B: Backend + RowStore + Clone> Session for RelaySession<B> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        for event in events {
            let key = event.stream.as_str();
            if admission.admits(event, key) {
                self.handle(event).await.map_err(|source| Failure::new(event, key, source))?;
            }
        }
        Ok(())
    }

    async fn due(
        &mut self,
        now: Timestamp,
        head: Position,
        _parked: &(dyn for<'k> Fn(&'k str) -> bool + Sync),
    ) -> Result<Option<Timestamp>, BoxError> {
        let mut next = None;
        for row in ask(|| self.table.all(&self.backend)).await {
            let Some(due) = row.value.due.filter(|_| self.slices.has(&row.key)) else { continue };
            if due > now {
                next = Some(next.map_or(due, |next: Timestamp| next.min(due)));
                continue;
            }
            let failures = &self.relay.shared.failures;
            let left = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if let Ok(left) = left {
                assert!(left.is_multiple_of(2), "what is due panics now and then");
                return Err("the clock is broken".into());
            }
            if self.relay.sends {
                self.send(&format!("due-{}", row.key), None).await?;
            }
            self.relay.note(Seen::Reminded { key: row.key.clone(), now, head });
            let reminded = row.value.reminded + 1;
            let row = row.clone().with(Kept { due: None, reminded, ..row.value });
            self.rows.insert(row.key.clone(), row);
        }
        self.relay.note(Seen::Due { now, head, next });
        Ok(if self.relay.hasty { Some(Timestamp::UNIX_EPOCH) } else { next })
    }

    async fn flush(&mut self, mut rows: Vec<RowWrite>) -> Result<(), CommitError> {
        for row in self.rows.values() {
            rows.push(self.table.put(row)?);
        }
        let tables = rows.iter().map(|row| row.table.clone()).collect();
        let flushed = self.backend.commit(Commit { rows, ..Commit::default() }).await;
        self.relay.note(if flushed.is_ok() { Seen::Flushed(tables) } else { Seen::FlushFailed });
        self.rows.clear();
        flushed.map(drop)
    }

    fn waiting(&self) -> usize {
        self.rows.len()
    }
}
