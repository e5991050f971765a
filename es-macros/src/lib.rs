//! Derives and attributes of `es-core`; use them through its re-exports.
//!
//! Derives add, attributes never replace: a block comes back as it was written, with impls beside it.
//! Whatever is written here can be written by hand; the guide of `es-core` shows how.
//!
//! Every macro takes `crate = path` for a program that knows `es-core` by another path.
//!
//! ```
//! use es_core::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(AggregateId, Clone, Debug, PartialEq, Serialize, Deserialize)]
//! struct AccountId(String);
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
//! struct Opened { owner: String }
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
//! struct Deposited { amount: u64 }
//!
//! #[derive(Event, Clone, Debug, PartialEq)]
//! #[event(prefix = "account")]
//! enum AccountEvent {
//!     Opened(Opened),
//!     Deposited(Deposited),
//! }
//!
//! #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
//! #[error("nothing to deposit")]
//! struct Nothing;
//!
//! #[derive(Aggregate, Clone, Default)]
//! #[aggregate(id = AccountId, event = AccountEvent, error = Nothing)]
//! struct Account { balance: u64 }
//!
//! impl Apply for Account {
//!     fn apply(&mut self, event: &AccountEvent) {
//!         match event {
//!             AccountEvent::Opened(_) => {}
//!             AccountEvent::Deposited(e) => self.balance += e.amount,
//!         }
//!     }
//! }
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Open { owner: String }
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Deposit { amount: u64 }
//!
//! #[commands]
//! impl Account {
//!     fn open(cmd: Open) -> Result<Opened, Nothing> {
//!         Ok(Opened { owner: cmd.owner })
//!     }
//!
//!     fn deposit(&self, cmd: Deposit) -> Result<Deposited, Nothing> {
//!         if cmd.amount == 0 { Err(Nothing) } else { Ok(Deposited { amount: cmd.amount }) }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let app = App::on(es_core::memory::MemoryBackend::new()).aggregate::<Account>().start().await?;
//! let ada = AccountId::from("ada");
//! app.send(&ada, Open { owner: "Ada".into() }).await?;
//! let done = app.send(&ada, Deposit { amount: 5 }).await?;
//! assert_eq!(done.events, [Deposited { amount: 5 }.into()]);
//! # Ok(())
//! # }
//! ```

mod ast;
mod attr;
mod check;
mod ctxt;
mod expand;
mod fallback;
mod fingerprint;
mod names;
mod span;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use syn::{DeriveInput, parse_macro_input};

use crate::ctxt::Ctxt;

/// The events of one aggregate: an enum with a variant for each payload struct.
///
/// Writes `Event` and `IntoEvent` for the enum; for each payload `Payload`, `IntoEvent`, and `From` into the enum.
/// A payload is serde, and belongs to one variant of one enum, so it has one stored name.
///
/// On the enum, `#[event(..)]`:
///
/// | key | meaning |
/// | --- | --- |
/// | `prefix = "account"` | stored names are `account.` and the variant in snake case; required unless every variant has a `name` |
/// | `codec = MyCodec` | how payloads become bytes; JSON by default |
/// | `retired("account.moved" = Moved)` | an event that nothing writes any more, with `From<Moved> for Vec<TheEnum>` |
///
/// On a variant, `#[event(..)]`:
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "account.opened"` | the whole stored name; pin it before you rename the variant |
/// | `version = 2` | the schema of the payload, 1 by default |
/// | `upcast(1 = OpenedV1)` | the old shape, with `From<OpenedV1>` for the next one |
/// | `was("account.created")` | names it was stored under before |
/// | `tags(course, student = pupil.id)` | what filters and conditions find it by: a name and a field |
///
/// ```
/// use es_core::{Event, Payload};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// struct Withdrawn { amount: u64, fee: u64 }
///
/// // Stored: change by upcasting.
/// #[derive(Deserialize)]
/// struct WithdrawnV1 { amount: u64 }
///
/// impl From<WithdrawnV1> for Withdrawn {
///     fn from(old: WithdrawnV1) -> Self {
///         Self { amount: old.amount, fee: 0 }
///     }
/// }
///
/// #[derive(Event, Clone, Debug, PartialEq)]
/// #[event(prefix = "account")]
/// enum AccountEvent {
///     #[event(version = 2, upcast(1 = WithdrawnV1), was("account.paid"), tags(amount))]
///     Withdrawn(Withdrawn),
/// }
///
/// assert_eq!(Withdrawn::NAME, "account.withdrawn");
/// assert_eq!(Withdrawn::SOURCES, ["account.withdrawn", "account.paid"]);
/// assert_eq!(AccountEvent::TYPES[0].schema, 2);
/// ```
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let cx = Ctxt::new();
    let written = ast::EventEnum::parse(&cx, &input).map(|mut events| {
        check::event_enum(&cx, &mut events);
        expand::event(&events, cx.failed())
    });
    finish(cx, written.unwrap_or_default()).into()
}

