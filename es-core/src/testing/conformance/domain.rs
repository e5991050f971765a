//! What the suites are about: bank accounts with a history of changed events.
//!
//! Written by hand: this is what the macros write.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::EventOf;
use crate::codec::{DecodeError, EncodeError, Json};
use crate::command::{Context, Registry, missing_for};
use crate::event::{Decoded, EventData, EventType, IntoEvent, Tag};
use crate::services::Services;
use crate::snapshot::SnapshotPolicy;
use crate::store::{EventFilter, EventStore, ExpectedVersion, RecordedEvent};
use crate::{
    Aggregate, Apply, BoxError, Command, Commands, Decided, Decision, Event, Failure, Handle, Payload,
    Target, upcast,
};

/// A bank account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Whose.
    pub owner: String,
    /// How much is on it.
    pub balance: i64,
    /// How many events made it: shows an event that is folded twice, or not.
    pub n_events: u64,
    /// Whether it has ended.
    pub closed: bool,
}

/// The account was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// By whom.
    pub owner: String,
}

/// Money came in. Stored: the third shape; the second had no reference, the first counted in cents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deposited {
    /// How much.
    pub amount: i64,
    /// What for.
    pub reference: Option<String>,
}

/// Money went out. Stored as `account.debited` before it had this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// How much.
    pub amount: i64,
}

/// The account was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {}

/// A rate was agreed on. Its only upcaster panics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rated {
    /// The rate.
    pub rate: f64,
}

#[derive(Deserialize)]
struct DepositedV1 {
    cents: i64,
}

#[derive(Deserialize)]
struct DepositedV2 {
    amount: i64,
}

/// Retired: it became a withdrawal and a deposit.
#[derive(Deserialize)]
struct Exchanged {
    out: i64,
    back: i64,
}

impl From<DepositedV1> for DepositedV2 {
    fn from(old: DepositedV1) -> Self {
        Self { amount: old.cents / 100 }
    }
}

impl From<DepositedV2> for Deposited {
    fn from(old: DepositedV2) -> Self {
        Self { amount: old.amount, reference: None }
    }
}

/// What happens to an account.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AccountEvent {
    /// It was opened.
    Opened(Opened),
    /// Money came in.
    Deposited(Deposited),
    /// Money went out.
    Withdrawn(Withdrawn),
    /// It was closed.
    Closed(Closed),
    /// A rate was agreed on.
    Rated(Rated),
}

impl Event for AccountEvent {
    const TYPES: &'static [EventType] = &[
        EventType { name: "account.opened", schema: 1 },
        EventType { name: "account.deposited", schema: 3 },
        EventType { name: "account.withdrawn", schema: 1 },
        EventType { name: "account.closed", schema: 1 },
        EventType { name: "account.rated", schema: 2 },
        EventType { name: "account.debited", schema: 1 },
        EventType { name: "account.exchanged", schema: 1 },
        EventType { name: "account.noted", schema: 1 },
    ];

    fn encode(&self) -> Result<EventData, EncodeError> {
        match self {
            Self::Opened(e) => {
                let tags = vec![Tag::new("owner", &e.owner)?];
                upcast::encode::<Json, _>("account.opened", 1, e, tags)
            }
            Self::Deposited(e) => upcast::encode::<Json, _>("account.deposited", 3, e, Vec::new()),
            Self::Withdrawn(e) => upcast::encode::<Json, _>("account.withdrawn", 1, e, Vec::new()),
            Self::Closed(e) => upcast::encode::<Json, _>("account.closed", 1, e, Vec::new()),
            Self::Rated(e) => upcast::encode::<Json, _>("account.rated", 2, e, Vec::new()),
        }
    }

    fn decode(stored: &RecordedEvent) -> Result<Decoded<Self>, DecodeError> {
        let newest = Self::TYPES.iter().find(|t| stored.name == *t.name).map_or(0, |t| t.schema);
        Ok(Decoded::One(match (&*stored.name, stored.schema) {
            ("account.opened", 1) => Self::Opened(upcast::decode::<Json, _>(stored)?),
            ("account.deposited", 1) => {
                let old: DepositedV1 = upcast::decode::<Json, _>(stored)?;
                Self::Deposited(upcast::upcast(stored, || DepositedV2::from(old).into())?)
            }
            ("account.deposited", 2) => {
                let old: DepositedV2 = upcast::decode::<Json, _>(stored)?;
                Self::Deposited(upcast::upcast(stored, || old.into())?)
            }
            ("account.deposited", 3) => Self::Deposited(upcast::decode::<Json, _>(stored)?),
            ("account.withdrawn" | "account.debited", 1) => {
                Self::Withdrawn(upcast::decode::<Json, _>(stored)?)
            }
            ("account.closed", 1) => Self::Closed(upcast::decode::<Json, _>(stored)?),
            ("account.rated", 1) => upcast::upcast(stored, || panic!("no rate to be found"))?,
            ("account.rated", 2) => Self::Rated(upcast::decode::<Json, _>(stored)?),
            ("account.exchanged", 1) => {
                let Exchanged { out, back } = upcast::decode::<Json, _>(stored)?;
                return Ok(Decoded::Many(vec![withdrawn(out), deposited(back)]));
            }
            ("account.noted", 1) => return Ok(Decoded::Many(Vec::new())),
            _ => return Err(upcast::unreadable(stored, newest)),
        }))
    }
}

