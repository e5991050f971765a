//! What the macros write, written by hand, and run. The page `docs/by_hand.md` explains each part.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use es_core::codec::{DecodeError, EncodeError, Json};
use es_core::command::Registry;
use es_core::event::{Decoded, EventData, EventType, Tag};
use es_core::memory::{Db, MemoryBackend, Tx};
use es_core::prelude::*;
use es_core::projection::{
    Change, Fold, HandlerResult, IntoKeys, On, OnFailure, Partition, React, missing_for_reactor, nth,
};
use es_core::query::{Answer, Answers, Gather, Gathering, Gathers};
use es_core::services::{FromServices, Scope, Services};
use es_core::snapshot::SnapshotPolicy;
use es_core::store::EventFilter;
use es_core::upcast::{decode, encode, unreadable, upcast};
use es_core::{Commands, EventOf, Handle, IntoEvent, IntoEvents, Project, Projection, Queries, Target};
use serde::{Deserialize, Serialize};

// --- the id -------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AccountId(String);

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AccountId {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl From<&str> for AccountId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

// --- events -------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Deposited {
    amount: u64,
}

/// Stored: schema 1 of `Deposited`.
#[derive(Deserialize)]
struct DepositedV1(u64);

impl From<DepositedV1> for Deposited {
    fn from(old: DepositedV1) -> Self {
        Self { amount: old.0 }
    }
}

/// Stored: an event that nothing writes any more.
#[derive(Deserialize)]
struct Merged {
    amounts: Vec<u64>,
}

impl From<Merged> for Vec<AccountEvent> {
    fn from(old: Merged) -> Self {
        old.amounts.into_iter().map(|amount| Deposited { amount }.into()).collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum AccountEvent {
    Opened(Opened),
    Deposited(Deposited),
}

impl IntoEvent for AccountEvent {
    type Event = Self;
    fn into_event(self) -> Self {
        self
    }
}

impl Event for AccountEvent {
    const TYPES: &'static [EventType] = &[
        EventType { name: "account.opened", schema: 1 },
        EventType { name: "account.deposited", schema: 2 },
    ];

    fn encode(&self) -> Result<EventData, EncodeError> {
        match self {
            Self::Opened(e) => encode::<Json, _>("account.opened", 1, e, vec![Tag::new("owner", &e.owner)?]),
            Self::Deposited(e) => encode::<Json, _>("account.deposited", 2, e, vec![]),
        }
    }

    fn decode(stored: &RecordedEvent) -> Result<Decoded<Self>, DecodeError> {
        match (&*stored.name, stored.schema) {
            // An old name is one more pattern.
            ("account.opened" | "account.created", 1) => {
                decode::<Json, Opened>(stored).map(|e| Decoded::One(e.into()))
            }
            ("account.deposited", 2) => decode::<Json, Deposited>(stored).map(|e| Decoded::One(e.into())),
            // An old shape is decoded as it was, and becomes the shape of today.
            ("account.deposited", 1) => {
                let old = decode::<Json, DepositedV1>(stored)?;
                upcast(stored, || Deposited::from(old)).map(|e| Decoded::One(e.into()))
            }
            // A retired event becomes any number of events.
            ("account.merged", _) => {
                let old = decode::<Json, Merged>(stored)?;
                upcast(stored, || Vec::from(old)).map(Decoded::Many)
            }
            (name, _) => {
                let newest = Self::TYPES.iter().find(|t| t.name == name).map_or(0, |t| t.schema);
                Err(unreadable(stored, newest))
            }
        }
    }
}

impl IntoEvent for Opened {
    type Event = AccountEvent;
    fn into_event(self) -> AccountEvent {
        AccountEvent::Opened(self)
    }
}

impl From<Opened> for AccountEvent {
    fn from(payload: Opened) -> Self {
        Self::Opened(payload)
    }
}

impl Payload for Opened {
    const NAME: &'static str = "account.opened";
    const SOURCES: &'static [&'static str] = &["account.opened", "account.created", "account.merged"];
    fn from_event(event: AccountEvent) -> Result<Self, AccountEvent> {
        match event {
            AccountEvent::Opened(payload) => Ok(payload),
            other @ AccountEvent::Deposited(_) => Err(other),
        }
    }
}