/// A type of yours as an aggregate: its state, folded from events.
///
/// Writes `Aggregate`, and `EventOf` for the event enum. The fold, `Apply`, is yours: a `match`.
///
/// | key of `#[aggregate(..)]` | meaning |
/// | --- | --- |
/// | `id = AccountId` | what names one of them |
/// | `event = AccountEvent` | what happens to it |
/// | `error = AccountError` | why it says no; stored, so it is serde |
/// | `name = "account"` | stored: the first part of its streams; the type in snake case by default |
/// | `snapshot(every = 200, version = 2)` | a snapshot each 200 events; another version when the state changes its shape |
/// | `snapshots = path::to::policy` | a function that returns the `SnapshotPolicy` |
///
/// ```
/// use es_core::{Aggregate, Event};
/// use serde::{Deserialize, Serialize};
///
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Opened {}
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "account")]
/// # enum AccountEvent { Opened(Opened) }
/// # #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
/// # #[error("no")]
/// # struct AccountError;
/// #[derive(Aggregate, Clone, Default, Serialize, Deserialize)]
/// #[aggregate(id = String, event = AccountEvent, error = AccountError, snapshot(every = 200))]
/// struct Account {
///     balance: u64,
/// }
///
/// assert_eq!(Account::NAME, "account");
/// ```
#[proc_macro_derive(Aggregate, attributes(aggregate))]
pub fn aggregate(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let cx = Ctxt::new();
    let written = ast::AggregateType::parse(&cx, &input).map(|aggregate| expand::aggregate(&aggregate));
    finish(cx, written.unwrap_or_default()).into()
}

/// A newtype as the id of an aggregate: its text is that of what it holds.
///
/// Writes `Display`, `FromStr` and `From` of the inner type; around a `String` also `From<&str>`.
///
/// ```
/// use es_core::AggregateId;
///
/// #[derive(AggregateId, Clone, Debug, PartialEq)]
/// struct AccountId(String);
///
/// #[derive(AggregateId, Clone, Debug, PartialEq)]
/// struct OrderId(u64);
///
/// assert_eq!(AccountId::from("ada").to_string(), "ada");
/// assert_eq!(OrderId::parse("7"), Some(OrderId(7)));
/// ```
#[proc_macro_derive(AggregateId)]
pub fn aggregate_id(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let cx = Ctxt::new();
    let written = expand::aggregate_id(&cx, &input);
    finish(cx, written).into()
}

