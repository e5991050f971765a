//! A read side that shows what it was called for, and that fails when it is told to.
//!
//! The n-th payment into an account is over the amount n: so a row shows whether each was taken in once and in order.
//! What else is to happen stands in a payment's reference.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::data::{encoded, new_id, raw};
use super::domain::{AccountEvent, Deposited};
use super::patient::{Patient, ask};
use super::{LIMIT, Subject, start};
use crate::event::Recorded;
use crate::limits::MAX_PAGE;
use crate::processor::{NotTheEvent, ParkedSequence, Processor, ProcessorError, ProcessorStatus};
use crate::projection::{Change, OnFailure, Partition, Project, Projection, View};
use crate::store::{Backend, EventFilter, NewEvent, Position, RecordedEvent, RowStore, StoreError};
use crate::{App, AppBuilder, BoxError, ErrorKind};

/// The poisons that have lost their effect. One list for all tests: handlers of views have no state of their own.
static MENDED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Makes handlers fail, until it is mended.
#[derive(Debug)]
pub(super) struct Poison(String);

impl Poison {
    pub(super) fn new() -> Self {
        Self(new_id().to_string())
    }

    /// A payment whose handler fails like this: `fails`, `panics`, `long`, `row` (cannot be written), `statement`, or
    /// `half <key>`, only for that other key; `store`, as the store fails that does not answer.
    pub(super) fn payment(&self, amount: i64, how: &str) -> NewEvent {
        paid_for(amount, &format!("{}|{how}", self.0))
    }

    /// What was mended is wrong again.
    pub(super) fn relapse(&self) {
        MENDED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }

    /// What was wrong is put right.
    pub(super) fn mend(&self) {
        MENDED.lock().unwrap_or_else(PoisonError::into_inner).insert(self.0.clone());
    }
}

/// A payment.
pub(super) fn payment(amount: i64) -> NewEvent {
    encoded(&super::domain::deposited(amount))
}

/// A payment that belongs to this account as well, which may be its own.
pub(super) fn payment_of_both(amount: i64, other: &str) -> NewEvent {
    paid_for(amount, &format!("|both {other}"))
}

impl Poison {
    /// A payment that cannot be decoded until it is mended, and belongs to these accounts then, which its stream does not
    /// tell.
    pub(super) fn hidden(&self, amount: i64, accounts: &[&str]) -> NewEvent {
        self.payment(amount, &format!("hidden {}", accounts.join(",")))
    }

    /// The same of one whose rows cannot be written then, until that is mended as well.
    pub(super) fn hidden_until(&self, rows: &Self, amount: i64, accounts: &[&str]) -> NewEvent {
        self.payment(amount, &format!("hidden {}|{}", accounts.join(","), rows.0))
    }
}

impl Poison {
    /// A payment that fails until it is mended, and then needs a partner that is away until that is mended as well.
    pub(super) fn payment_while(&self, away: &Self, amount: i64) -> NewEvent {
        self.payment(amount, &format!("fails|away {}", away.0))
    }

    /// The same of one that cannot be decoded until it is mended.
    pub(super) fn hidden_while(&self, away: &Self, amount: i64, accounts: &[&str]) -> NewEvent {
        self.payment(amount, &format!("hidden {}|away {}", accounts.join(","), away.0))
    }

    /// The same, with a partner that fails as the store does that does not answer.
    pub(super) fn hidden_while_refused(&self, partner: &Self, amount: i64, accounts: &[&str]) -> NewEvent {
        self.payment(amount, &format!("hidden {}|store {}", accounts.join(","), partner.0))
    }
}

/// A payment that cannot be decoded.
pub(super) fn garbage() -> NewEvent {
    raw("account.deposited", 3, r#"{"amount":"?"}"#)
}

fn paid_for(amount: i64, reference: &str) -> NewEvent {
    encoded(&AccountEvent::Deposited(Deposited { amount, reference: Some(reference.to_owned()) }))
}

/// What a payment's reference asks for.
#[derive(Clone, Copy, Debug)]
struct Wish<'p> {
    what: &'p str,
    /// Another account.
    other: Option<&'p str>,
    poisoned: bool,
    /// Whether its rows cannot be written.
    broken: bool,
    /// What a partner that it needs fails with, if it does.
    partner: Option<fn() -> BoxError>,
}