impl IntoEvent for Deposited {
    type Event = AccountEvent;
    fn into_event(self) -> AccountEvent {
        AccountEvent::Deposited(self)
    }
}

impl From<Deposited> for AccountEvent {
    fn from(payload: Deposited) -> Self {
        Self::Deposited(payload)
    }
}

impl Payload for Deposited {
    const NAME: &'static str = "account.deposited";
    const SOURCES: &'static [&'static str] = &["account.deposited", "account.merged"];
    fn from_event(event: AccountEvent) -> Result<Self, AccountEvent> {
        match event {
            AccountEvent::Deposited(payload) => Ok(payload),
            other @ AccountEvent::Opened(_) => Err(other),
        }
    }
}

// --- the aggregate ------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OverLimit;

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("over the limit")
    }
}

impl std::error::Error for OverLimit {}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Account {
    balance: u64,
}

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type Id = AccountId;
    type Event = AccountEvent;
    type Error = OverLimit;

    fn snapshots() -> SnapshotPolicy<Self> {
        SnapshotPolicy::every(200).with_schema(1)
    }
}

impl EventOf for AccountEvent {
    type Aggregate = Account;
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => {}
            AccountEvent::Deposited(e) => self.balance += e.amount,
        }
    }
}

// --- commands -----------------------------------------------------------------------------------

#[derive(Clone, Serialize, Deserialize)]
struct Open {
    owner: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Deposit {
    amount: u64,
}

struct Limits {
    most: u64,
}

impl Account {
    fn open(cmd: Open) -> Result<Opened, OverLimit> {
        Ok(Opened { owner: cmd.owner })
    }

    async fn deposit(&self, cmd: &Deposit, limits: &Limits) -> Result<Deposited, Failure<OverLimit>> {
        let most = std::future::ready(limits.most).await;
        if self.balance + cmd.amount > most {
            return Err(OverLimit.into());
        }
        Ok(Deposited { amount: cmd.amount })
    }
}

impl Command for Open {
    const NAME: &'static str = "open";
    type Aggregate = Account;
}

impl Handle<Open> for Account {
    const TARGET: Target = Target::New;
    type Env<'e> = ();

    async fn handle(&self, cmd: Open, (): ()) -> Result<Vec<AccountEvent>, Failure<OverLimit>> {
        Ok(Self::open(cmd)?.into_events())
    }
}

impl Command for Deposit {
    const NAME: &'static str = "deposit";
    type Aggregate = Account;
}

impl Handle<Deposit> for Account {
    const TARGET: Target = Target::Existing;
    type Env<'e> = (&'e Limits,);

    async fn handle<'a>(
        &'a self,
        cmd: Deposit,
        (limits,): Self::Env<'a>,
    ) -> Result<Vec<AccountEvent>, Failure<OverLimit>> {
        Ok(self.deposit(&cmd, limits).await?.into_events())
    }
}

impl Commands for Account {
    fn missing(services: &Services) -> Vec<String> {
        use es_core::command::missing_for;
        [missing_for::<Open>(services), missing_for::<Deposit>(services)].concat()
    }

    fn register(registry: &mut Registry) {
        registry.add::<Open>();
        registry.add::<Deposit>();
    }
}

// --- a view -------------------------------------------------------------------------------------

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Balance {
    owner: String,
    amount: u64,
}

impl Projection for Balance {
    const NAME: &'static str = "balance";
    const VERSION: u32 = 1;

    fn filter() -> EventFilter {
        EventFilter::types([Opened::SOURCES, Deposited::SOURCES].concat())
    }
}