/// The commands of an aggregate: every function of the block is one.
///
/// Writes `Command` for each request and `Handle` for the aggregate, and `Commands` for the check at start.
///
/// - A function without `self` creates; a method with `&self` needs an aggregate that exists; with
///   `#[create_if_missing]` it may be there or not.
/// - It takes the command by value. Further parameters are services, by shared reference: values given to
///   `.provide(..)`, or `&Context`.
/// - It returns `Result<events, error>`: a payload, the enum, `Option`, `Vec`, an array, a tuple, or `()`; and the
///   aggregate's error, or `Failure` of it if it asks services that can fail.
/// - It may be `async`.
/// - The stored name of a command is its type in snake case, unless `#[command(name = "..")]` says otherwise.
///
/// Helpers live in a plain `impl` block. A second block of one type does not compile.
///
/// ```
/// # use es_core::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Withdrawn { amount: u64 }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "account")]
/// # enum AccountEvent { Withdrawn(Withdrawn) }
/// # #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
/// # #[error("overdrawn")]
/// # struct Overdrawn;
/// # #[derive(Aggregate, Clone, Default)]
/// # #[aggregate(id = String, event = AccountEvent, error = Overdrawn)]
/// # struct Account { balance: u64 }
/// # impl Apply for Account {
/// #     fn apply(&mut self, _: &AccountEvent) {}
/// # }
/// # struct Limits;
/// # impl Limits {
/// #     async fn daily(&self) -> Result<u64, std::io::Error> { Ok(1) }
/// # }
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Withdraw { amount: u64 }
///
/// #[commands]
/// impl Account {
///     async fn withdraw(&self, cmd: Withdraw, limits: &Limits) -> Result<Withdrawn, Failure<Overdrawn>> {
///         let daily = limits.daily().await.map_err(Failure::service)?;
///         if cmd.amount > self.balance.min(daily) {
///             return Err(Overdrawn.into());
///         }
///         Ok(Withdrawn { amount: cmd.amount })
///     }
/// }
///
/// assert_eq!(Withdraw::NAME, "withdraw");
/// ```
#[proc_macro_attribute]
pub fn commands(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::commands, expand::COMMANDS_HELPERS, args.into(), item.into()).into()
}

/// Answers to queries: every method of the block is one.
///
/// Writes `Query` for each question and `Answer` for the type, and `Queries` for the check at start.
/// A method takes `&self`, the query by value, and services by shared reference; it returns a `Result` whose error can
/// be boxed, or `Rows<..>` for an answer that is read row by row.
///
/// A query has one handler. With `#[gather]` on the method it is a question to several: the question says what is
/// answered, `impl Gather for Quote { type Answer = u32; }`, and `Gathers` is written instead of `Query` and `Answer`.
///
/// ```
/// use es_core::{BoxError, Gather, Query, Views, queries};
///
/// struct BalanceOf(String);
/// struct Balances;
///
/// #[derive(Clone)]
/// struct Quote { weight: u32 }
///
/// impl Gather for Quote {
///     type Answer = u32;
/// }
///
/// #[queries]
/// impl Balances {
///     async fn balance(&self, q: BalanceOf, views: &Views) -> Result<Option<u64>, BoxError> {
///         # let _ = (q.0, views);
///         Ok(None)
///     }
///
///     #[gather]
///     async fn quote(&self, q: Quote) -> Result<u32, BoxError> {
///         Ok(q.weight * 3)
///     }
/// }
/// # fn check<Q: Query<Handler = Balances, Answer = Option<u64>>>() {}
/// # check::<BalanceOf>();
/// # fn gathers<H: es_core::query::Gathers<Quote>>() {}
/// # gathers::<Balances>();
/// ```
#[proc_macro_attribute]
pub fn queries(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::queries, expand::QUERIES_HELPERS, args.into(), item.into()).into()
}