impl IntoEvent for AccountEvent {
    type Event = Self;
    fn into_event(self) -> Self {
        self
    }
}

macro_rules! payloads { ($($name:ident = $stored:literal, $sources:expr;)+) => { $(
    impl IntoEvent for $name {
        type Event = AccountEvent;
        fn into_event(self) -> AccountEvent {
            AccountEvent::$name(self)
        }
    }

    impl Payload for $name {
        const NAME: &'static str = $stored;
        const SOURCES: &'static [&'static str] = &$sources;
        fn from_event(event: AccountEvent) -> Result<Self, AccountEvent> {
            match event {
                AccountEvent::$name(payload) => Ok(payload),
                other => Err(other),
            }
        }
    }
)+ } }

payloads! {
    Opened = "account.opened", ["account.opened"];
    Deposited = "account.deposited", ["account.deposited", "account.exchanged"];
    Withdrawn = "account.withdrawn", ["account.withdrawn", "account.debited", "account.exchanged"];
    Closed = "account.closed", ["account.closed"];
    Rated = "account.rated", ["account.rated"];
}

/// An [`Opened`] event.
#[must_use]
pub fn opened(owner: &str) -> AccountEvent {
    AccountEvent::Opened(Opened { owner: owner.to_owned() })
}

/// A [`Deposited`] event.
#[must_use]
pub const fn deposited(amount: i64) -> AccountEvent {
    AccountEvent::Deposited(Deposited { amount, reference: None })
}

/// A [`Withdrawn`] event.
#[must_use]
pub const fn withdrawn(amount: i64) -> AccountEvent {
    AccountEvent::Withdrawn(Withdrawn { amount })
}

/// Why an account says no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// There is not that much on it.
    #[error("the account has only {balance}")]
    Overdrawn {
        /// What is on it.
        balance: i64,
    },
}

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type Id = String;
    type Event = AccountEvent;
    type Error = AccountError;

    fn snapshots() -> SnapshotPolicy<Self> {
        SnapshotPolicy::every(10)
    }
}

impl EventOf for AccountEvent {
    type Aggregate = Account;
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        self.n_events += 1;
        match event {
            AccountEvent::Opened(e) => self.owner.clone_from(&e.owner),
            AccountEvent::Deposited(e) => self.balance += e.amount,
            AccountEvent::Withdrawn(e) => self.balance -= e.amount,
            AccountEvent::Closed(_) => self.closed = true,
            AccountEvent::Rated(_) => {}
        }
    }

    fn ended(&self) -> bool {
        self.closed
    }
}

