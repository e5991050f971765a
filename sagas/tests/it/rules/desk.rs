//! A desk that messages come to: a store, an app, and inboxes whose consumer enters each message in a ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::{EventFilter, Position, Transaction, Version};
use es_core::testing::TestClock;
use es_core::{App, BoxError, ErrorKind, Event as _, EventStore as _, Payload as _};
use sagas::message::inbox::{Busy, Consumer, Inbox, InboxError, Lane, Log, OperateError, Outcome};
use sagas::message::{Envelope, Sequence};
use serde_json::json;
use tokio::sync::watch;

use super::Subject;
use super::play::{Enter, Entered, LedgerEvent};

pub(crate) const SHOP: &str = "/shop/1";

pub(crate) struct Desk<'s, S: Subject> {
    pub(crate) subject: &'s S,
    pub(crate) backend: S::Backend,
    pub(crate) clock: TestClock,
    app: App,
    pub(crate) orders: Arc<Orders>,
}

pub(crate) type InboxOf<S> = Inbox<<S as Subject>::Backend, Clerk>;

/// What the consumers of a desk are told to do.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    fails: Mutex<BTreeSet<String>>,
    panics: Mutex<BTreeSet<String>>,
    busy: Mutex<BTreeSet<String>>,
    stale: Mutex<BTreeSet<String>>,
    errors: Mutex<BTreeMap<String, fn() -> BoxError>>,
    held: watch::Sender<BTreeSet<String>>,
    calls: Mutex<Vec<String>>,
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

impl Orders {
    /// By their ids, or all of a key.
    pub(crate) fn fail(&self, ids: &[&str]) {
        *self.fails.lock().unwrap() = set(ids);
    }

    pub(crate) fn panic(&self, ids: &[&str]) {
        *self.panics.lock().unwrap() = set(ids);
    }

    pub(crate) fn busy(&self, ids: &[&str]) {
        *self.busy.lock().unwrap() = set(ids);
    }

    /// They expect a ledger that has nothing yet.
    pub(crate) fn stale(&self, ids: &[&str]) {
        *self.stale.lock().unwrap() = set(ids);
    }

    /// One fails with this error; with none, it does not.
    pub(crate) fn fail_with(&self, id: &str, error: Option<fn() -> BoxError>) {
        let mut errors = self.errors.lock().unwrap();
        errors.remove(id);
        errors.extend(error.map(|error| (id.to_owned(), error)));
    }

    /// They wait in their consumer until they are not held any more.
    pub(crate) fn hold(&self, ids: &[&str]) {
        self.held.send_replace(set(ids));
    }

    pub(crate) fn calls(&self, id: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|call| *call == id).count()
    }
}

/// Enters the id of each message in the ledger of its key.
pub(crate) struct Clerk {
    app: App,
    orders: Arc<Orders>,
}

impl<Tx: Transaction> Consumer<Tx> for Clerk {
    async fn take(&self, message: &Envelope, tx: &mut Tx) -> Result<(), BoxError> {
        let (id, orders) = (&message.id, &self.orders);
        orders.calls.lock().unwrap().push(id.clone());
        let ledger = message.partitionkey.clone().unwrap_or_else(|| "mail".to_owned());
        let told = |ids: &Mutex<BTreeSet<String>>| {
            let ids = ids.lock().unwrap();
            ids.contains(id) || ids.contains(&ledger)
        };
        assert!(!told(&orders.panics), "it was told to panic");
        orders.held.subscribe().wait_for(|held| !held.contains(id)).await?;
        let enter = Enter { what: id.clone(), refuse: false, asked: None };
        let mut sending = self.app.send(&ledger, enter).metadata(message.metadata());
        if told(&orders.stale) {
            sending = sending.expect_version(Version(0));
        }
        // Before it fails: what it has done by then is undone.
        sending.within(tx).await.map_err(Busy::of_command)?;
        if let Some(error) = orders.errors.lock().unwrap().get(id) {
            return Err(error());
        }
        if told(&orders.fails) {
            return Err("it was told to fail".into());
        }
        if told(&orders.busy) {
            return Err(Busy::new("the bank does not answer").into());
        }
        Ok(())
    }
}

/// The log of a sender; while it is away it does not answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent(pub(crate) Arc<Mutex<Vec<Envelope>>>, pub(crate) Arc<Mutex<bool>>);