/// A keyed view: one row per key, folded in memory, on any backend.
///
/// Writes `Projection` and `View`, and `Fold` for each method.
/// A method takes `&mut self` and an event, `&Opened` or `Recorded<'_, Opened>`; it returns nothing or a `Result`.
/// The type is serde, `Clone`, and `Default`: a row begins as that.
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "balance"` | stored: names its rows and its checkpoint |
/// | `version = 2` | another version starts from nothing; 1 by default |
/// | `key = AccountId` | what names a row |
/// | `on_failure = park` | what becomes of an event that a handler cannot take in: `park` it with what follows for its key, which is what happens by default; `skip` it; or `stop` |
/// | `idempotent` | the handlers may see an event again that they have taken in: then it can be reset to a position |
///
/// A row is that of the event's aggregate, unless `#[on(by = field)]` on the method names a field or a method of
/// the event: a key, an `Option` or a `Vec` of keys.
///
/// ```
/// # use es_core::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Opened { owner: String }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "account")]
/// # enum AccountEvent { Opened(Opened) }
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Owner {
///     accounts: u32,
/// }
///
/// #[view(name = "owner", key = String)]
/// impl Owner {
///     #[on(by = owner)]
///     fn opened(&mut self, _: &Opened) {
///         self.accounts += 1;
///     }
/// }
/// # assert_eq!((Owner::NAME, Owner::VERSION), ("owner", 1));
/// # use es_core::Projection;
/// ```
#[proc_macro_attribute]
pub fn view(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::view, expand::VIEW_HELPERS, args.into(), item.into()).into()
}

/// A projection: events into the tables of a backend, with the user's own statements.
///
/// Writes `Projection` and `Project`, and `On` for each method.
/// A method takes `&self`, an event, `&Opened` or `Recorded<'_, Opened>`, and `&mut Tx` of the backend; it returns nothing
/// or a `Result` whose error can be boxed.
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "balances"` | stored: names its checkpoint |
/// | `version = 2` | another version starts from nothing; 1 by default |
/// | `schema = "balances.sql"` | the DDL of its tables, a file beside this one |
/// | `schema_sql = "create table .."` | the DDL in place |
/// | `on_failure = park` | what becomes of an event that a handler cannot take in: `park` it with what follows for its key, which is what happens by default; `skip` it; or `stop` |
/// | `partition = stream` | streams may be worked on at the same time, for no two touch the same row; `whole` by default |
/// | `idempotent` | the handlers may see an event again that they have taken in: then it can be reset to a position |
///
/// If the type has a `#[queries]` block as well, that comes with it.
///
/// ```
/// use es_core::memory::Tx;
/// # use es_core::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Opened { owner: String }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "account")]
/// # enum AccountEvent { Opened(Opened) }
///
/// struct Owners;
///
/// #[projection(name = "owners", version = 1, on_failure = stop, partition = stream)]
/// impl Owners {
///     async fn opened(&self, e: Recorded<'_, Opened>, tx: &mut Tx) -> Result<(), BoxError> {
///         tx.put("owners", &e.owner, e.stream().as_str());
///         Ok(())
///     }
/// }
/// ```
#[proc_macro_attribute]
pub fn projection(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::projection, &[], args.into(), item.into()).into()
}

/// A reactor: events into effects outside, with services and nothing to write through.
///
/// Writes `Reactor`, and `React` for each method.
/// A method takes `&self`, an event, `&Opened` or `Recorded<'_, Opened>`, and services by shared reference; it returns
/// nothing or a `Result` whose error can be boxed.
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "welcome"` | stored: names its checkpoint |
/// | `was = "greeting"` | the name that it had before: it continues where that one is |
/// | `on_failure = park` | what becomes of an event that a handler cannot act on: `park` it with what follows for its key, which is what happens by default; `skip` it; or `stop` |
/// | `partition = stream` | one stream need not wait for another: several nodes share them, and calls for several are in flight at the same time. `whole`, all events in the order of the log, is what happens by default |
/// | `in_flight = 32` | with `partition = stream`: how many calls are in flight at most; 16 by default |
///
/// ```
/// # use es_core::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Opened { owner: String }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "account")]
/// # enum AccountEvent { Opened(Opened) }
/// # struct Mailer;
/// # impl Mailer {
/// #     async fn send(&self, _: &str) -> Result<(), std::io::Error> { Ok(()) }
/// # }
/// struct Welcome;
///
/// #[reactor(name = "welcome", on_failure = skip)]
/// impl Welcome {
///     async fn opened(&self, e: Recorded<'_, Opened>, mailer: &Mailer) -> Result<(), std::io::Error> {
///         mailer.send(&e.owner).await
///     }
/// }
/// ```
#[proc_macro_attribute]
pub fn reactor(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::reactor, &[], args.into(), item.into()).into()
}