/// Opens an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// For whom.
    pub owner: String,
}

/// Pays in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deposit {
    /// How much.
    pub amount: i64,
}

/// Takes out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Withdraw {
    /// How much.
    pub amount: i64,
}

/// Pays in, into an account that need not be there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Donate {
    /// How much.
    pub amount: i64,
}

/// Pays in one by one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Split {
    /// How often.
    pub times: u32,
}

/// Agrees on a rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// `NaN` as text is no number in JSON either, so a command can carry it.
    pub rate: String,
}

/// Closes the account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Close {}

/// Decides nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Look {}

/// Pays in with the call's own context as the reference.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stamp {}

/// Its handler panics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Panic {}

/// Asks a service that fails.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verify {}

/// Pays in once a [`Gate`] is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wait {}

/// Pays in, while a [`Rival`] does so too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contend {}

/// Holds handlers back until it is opened.
#[derive(Clone, Debug)]
pub struct Gate {
    inside: Arc<tokio::sync::Semaphore>,
    open: Arc<tokio::sync::Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        let closed = || Arc::new(tokio::sync::Semaphore::new(0));
        Self { inside: closed(), open: closed() }
    }
}

impl Gate {
    /// Until a handler stands before the gate.
    pub async fn reached(&self) {
        self.inside.acquire().await.expect("never closed").forget();
    }

    /// Lets one handler pass.
    pub fn open(&self) {
        self.open.add_permits(1);
    }

    async fn pass(&self) {
        self.inside.add_permits(1);
        self.open.acquire().await.expect("never closed").forget();
    }
}

/// Appends to the stream that a command is about, just before the command does.
#[derive(Clone, Debug)]
pub struct Rival {
    /// Where to.
    pub store: Arc<dyn EventStore>,
    /// How often, at most.
    pub times: Arc<std::sync::atomic::AtomicU32>,
}

impl Rival {
    async fn interfere(&self, stream: &crate::StreamId) {
        use std::sync::atomic::Ordering::Relaxed;
        if self.times.load(Relaxed) > 0 {
            self.times.fetch_sub(1, Relaxed);
            let append =
                super::data::append(stream, ExpectedVersion::Any, vec![super::data::encoded(&deposited(1))]);
            super::patient::commit(&*self.store, append).await.expect("`Any` never conflicts");
        }
    }
}

type Decides = Result<Vec<AccountEvent>, Failure<AccountError>>;

macro_rules! commands { ($($name:ident = $stored:literal;)+) => {
    $(impl Command for $name {
        const NAME: &'static str = $stored;
        type Aggregate = Account;
    })+

    impl Commands for Account {
        fn missing(services: &Services) -> Vec<String> {
            [$(missing_for::<$name>(services)),+].concat()
        }

        fn register(registry: &mut Registry) {
            $(registry.add::<$name>();)+
        }
    }
} }

commands! {
    Open = "open";
    Deposit = "deposit";
    Withdraw = "withdraw";
    Donate = "donate";
    Split = "split";
    Rate = "rate";
    Close = "close";
    Look = "look";
    Stamp = "stamp";
    Panic = "panic";
    Verify = "verify";
    Wait = "wait";
    Contend = "contend";
}

impl Handle<Open> for Account {
    const TARGET: Target = Target::New;
    type Env<'e> = ();
    async fn handle(&self, cmd: Open, (): ()) -> Decides {
        Ok(vec![opened(&cmd.owner)])
    }
}

impl Handle<Deposit> for Account {
    type Env<'e> = ();
    async fn handle(&self, cmd: Deposit, (): ()) -> Decides {
        Ok(vec![deposited(cmd.amount)])
    }
}