impl View for Balance {
    type Key = AccountId;

    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let mut changes = Vec::new();
        let (mut at, mut more) = (0, true);
        while more {
            more = false;
            if let Some(payload) = nth::<Opened>(event, at, &mut more)? {
                Change::of(payload, event, &mut changes)?;
            }
            if let Some(payload) = nth::<Deposited>(event, at, &mut more)? {
                Change::of(payload, event, &mut changes)?;
            }
            at += 1;
        }
        Ok(changes)
    }
}

impl Fold<Opened> for Balance {
    // The row of the event's aggregate.
    fn keys(event: Recorded<'_, Opened>) -> Result<Vec<AccountId>, BoxError> {
        Ok(vec![event.aggregate_id()?])
    }

    fn fold(mut self, event: Recorded<'_, Opened>) -> Result<Option<Self>, BoxError> {
        self.owner.clone_from(&event.owner);
        Ok(Some(self))
    }
}

impl Fold<Deposited> for Balance {
    fn keys(event: Recorded<'_, Deposited>) -> Result<Vec<AccountId>, BoxError> {
        Ok(vec![event.aggregate_id()?])
    }

    fn fold(mut self, event: Recorded<'_, Deposited>) -> Result<Option<Self>, BoxError> {
        self.amount += event.amount;
        Ok(Some(self))
    }
}

/// A view by a field of the event: `#[on(by = owner)]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Owner {
    accounts: u32,
}

impl Projection for Owner {
    const NAME: &'static str = "owner";

    fn filter() -> EventFilter {
        EventFilter::of::<Opened>()
    }
}

impl View for Owner {
    type Key = String;

    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let mut changes = Vec::new();
        let (mut at, mut more) = (0, true);
        while more {
            more = false;
            if let Some(payload) = nth::<Opened>(event, at, &mut more)? {
                Change::of(payload, event, &mut changes)?;
            }
            at += 1;
        }
        Ok(changes)
    }
}

impl Fold<Opened> for Owner {
    fn keys(event: Recorded<'_, Opened>) -> Result<Vec<String>, BoxError> {
        Ok(IntoKeys::<String>::to_keys(&event.payload().owner))
    }

    fn fold(mut self, _: Recorded<'_, Opened>) -> Result<Option<Self>, BoxError> {
        self.accounts += 1;
        Ok(Some(self))
    }
}

// --- a projection, and queries -------------------------------------------------------------------

struct Totals;

impl Totals {
    // Not `async` and without a result: a handler is what you make it.
    fn opened(tx: &mut Tx) {
        let n = tx.get("totals", "accounts").map_or(0, |row| row[0]);
        tx.put("totals", "accounts", [n + 1]);
    }

    async fn deposited(e: &Deposited, tx: &mut Tx) -> Result<(), std::num::TryFromIntError> {
        let n = tx.get("totals", "money").map_or(0, |row| row[0]);
        tx.put("totals", "money", [n + u8::try_from(e.amount)?]);
        std::future::ready(Ok(())).await
    }
}

impl Projection for Totals {
    const NAME: &'static str = "totals";
    const VERSION: u32 = 1;
    // A SQL backend runs this before the first event; the memory backend has no SQL.
    const SCHEMA: &'static str = "";
    const ON_FAILURE: OnFailure = OnFailure::Stop;
    const PARTITION: Partition = Partition::Whole;
    const IDEMPOTENT: bool = false;

    fn filter() -> EventFilter {
        EventFilter::types([Opened::SOURCES, Deposited::SOURCES].concat())
    }
}

impl Project<Tx> for Totals {
    const ANSWERS: Answers = Answers::of::<Self>();

    async fn project(&self, event: &RecordedEvent, tx: &mut Tx) -> Result<(), BoxError> {
        let (mut at, mut more) = (0, true);
        while more {
            more = false;
            if let Some(payload) = nth::<Opened>(event, at, &mut more)? {
                self.on(Recorded::new(&payload, event), tx).await?;
            }
            if let Some(payload) = nth::<Deposited>(event, at, &mut more)? {
                self.on(Recorded::new(&payload, event), tx).await?;
            }
            at += 1;
        }
        Ok(())
    }
}