/// A process of the crate `sagas`: reacts to events with commands and timers, and remembers in between.
///
/// Writes `Process`; `On` for each handler of an event, `OnRefused` and `OnTimer` for the others; `Sends` for each command.
/// A method takes `&mut self` and one input, and returns `Next<Self>`, or a `Result` with one.
/// The struct is the state: it has `Default` (how an instance begins), `Serialize` and `Deserialize`.
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "transfer"` | stored: names its instances and its checkpoint |
/// | `version = 2` | of the definition; an instance keeps the one that it began with; 1 by default |
/// | `key = TransferId` | what names an instance |
/// | `sends(Withdraw, Deposit)` | every command that it may send |
/// | `after_end = again` | a start behind the end of an instance begins another one; by default it is a duplicate |
/// | `keep_ended_days = 30` | an instance that has ended is forgotten after so many days, one at least: a start event that comes later begins another one; by default it is kept for ever |
/// | `earlier(TransferV1)` | definitions of before, of which there may still be instances |
///
/// | attribute of a method | its input |
/// | --- | --- |
/// | `#[starts(by = id)]` | an event that starts the instance that it names, if there is none; without `by`, that of the event's aggregate. A process has at least one |
/// | `#[on(by = transfer)]` | an event, for the instance that it names: a field or a method that gives the key, an `Option` or a `Vec` of keys; without `by`, the id of the event's aggregate |
/// | `#[on(by = receipt, via = "receipt")]` | the same, for all instances that are associated with this value under this name |
/// | `#[on(.., early = stash)]` | one that comes before its instance waits for it; by default it is ignored |
/// | `#[refused]` | `Refused<C>`: a command was refused |
/// | `#[timer]` | a timer, by value |
///
/// ```
/// # use std::time::Duration;
/// # use es_core::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Placed { order: String, seat: String }
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Paid { order: String }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "order")]
/// # enum OrderEvent { Placed(Placed), Paid(Paid) }
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Locked { order: String }
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Unlocked {}
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "seat")]
/// # enum SeatEvent { Locked(Locked), Unlocked(Unlocked) }
/// # #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
/// # #[error("it is taken")]
/// # struct Taken {}
/// # #[derive(Aggregate, Clone, Default)]
/// # #[aggregate(id = String, event = SeatEvent, error = Taken)]
/// # struct Seat;
/// # impl Apply for Seat { fn apply(&mut self, _: &SeatEvent) {} }
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Lock { order: String }
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Unlock {}
/// # #[commands]
/// # impl Seat {
/// #     #[create_if_missing]
/// #     fn lock(&self, cmd: Lock) -> Result<Locked, Taken> { Ok(Locked { order: cmd.order }) }
/// #     fn unlock(&self, _: Unlock) -> Result<Unlocked, Taken> { Ok(Unlocked {}) }
/// # }
/// use sagas::{Next, Refused, Timer, process};
///
/// /// A seat is held for half an hour.
/// #[derive(Default, Serialize, Deserialize)]
/// struct Hold {
///     seat: String,
/// }
///
/// #[derive(Timer, Serialize, Deserialize)]
/// struct HoldOver {}
///
/// #[process(name = "hold", key = String, sends(Lock, Unlock))]
/// impl Hold {
///     #[starts(by = order)]
///     fn placed(&mut self, e: &Placed) -> Next<Self> {
///         self.seat = e.seat.clone();
///         Next::send(&e.seat, Lock { order: e.order.clone() })
///     }
///
///     #[refused]
///     fn seat_taken(&mut self, _: Refused<Lock>) -> Next<Self> {
///         Next::end()
///     }
///
///     #[on(by = order)]
///     fn locked(&mut self, _: &Locked) -> Next<Self> {
///         Next::wait().timer(Duration::from_secs(30 * 60), HoldOver {})
///     }
///
///     #[on(by = order)]
///     fn paid(&mut self, _: &Paid) -> Next<Self> {
///         Next::end()
///     }
///
///     #[timer]
///     fn hold_over(&mut self, _: HoldOver) -> Next<Self> {
///         Next::send(&self.seat, Unlock {}).and_end()
///     }
///
///     #[refused]
///     fn is_unlocked(&mut self, _: Refused<Unlock>) -> Next<Self> {
///         Next::wait()
///     }
/// }
/// ```
#[proc_macro_attribute]
pub fn process(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::process, expand::PROCESS_HELPERS, args.into(), item.into()).into()
}