impl<'p> Wish<'p> {
    fn of(payment: &'p Deposited) -> Self {
        let text = payment.reference.as_deref().unwrap_or_default();
        let (id, wish) = text.split_once('|').unwrap_or_default();
        let (wish, rows) = wish.split_once('|').unwrap_or((wish, ""));
        let (rows, partner) = rows.strip_prefix("away ").map_or((rows, ""), |partner| ("", partner));
        let (rows, refusing) = rows.strip_prefix("store ").map_or((rows, ""), |partner| ("", partner));
        let (what, other) = wish.split_once(' ').map_or((wish, None), |(what, other)| (what, Some(other)));
        let mended = |id: &str| MENDED.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
        let poisoned = |id: &str| !id.is_empty() && !mended(id);
        let broken = poisoned(rows) || what == "row" && poisoned(id);
        let partners: [(_, fn() -> BoxError); 2] = [(partner, is_away), (refusing, refusal)];
        let partner = partners.into_iter().find(|(id, _)| poisoned(id)).map(|(_, fails)| fails);
        Self { what, other, poisoned: poisoned(id), broken, partner }
    }

    fn accounts(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        match self.what {
            "hidden" if self.poisoned => Err("it cannot be decoded".into()),
            "hidden" => Ok(self.other.unwrap_or_default().split(',').map(str::to_owned).collect()),
            _ => Ok([Some(account(event)), self.other].into_iter().flatten().map(str::to_owned).collect()),
        }
    }

    fn fail(&self, key: &str) -> Result<(), BoxError> {
        let here = self.other.is_none_or(|other| other == key);
        if let Some(fails) = self.partner.filter(|_| !self.poisoned) {
            return Err(fails());
        }
        match self.what {
            _ if !self.poisoned || !here => Ok(()),
            "panics" => panic!("poisoned with a panic"),
            "long" => Err(format!("poisoned\0 {}", "ä".repeat(50_000)).into()),
            "row" | "statement" => Ok(()),
            "store" => Err(refusal()),
            _ => Err("poisoned".into()),
        }
    }
}

fn is_away() -> BoxError {
    NotTheEvent::new("a partner", "it is away").into()
}

/// As the store fails that does not answer.
pub(super) fn refusal() -> BoxError {
    StoreError::transient("calling a partner", std::io::Error::other("the partner refuses connections"))
        .into()
}

/// The accounts of a payment, which it may not tell until it is mended.
pub(super) fn accounts(event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
    let Some(payload) = event.payload::<Deposited>()? else { return Ok(Vec::new()) };
    Wish::of(&payload).accounts(event)
}

fn account(event: &RecordedEvent) -> &str {
    event.stream.as_str().split_once('-').map_or("", |(_, id)| id)
}

/// What was paid into one account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many payments.
    pub n: u64,
    /// All together.
    pub sum: i64,
    /// The amount of the last one.
    pub last: i64,
    /// How often another one came than the next.
    pub disorder: u64,
    /// How many were in the log before the build began.
    pub replayed: u64,
    #[serde(skip_deserializing, serialize_with = "unbroken")]
    broken: bool,
}

fn unbroken<S: serde::Serializer>(broken: &bool, to: S) -> Result<S::Ok, S::Error> {
    if *broken { Err(serde::ser::Error::custom("poisoned row")) } else { to.serialize_bool(false) }
}

impl Tally {
    fn take(&mut self, event: Recorded<'_, Deposited>, key: &str) -> Result<(), BoxError> {
        let (amount, wish) = (event.amount, Wish::of(event.payload()));
        wish.fail(key)?;
        self.disorder += u64::from(amount != self.last + 1);
        self.broken |= wish.broken;
        self.n += 1;
        self.sum += amount;
        self.last = amount;
        self.replayed += u64::from(event.is_replay());
        Ok(())
    }

    fn changes<V: View<Key = String>>(
        event: &RecordedEvent,
        tally: fn(&mut V) -> &mut Self,
    ) -> Result<Vec<Change<'_, V>>, BoxError> {
        let Some(payload) = event.payload::<Deposited>()? else { return Ok(Vec::new()) };
        let wish = Wish::of(&payload);
        let keys = wish.accounts(event)?;
        let change = |key: String| {
            let payload = payload.clone();
            Change::new(key.clone(), move |row| tally(row).take(Recorded::new(&payload, event), &key))
        };
        Ok(keys.into_iter().map(change).collect())
    }
}