#[async_trait]
impl Log for Sent {
    async fn behind(&self, lane: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        if *self.1.lock().unwrap() {
            return Err("the sender is away".into());
        }
        let all = self.0.lock().unwrap();
        let number = |message: &Envelope| message.sequence.as_deref().unwrap().parse::<Sequence>().unwrap();
        let of_lane = all.iter().filter(|message| message.partitionkey.as_deref() == Some(&*lane.key));
        Ok(of_lane
            .filter(|message| after.is_none_or(|after| number(message) > after))
            .take(2)
            .cloned()
            .collect())
    }
}

/// Message `n` of a key, from 1: its sequence is ten times that.
pub(crate) fn order(key: &str, n: u64) -> Envelope {
    let mut message = mail(&format!("{key}{n}"));
    message.source = SHOP.to_owned();
    message.relay = Some("orders".to_owned());
    message.partitionkey = Some(key.to_owned());
    message.sequence = Some(format!("{:020}", 10 * n));
    message.previous = (n > 1).then(|| format!("{:020}", 10 * (n - 1)));
    message
}

pub(crate) fn lane(key: &str) -> Lane {
    Lane::of_key(SHOP, "orders", key)
}

/// A message without an order.
pub(crate) fn mail(id: &str) -> Envelope {
    Envelope::new(id, "/mails", "mail", json!({ "says": id }))
}

impl<'s, S: Subject> Desk<'s, S> {
    pub(crate) async fn open(subject: &'s S) -> Self {
        let clock = TestClock::default();
        let backend = subject.open(clock.clone()).await;
        let app = app::<S>(&backend, &clock).await;
        Self { subject, backend, clock, app, orders: Arc::default() }
    }

    /// An inbox in this program.
    pub(crate) fn inbox(&self) -> InboxOf<S> {
        let clerk = Clerk { app: self.app.clone(), orders: self.orders.clone() };
        let inbox = Inbox::new(self.backend.clone(), "desk", clerk).unwrap();
        inbox.tries(2, Duration::from_millis(1)).limit(Duration::from_secs(600))
    }

    /// The same inbox, in another program.
    pub(crate) async fn elsewhere(&self) -> InboxOf<S> {
        let backend = self.subject.again(&self.backend, &self.clock).await;
        let clerk = Clerk { app: app::<S>(&backend, &self.clock).await, orders: self.orders.clone() };
        let inbox = Inbox::new(backend, "desk", clerk).unwrap();
        inbox.tries(2, Duration::from_millis(1)).limit(Duration::from_secs(600))
    }

    /// What was entered in a ledger, in the order of the log.
    pub(crate) async fn entered(&self, ledger: &str) -> Vec<String> {
        let filter = EventFilter::types(Entered::SOURCES.to_vec());
        let stream = format!("ledger-{ledger}");
        let page = until_answered(async || self.backend.read(&filter, Position(0), 10_000).await).await;
        assert!(!page.more);
        let of_ledger = page.events.iter().filter(|event| event.stream.as_str() == stream);
        let entered = of_ledger.flat_map(|event| LedgerEvent::decode(event).unwrap());
        entered.map(|LedgerEvent::Entered(entered)| entered.what).collect()
    }
}

async fn app<S: Subject>(backend: &S::Backend, clock: &TestClock) -> App {
    until_answered(async || App::on(backend.clone()).clock(clock.clone()).start().await).await
}

/// Asks until the store answers.
pub(crate) async fn until_answered<T, E: std::fmt::Display>(mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let mut last = String::new();
    for _ in 0..1_000 {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing but errors: {last}")
}

/// Sends a message until it is acknowledged or refused, as a sender does.
pub(crate) async fn sent<S: Subject>(inbox: &InboxOf<S>, message: &Envelope) -> Result<Outcome, InboxError> {
    for _ in 0..1_000 {
        match inbox.take(message).await {
            Err(error) if matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other,
        }
    }
    panic!("{} is never taken", message.id)
}

/// The same, where nothing is to be wrong with it.
pub(crate) async fn take<S: Subject>(inbox: &InboxOf<S>, message: &Envelope) -> Outcome {
    sent::<S>(inbox, message).await.unwrap()
}

/// Asks an operator's wish until it is done or refused.
pub(crate) async fn operated<T>(
    mut ask: impl AsyncFnMut() -> Result<T, OperateError>,
) -> Result<T, OperateError> {
    for _ in 0..1_000 {
        match ask().await {
            Err(OperateError::Inbox(error))
                if matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown) =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other,
        }
    }
    panic!("it is never done")
}