/// What a relay of the crate `sagas` sends: events into messages.
///
/// Writes `Publishes`.
/// A method takes `&self` and an event, `&Placed` or `Recorded<'_, Placed>`, and returns a `Message`, an `Option` or a `Vec`
/// of messages, or a `Result` with one of these. The same event gives the same messages, always: so it takes no services.
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "orders"` | stored: names the relay, its checkpoint and its messages |
///
/// `#[on(by = customer)]` on a method gives the key by which its messages are in order: a field or a method of the event.
/// Without it that is the stream of the event.
///
/// ```
/// # use es_core::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Placed { total: u64, customer: String, note: String }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "order")]
/// # enum OrderEvent { Placed(Placed) }
/// use sagas::publishes;
/// use sagas::relay::Message;
///
/// /// What others are told of orders: not all that we know.
/// #[derive(Serialize)]
/// struct OrderPlaced {
///     total: u64,
/// }
///
/// struct Orders;
///
/// #[publishes(name = "orders")]
/// impl Orders {
///     #[on(by = customer)]
///     fn placed(&self, e: &Placed) -> Message {
///         Message::of(&OrderPlaced { total: e.total }).typed("com.example.order.placed")
///     }
/// }
/// ```
#[proc_macro_attribute]
pub fn publishes(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::publishes, expand::PUBLISHES_HELPERS, args.into(), item.into()).into()
}

/// A step of a saga of the crate `sagas`: writes `Step`, and `Undo` for the method that undoes it.
///
/// The block has the method that runs the step, and the one that undoes it if `undo` names it. Both are as those of the
/// traits: where the step lives, what it needs, leaves and refuses with is read from their types, which are written out.
/// `&mut Call` is elsewhere, another `&mut` the database of the journal, unless `place` says where.
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "reserve"` | stored |
/// | `undo = release` | the method that undoes it |
/// | `place = Guarded<Stock>` | where it lives: a database that has guard rows |
/// | `unknown = fence` | what is done with a step that may have run: `settle` it, `fence` it, or `park`; as its place says by default |
/// | `retry = Retry::default().tries(3)` | how it is tried |
/// | `limit = Duration::from_secs(5)` | how long a call may take |
/// | `destination = "payments"` | who is called: once it has failed a few times, one call at a time finds out whether it is back |
/// | `refuses_for_good` | a refusal is one of all calls under the key |
#[proc_macro_attribute]
pub fn step(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::step, &[], args.into(), item.into()).into()
}

/// A branch of a TCC of the crate `sagas`: writes `Tcc`.
///
/// The block has three methods, as the trait has them: `reserve`, `confirm` and `cancel`. Where the branch lives, what it holds
/// and refuses with is read from the types of `reserve`, which are written out. `&mut Call` is elsewhere, another `&mut` the
/// database of the journal, unless `place` says where.
///
/// | key | meaning |
/// | --- | --- |
/// | `name = "debit"` | stored |
/// | `place = Guarded<Bank>` | where it lives: a database that has guard rows |
/// | `retry = Retry::default().tries(3)` | how it is tried |
/// | `limit = Duration::from_secs(5)` | how long a call may take |
/// | `destination = "bank"` | who is called: once it has failed a few times, one call at a time finds out whether it is back |
/// | `refuses_for_good` | a refusal is one of all calls under the key |
#[proc_macro_attribute]
pub fn tcc(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::tcc, &[], args.into(), item.into()).into()
}

/// A timer of a process: writes `Timer`. Its stored name is the type in snake case, or that of `#[timer(name = "..")]`.
#[proc_macro_derive(Timer, attributes(timer))]
pub fn timer(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let cx = Ctxt::new();
    let written = expand::timer(&cx, &input);
    finish(cx, written).into()
}