macro_rules! tallies { ($($(#[$doc:meta])* $view:ident = $name:literal, $on_failure:ident, $idempotent:literal;)+) => { $(
    $(#[$doc])*
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct $view(pub Tally);

    impl Projection for $view {
        const NAME: &'static str = $name;
        const ON_FAILURE: OnFailure = OnFailure::$on_failure;
        const IDEMPOTENT: bool = $idempotent;
        fn filter() -> EventFilter {
            EventFilter::of::<Deposited>()
        }
    }

    impl View for $view {
        type Key = String;
        fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
            Tally::changes(event, |row: &mut Self| &mut row.0)
        }
    }
)+ } }

tallies! {
    /// Parks what fails.
    Ledger = "ledger", Park, false;
    /// Leaves out what fails.
    Skipping = "skipping", Skip, false;
    /// Stops at what fails.
    Stopping = "stopping", Stop, false;
    /// Says that it may see an event again.
    Repeatable = "repeatable", Park, true;
    /// One of many.
    Second = "second", Park, false;
    /// One of many.
    Third = "third", Park, false;
    /// One of many.
    Fourth = "fourth", Park, false;
    /// One of many.
    Fifth = "fifth", Park, false;
}

/// The table `paid`: what was paid into each account, through a transaction.
/// Clones share for which events it was called, and whether in a replay.
#[derive(Debug)]
pub(super) struct Payments<S, const BY_STREAM: bool = false>(Calls, PhantomData<fn() -> S>);

type Calls = Arc<Mutex<Vec<(Position, bool)>>>;

impl<S, const BY_STREAM: bool> Payments<S, BY_STREAM> {
    pub(super) fn take_calls(&self) -> Vec<(Position, bool)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S, const BY_STREAM: bool> Clone for Payments<S, BY_STREAM> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<S, const BY_STREAM: bool> Default for Payments<S, BY_STREAM> {
    fn default() -> Self {
        Self(Calls::default(), PhantomData)
    }
}

impl<S: Subject, const BY_STREAM: bool> Projection for Payments<S, BY_STREAM> {
    const NAME: &'static str = "payments";
    const SCHEMA: &'static str = S::PAID;
    const PARTITION: Partition = if BY_STREAM { Partition::Stream } else { Partition::Whole };
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<S: Subject, const BY_STREAM: bool> Project<<S::Backend as Backend>::Tx> for Payments<S, BY_STREAM> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        let Some(payload) = event.payload::<Deposited>()? else { return Ok(()) };
        let (key, wish) = (account(event), Wish::of(&payload));
        let call = (event.place(), Recorded::new(&payload, event).is_replay());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        // What it has written before it fails must not stay.
        S::pay(tx, key, payload.amount).await?;
        if wish.poisoned && matches!(wish.what, "statement" | "row") {
            return Err(S::fail(tx).await);
        }
        wish.fail(key)
    }
}

/// A processor of the two that take the same payments in: the view, or the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    View,
    Table,
}

pub(super) const KINDS: [Kind; 2] = [Kind::View, Kind::Table];

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::View => "ledger/1",
            Self::Table => "payments/1",
        }
    }

    /// The key of an account.
    pub(super) fn key(self, account: &str) -> String {
        match self {
            Self::View => account.to_owned(),
            Self::Table => format!("account-{account}"),
        }
    }

    pub(super) fn of(self, app: &App) -> &Processor {
        app.processors().iter().find(|processor| processor.name() == self.name()).expect("it runs")
    }
}

/// A store, and what its payments have come to.
pub(super) struct World<S: Subject> {
    pub(super) store: Patient<S::Backend>,
}

impl<S: Subject> World<S> {
    pub(super) async fn new(subject: &S) -> Self {
        Self { store: super::store(subject).await }
    }

    /// Both kinds on one backend, with retries that take no time.
    pub(super) fn wiring<B: Backend<Tx = <S::Backend as Backend>::Tx> + Clone>(backend: &B) -> AppBuilder<B> {
        let (first, longest) = (std::time::Duration::from_millis(1), std::time::Duration::from_millis(5));
        let app = App::on(backend.clone()).view::<Ledger>().projection(Payments::<S>::default());
        app.processor_retries(2, first, longest)
    }

    pub(super) async fn start(&self) -> App {
        start(|| Self::wiring(&self.store.0)).await
    }

    pub(super) async fn put(&self, account: &str, payments: Vec<NewEvent>) {
        self.store.put(&format!("account-{account}"), payments).await;
    }

    /// Payments from one amount to another.
    pub(super) async fn pay(&self, account: &str, amounts: std::ops::RangeInclusive<i64>) {
        let amounts: Vec<i64> = amounts.collect();
        for some in amounts.chunks(1_000) {
            self.put(account, some.iter().map(|amount| payment(*amount)).collect()).await;
        }
    }

    pub(super) async fn tally_of(&self, table: &str, account: &str) -> Option<Tally> {
        let row = self.store.row(table, account).await?;
        Some(serde_json::from_slice(&row.data).expect("a row that the view has written"))
    }