impl Handle<Withdraw> for Account {
    type Env<'e> = ();
    async fn handle(&self, cmd: Withdraw, (): ()) -> Decides {
        if cmd.amount > self.balance {
            return Err(AccountError::Overdrawn { balance: self.balance }.into());
        }
        Ok(vec![withdrawn(cmd.amount)])
    }
}

impl Handle<Donate> for Account {
    const TARGET: Target = Target::Either;
    type Env<'e> = ();
    async fn handle(&self, cmd: Donate, (): ()) -> Decides {
        Ok(vec![deposited(cmd.amount)])
    }
}

impl Handle<Split> for Account {
    type Env<'e> = ();
    async fn handle(&self, cmd: Split, (): ()) -> Decides {
        Ok((0..cmd.times).map(|_| deposited(1)).collect())
    }
}

impl Handle<Rate> for Account {
    type Env<'e> = ();
    async fn handle(&self, cmd: Rate, (): ()) -> Decides {
        let rate = cmd.rate.parse().map_err(Failure::service)?;
        Ok(vec![AccountEvent::Rated(Rated { rate })])
    }
}

impl Handle<Close> for Account {
    type Env<'e> = ();
    async fn handle(&self, _: Close, (): ()) -> Decides {
        Ok(vec![AccountEvent::Closed(Closed {})])
    }
}

impl Handle<Look> for Account {
    type Env<'e> = ();
    async fn handle(&self, _: Look, (): ()) -> Decides {
        Ok(Vec::new())
    }
}

impl Handle<Stamp> for Account {
    type Env<'e> = (&'e Context,);
    async fn handle<'a>(&'a self, _: Stamp, (context,): (&'a Context,)) -> Decides {
        let who = (context.actor().unwrap_or_default(), context.tenant().unwrap_or_default());
        let reference = Some(format!("{} {} {}", context.now(), who.0, who.1));
        Ok(vec![AccountEvent::Deposited(Deposited { amount: 0, reference })])
    }
}

impl Handle<Panic> for Account {
    type Env<'e> = ();
    async fn handle(&self, _: Panic, (): ()) -> Decides {
        panic!("a handler that panics")
    }
}

impl Handle<Verify> for Account {
    type Env<'e> = ();
    async fn handle(&self, _: Verify, (): ()) -> Decides {
        Err(Failure::service("the service is down"))
    }
}

impl Handle<Wait> for Account {
    type Env<'e> = (&'e Gate,);
    async fn handle<'a>(&'a self, _: Wait, (gate,): (&'a Gate,)) -> Decides {
        gate.pass().await;
        Ok(vec![deposited(1)])
    }
}

impl Handle<Contend> for Account {
    type Env<'e> = (&'e Rival, &'e Context);
    async fn handle<'a>(&'a self, _: Contend, (rival, context): (&'a Rival, &'a Context)) -> Decides {
        rival.interfere(context.stream()).await;
        Ok(vec![deposited(100)])
    }
}

/// Opens the first account of an owner: a decision over all accounts.
#[derive(Clone, Debug)]
pub struct OpenFirst {
    /// For whom.
    pub owner: String,
    /// The account's id.
    pub id: String,
}

/// The owner has an account already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the owner has an account already")]
#[non_exhaustive]
pub struct HasAccount;

impl Decision for OpenFirst {
    type State = bool;
    type Error = HasAccount;

    fn scope(&self) -> EventFilter {
        EventFilter::of::<Opened>().tagged(&Tag::new("owner", &self.owner).expect("a short name"))
    }

    fn apply(&self, has_account: &mut bool, event: &RecordedEvent) -> Result<(), BoxError> {
        *has_account = event.payload::<Opened>()?.is_some_and(|opened| opened.owner == self.owner);
        Ok(())
    }

    fn decide(self, has_account: &bool) -> Result<Vec<Decided>, HasAccount> {
        if *has_account {
            return Err(HasAccount);
        }
        Ok(vec![Decided::on::<Account>(&self.id, opened(&self.owner)).expecting(ExpectedVersion::NoStream)])
    }
}