impl On<Opened, Tx> for Totals {
    async fn on(&self, _: Recorded<'_, Opened>, tx: &mut Tx) -> Result<(), BoxError> {
        Self::opened(tx);
        Ok(())
    }
}

impl On<Deposited, Tx> for Totals {
    async fn on(&self, event: Recorded<'_, Deposited>, tx: &mut Tx) -> Result<(), BoxError> {
        Self::deposited(&event, tx).await.boxed()
    }
}

#[derive(Clone)]
struct Total;
struct BalanceOf(AccountId);

impl Query for Total {
    type Answer = Option<u8>;
    type Handler = Totals;
}

impl Answer<Total> for Totals {
    type Env<'e> = (&'e Db,);

    async fn answer<'a>(&'a self, _: Total, (db,): Self::Env<'a>) -> Result<Option<u8>, BoxError> {
        Ok(db.row("totals", "money").map(|row| row[0]))
    }
}

impl Query for BalanceOf {
    type Answer = Option<Balance>;
    type Handler = Totals;
}

impl Answer<BalanceOf> for Totals {
    type Env<'e> = (&'e Views,);

    async fn answer<'a>(
        &'a self,
        q: BalanceOf,
        (views,): Self::Env<'a>,
    ) -> Result<Option<Balance>, BoxError> {
        views.get(&q.0).await
    }
}

/// A question to several: `#[gather]`.
#[derive(Clone)]
struct Count;

impl Gather for Count {
    type Answer = u8;
}

impl Gathers<Count> for Totals {
    type Env<'e> = (&'e Db,);

    async fn answer<'a>(&'a self, _: Count, (db,): Self::Env<'a>) -> Result<u8, BoxError> {
        Ok(db.row("totals", "accounts").map_or(0, |row| row[0]))
    }
}

impl Queries for Totals {
    fn missing(services: &Services) -> Vec<String> {
        use es_core::query::{missing_for, missing_for_gather};
        [
            missing_for::<Total>(services),
            missing_for::<BalanceOf>(services),
            missing_for_gather::<Count, Self>(services),
        ]
        .concat()
    }

    fn gather(to: &mut Gathering) {
        to.add::<Count, Self>();
    }
}

// --- a reactor ----------------------------------------------------------------------------------

#[derive(Default)]
struct Mailer(Mutex<Vec<String>>);

impl Mailer {
    async fn send(&self, text: String) -> Result<(), BoxError> {
        self.0.lock().map_err(|_| "the mailer is broken")?.push(text);
        std::future::ready(Ok(())).await
    }
}

struct Welcome;

impl Reactor for Welcome {
    const NAME: &'static str = "welcome";
    const WAS: Option<&'static str> = Some("greeting");
    const ON_FAILURE: OnFailure = OnFailure::Park;
    const PARTITION: Partition = Partition::Stream;
    const IN_FLIGHT: usize = 32;

    fn filter() -> EventFilter {
        EventFilter::of::<Opened>()
    }

    async fn react(&self, event: &RecordedEvent, scope: Scope<'_>) -> Result<(), BoxError> {
        let (mut at, mut more) = (0, true);
        while more {
            more = false;
            if let Some(payload) = nth::<Opened>(event, at, &mut more)? {
                let env = FromServices::from_services(scope)?;
                self.on(Recorded::new(&payload, event), env).await?;
            }
            at += 1;
        }
        Ok(())
    }

    fn missing(services: &Services) -> Vec<String> {
        missing_for_reactor::<Self, Opened>(services)
    }
}

impl React<Opened> for Welcome {
    type Env<'e> = (&'e Mailer,);

    async fn on<'a>(&'a self, e: Recorded<'a, Opened>, (mailer,): Self::Env<'a>) -> Result<(), BoxError> {
        mailer.send(format!("welcome, {} ({})", e.owner, e.aggregate_id()?)).await
    }
}

// --- and it runs --------------------------------------------------------------------------------