/// The user's block, then what the macro adds to it, then every mistake.
fn attribute(
    expand: fn(&Ctxt, Tokens, Tokens) -> Tokens,
    helpers: &[&str],
    args: Tokens,
    item: Tokens,
) -> Tokens {
    let cx = Ctxt::new();
    let written = expand(&cx, args, item.clone());
    let mut all = fallback::block(item, helpers);
    all.extend(written);
    finish(cx, all)
}

fn finish(cx: Ctxt, mut written: Tokens) -> Tokens {
    written.extend(cx.check());
    written
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn commands(item: Tokens) -> String {
        attribute(expand::commands, expand::COMMANDS_HELPERS, Tokens::new(), item).to_string()
    }

    #[test]
    fn a_block_comes_back_as_it_was_whatever_is_wrong_with_it() {
        let blocks = [
            quote!(impl Pet { fn rename(&mut self) { self. } const A: u8 = 1; }),
            quote!(
                impl<T> Pet<T> {
                    fn rename(&self, cmd: Rename) {}
                }
            ),
            quote!(
                struct Pet {
                    name: String,
                }
            ),
            quote!(impl Pet { fn rename(&self, cmd: ) }),
        ];
        for block in blocks {
            let text = commands(block.clone());
            assert!(text.contains(&block.to_string()), "{text}");
            assert!(text.contains("compile_error"), "{text}");
        }
    }

    #[test]
    fn what_is_written_for_a_method_carries_its_cfg() {
        let text = commands(quote! {
            #[cfg(block)]
            impl Pet {
                #[cfg(method)]
                #[create_if_missing]
                fn rename(&self, cmd: Rename) -> Result<Renamed, No> { todo!() }
            }
        });
        let both = quote!(#[cfg(block)] #[cfg(method)]).to_string();
        let one = quote!(#[cfg(block)] #[automatically_derived] impl ::es_core::Commands for Pet).to_string();
        assert_eq!(text.matches(&both).count(), 4, "Command, Handle, the check at start, the name: {text}");
        assert!(
            text.contains(&one) && !text.contains("create_if_missing") && !text.contains("compile_error"),
            "{text}"
        );
    }

    #[test]
    fn another_path_to_the_framework_is_taken_everywhere() {
        let item = quote!(impl Welcome { async fn opened(&self, e: &Opened, mail: &Mailer) {} });
        let args = quote!(name = "welcome", crate = framework::es);
        let text = attribute(expand::reactor, &[], args, item).to_string();
        assert!(text.contains("framework :: es :: Reactor") && !text.contains("es_core"), "{text}");
    }

    #[test]
    fn self_means_the_type_of_the_block_in_what_is_written_for_other_types() {
        let item = quote!(impl Balances { fn all(&self, q: All, other: &Self) -> Result<Vec<Self>, No> {} });
        let text = attribute(expand::queries, &[], Tokens::new(), item).to_string();
        assert!(text.contains("type Answer = Vec < Balances > ;"), "{text}");
        assert!(text.contains("type Env < 'e > = (& 'e Balances ,) ;"), "{text}");
    }
}