    pub(super) async fn tally(&self, account: &str) -> Option<Tally> {
        self.tally_of("ledger/1", account).await
    }

    pub(super) async fn paid(&self) -> BTreeMap<String, i64> {
        loop {
            match S::paid(&self.store.0).await {
                Ok(paid) => return paid,
                Err(error) => assert!(self.store.0.is_transient(&*error), "{error}"),
            }
        }
    }

    /// What an account has come to.
    pub(super) async fn sum(&self, kind: Kind, account: &str) -> i64 {
        match kind {
            Kind::View => self.tally(account).await.unwrap_or_default().sum,
            Kind::Table => self.paid().await.get(account).copied().unwrap_or_default(),
        }
    }

    /// Each of `n` payments was taken in once and in order, by both kinds.
    pub(super) async fn assert_complete(&self, account: &str, n: i64) {
        let tally = self.tally(account).await.unwrap_or_default();
        let told = (tally.n, tally.last, tally.sum, tally.disorder);
        assert_eq!(told, (n.unsigned_abs(), n, n * (n + 1) / 2, 0), "account {account}");
        assert_eq!(self.sum(Kind::Table, account).await, n * (n + 1) / 2, "account {account} of the table");
    }
}

/// Retries a sequence until it is known what came of it: what is left, or nothing.
pub(super) async fn retry(processor: &Processor, key: &str) -> Option<ParkedSequence> {
    for _ in 0..1_000 {
        match processor.retry(key, LIMIT).await {
            Ok(left) => return left,
            Err(error) if error.kind() == ErrorKind::Transient => {}
            Err(ProcessorError::Asked { .. }) => {}
            Err(ProcessorError::NotParked { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("{key} was not retried in 1,000 tries")
}

/// Discards a sequence for sure.
pub(super) async fn discard(processor: &Processor, key: &str, reason: &str) {
    if let Err(error) = try_discard(processor, key, reason).await {
        panic!("{error}");
    }
}

pub(super) async fn try_discard(
    processor: &Processor,
    key: &str,
    reason: &str,
) -> Result<(), ProcessorError> {
    for _ in 0..1_000 {
        match processor.discard(key, reason, LIMIT).await {
            Ok(()) | Err(ProcessorError::NotParked { .. }) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Transient => {}
            Err(ProcessorError::Asked { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    panic!("{key} was not discarded in 1,000 tries")
}

/// All parked sequences.
pub(super) async fn parked(processor: &Processor) -> Vec<ParkedSequence> {
    ask(|| processor.parked(None, MAX_PAGE)).await
}

/// The keys that are parked, and how many events each has.
pub(super) async fn parked_keys(processor: &Processor) -> Vec<(String, u64)> {
    parked(processor).await.into_iter().map(|sequence| (sequence.key, sequence.events)).collect()
}

/// Until a processor is as it should be.
pub(super) async fn until(
    processor: &Processor,
    what: impl Fn(&ProcessorStatus) -> bool + Send,
) -> ProcessorStatus {
    let mut watch = processor.watch();
    let seen = tokio::time::timeout(LIMIT, watch.wait_for(|status| what(status))).await;
    let status = processor.status();
    seen.unwrap_or_else(|_| panic!("it never came to that: {status:?}")).expect("it runs").clone()
}

/// Until something holds that has to be read.
pub(super) async fn eventually<F: Future<Output = Result<(), String>>>(mut look: impl FnMut() -> F) {
    let mut last = String::new();
    let holds = async {
        while let Err(why) = look().await {
            last = why;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(LIMIT, holds).await.is_err() {
        panic!("it never came to that: {last}");
    }
}

/// Does something that a store may not be able to do now, until it has answered.
pub(super) async fn answered<T, F: Future<Output = Result<T, ProcessorError>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, ProcessorError> {
    for _ in 0..1_000 {
        match attempt().await {
            Err(error) if error.kind() == ErrorKind::Transient => {}
            answer => return answer,
        }
    }
    panic!("no answer in 1,000 tries")
}

/// The rows of a table of the framework's, as JSON.
pub(super) async fn rows<B: Backend + RowStore + Clone>(
    store: &Patient<B>,
    table: &str,
) -> Vec<(String, serde_json::Value)> {
    let json = |data: &[u8]| serde_json::from_slice(data).expect("the framework's rows are JSON");
    // In one page: pages are read one after the other, and what is in them changes.
    ask(|| store.0.scan(table, None, MAX_PAGE))
        .await
        .into_iter()
        .map(|row| (row.key, json(&row.data)))
        .collect()
}