#[tokio::test]
async fn what_is_written_by_hand_runs() {
    let app = App::on(MemoryBackend::new())
        .provide(Limits { most: 100 })
        .provide(Mailer::default())
        .aggregate::<Account>()
        .view::<Balance>()
        .view::<Owner>()
        .projection(Totals)
        .reactor(Welcome)
        .start()
        .await
        .unwrap();
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await.unwrap();
    let done = app.send(&ada, Deposit { amount: 40 }).await.unwrap();
    assert_eq!(done.events, [Deposited { amount: 40 }.into()]);
    let refused = app.send(&ada, Deposit { amount: 61 }).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&OverLimit));

    app.settle(Duration::from_secs(5)).await.unwrap();
    let balance = app.query(BalanceOf(ada)).await.unwrap();
    assert_eq!(balance, Some(Balance { owner: "Ada".to_owned(), amount: 40 }));
    assert_eq!(app.query(Total).await.unwrap(), Some(40));
    assert!(matches!(app.gather(Count, Duration::from_secs(5)).await[..], [Ok(1)]));
    let views: &Views = app.services().get().unwrap();
    assert_eq!(views.get(&"Ada".to_owned()).await.unwrap(), Some(Owner { accounts: 1 }));
    let mailer: &Mailer = app.services().get().unwrap();
    assert_eq!(*mailer.0.lock().unwrap(), ["welcome, Ada (ada)"]);
}

#[tokio::test]
async fn start_lists_every_service_that_nobody_provided() {
    let wrong =
        App::on(MemoryBackend::new()).aggregate::<Account>().reactor(Welcome).start().await.unwrap_err();
    assert_eq!(wrong.0.len(), 2, "{wrong}");
    assert!(wrong.0[0].starts_with("command deposit of account: no `"), "{wrong}");
    assert!(wrong.0[1].starts_with("reactor welcome on account.opened: no `"), "{wrong}");
}

#[tokio::test]
async fn old_names_old_shapes_and_retired_events_are_read() {
    let app = App::on(MemoryBackend::new()).start().await.unwrap();
    app.send(&AccountId::from("ada"), Open { owner: "Ada".to_owned() }).await.unwrap();
    let read = app.store().read(&EventFilter::of::<Opened>(), Position(0), 1).await.unwrap();
    let mut stored = read.events[0].clone();
    let opened = Decoded::One(Opened { owner: "Ada".to_owned() }.into());
    assert_eq!(*stored.tags, [Tag::new("owner", "Ada").unwrap()]);
    assert_eq!(AccountEvent::decode(&stored).unwrap(), opened);
    stored.name = "account.created".into();
    assert_eq!(AccountEvent::decode(&stored).unwrap(), opened);

    let deposited = |amount| AccountEvent::from(Deposited { amount });
    (stored.name, stored.data) = ("account.deposited".into(), "7".into());
    assert_eq!(AccountEvent::decode(&stored).unwrap(), Decoded::One(deposited(7)));
    stored.schema = 3;
    assert!(AccountEvent::decode(&stored).unwrap_err().to_string().contains("newer than 2"));
    (stored.name, stored.data) = ("account.merged".into(), r#"{"amounts":[1,2]}"#.into());
    assert_eq!(AccountEvent::decode(&stored).unwrap(), Decoded::Many(vec![deposited(1), deposited(2)]));
    assert_eq!(nth::<Deposited>(&stored, 1, &mut false).unwrap(), Some(Deposited { amount: 2 }));
}

#[test]
fn the_page_shows_the_code_of_this_file() {
    let (page, here) = (include_str!("../src/docs/by_hand.md"), include_str!("by_hand.rs"));
    let blocks = page.split("```rust,ignore\n").skip(1).filter_map(|rest| rest.split("```").next());
    let items: Vec<&str> = blocks.flat_map(|block| block.trim_end().split("\n}\n\n")).collect();
    assert!(items.len() > 20, "the page has its code in blocks");
    for item in items {
        assert!(here.contains(item), "the page shows what is not in the test:\n{item}");
    }
}
