//! Sagas for the crash matrix, and a service that they call.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use es_core::BoxError;
use es_core::store::{RowStore, Table, Transaction};
use sagas::saga::{Call, Cx, Journal, Ran, Remote, Saga, SagaInput, Step, StepError, Undo, Unknown};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::yield_now;

/// Who refuses, if somebody does.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    refuses: Option<String>,
}

impl SagaInput for Order {}

impl Order {
    pub(crate) fn fine() -> Self {
        Self { refuses: None }
    }

    pub(crate) fn refused_by(step: &str) -> Self {
        Self { refuses: Some(step.to_owned()) }
    }

    pub(super) fn asks(&self, step: &str) -> Result<(), StepError<String>> {
        match self.refuses.as_deref() == Some(step) {
            true => Err(StepError::Refused("sold out".to_owned())),
            false => Ok(()),
        }
    }
}

/// A service that acts once under a key, and not at all under one that was voided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bank(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    keys: BTreeSet<String>,
    voided: BTreeSet<String>,
    /// Whose, for which step, and by how much.
    moves: Vec<(String, String, i64)>,
}

impl Books {
    fn moves(&mut self, of: &str, step: &str, by: i64) {
        self.moves.push((of.to_owned(), step.to_owned(), by));
    }
}

impl Bank {
    pub(crate) fn balance(&self, of: &str, step: &str) -> i64 {
        let books = self.0.lock().unwrap();
        books.moves.iter().filter(|(who, what, _)| who == of && what == step).map(|(.., by)| by).sum()
    }

    /// Acts, unless it has under this key, or the key is voided.
    pub(super) async fn charge(&self, of: &str, step: &str, key: &str) {
        yield_now().await;
        {
            let mut books = self.0.lock().unwrap();
            if !books.voided.contains(key) && books.keys.insert(key.to_owned()) {
                books.moves(of, step, 1);
            }
        }
        yield_now().await;
    }

    /// Whatever was or will be done under a key is as if it were not.
    pub(super) async fn void(&self, of: &str, step: &str, key: &str) {
        yield_now().await;
        {
            let mut books = self.0.lock().unwrap();
            if books.voided.insert(key.to_owned()) && books.keys.contains(key) {
                books.moves(of, step, -1);
            }
        }
        yield_now().await;
    }

    /// Notes that it has acted, and then acts.
    async fn charge_after_noting(&self, of: &str, step: &str, key: &str) {
        let is_new = self.0.lock().unwrap().keys.insert(key.to_owned());
        yield_now().await;
        if is_new {
            self.0.lock().unwrap().moves(of, step, 1);
        }
    }

    /// Acts, and does not know its own key again.
    async fn charge_once(&self, of: &str, step: &str, key: &str) -> Result<(), StepError<String>> {
        yield_now().await;
        let mut books = self.0.lock().unwrap();
        if !books.keys.insert(key.to_owned()) {
            return Err(StepError::Refused("this key was used".to_owned()));
        }
        books.moves(of, step, 1);
        Ok(())
    }
}

/// What a step has done in the store of the journal.
pub(super) fn write<T: Transaction>(tx: &mut T, of: &str, what: &str) {
    let effects = Table::<String>::new("effects").unwrap();
    tx.staged().rows.push(effects.insert(format!("{of}/{what}"), "done".to_owned()).unwrap());
}

/// What steps have done in the store of the journal.
pub(crate) async fn effects(rows: &impl RowStore, of: &str) -> Vec<String> {
    let all = Table::<Value>::new("effects").unwrap().all(rows).await.unwrap();
    let prefix = format!("{of}/");
    all.into_iter().filter_map(|row| row.key.strip_prefix(&prefix).map(str::to_owned)).collect()
}

struct Reserve<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Step<Order> for Reserve<T> {
    const NAME: &'static str = "reserve";
    type Needs = ();
    type Output = String;
    type Refusal = Infallible;
    type Place = Journal<T>;
    async fn run(&self, cx: Cx<'_, Order, ()>, tx: &mut T) -> Result<String, StepError<Infallible>> {
        write(tx, cx.key, "reserve");
        Ok("tea".to_owned())
    }
}

impl<T: Transaction> Undo<Order> for Reserve<T> {
    async fn undo(&self, cx: Cx<'_, Order, ()>, ran: Ran<String>, tx: &mut T) -> Result<(), BoxError> {
        assert_eq!(ran, Ran::Yes("tea".to_owned()));
        write(tx, cx.key, "undo reserve");
        Ok(())
    }
}

macro_rules! remote {
    ($($step:ident $name:literal $unknown:expr, $for_good:literal;)+) => { $(
        struct $step(Bank);

        impl Step<Order> for $step {
            const NAME: &'static str = $name;
            type Needs = ();
            type Output = u32;
            type Refusal = String;
            type Place = Remote;
            async fn run(&self, cx: Cx<'_, Order, ()>, call: &mut Call) -> Result<u32, StepError<String>> {
                cx.input.asks($name)?;
                self.0.charge(cx.key, $name, call.key()).await;
                Ok(7)
            }
            fn unknown(&self) -> Unknown {
                $unknown
            }
            fn refuses_for_good(&self) -> bool {
                $for_good
            }
        }

        impl Undo<Order> for $step {
            async fn undo(&self, cx: Cx<'_, Order, ()>, _: Ran<u32>, call: &mut Call) -> Result<(), BoxError> {
                self.0.void(cx.key, $name, call.step_key()).await;
                Ok(())
            }
        }
    )+ };
}
remote! {
    Hold "hold" Unknown::Settle, false;
    Seat "seat" Unknown::Fence, false;
    Pay "pay" Unknown::Settle, true;
}

struct Mail<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Step<Order> for Mail<T> {
    const NAME: &'static str = "mail";
    type Needs = (Reserve<T>, Hold);
    type Output = ();
    type Refusal = Infallible;
    type Place = Journal<T>;
    async fn run(&self, cx: Cx<'_, Order, Self::Needs>, tx: &mut T) -> Result<(), StepError<Infallible>> {
        assert_eq!(cx.needs, ("tea".to_owned(), 7));
        write(tx, cx.key, "mail");
        Ok(())
    }
}

/// reserve · hold with seat · pay · mail
pub(crate) fn place_order<T: Transaction>(bank: &Bank) -> Saga<Order, T> {
    Saga::new("place-order", 1)
        .step(Reserve(PhantomData))
        .both(Hold(bank.clone()), Seat(bank.clone()))
        .pivot(Pay(bank.clone()))
        .then(Mail(PhantomData))
        .build()
}

/// How a saga that charges a card is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    Well,
    /// It notes that it has acted before it acts, and nothing holds both together.
    RecordsFirst,
    /// Its undo does nothing about a step that may have run.
    LeavesMaybe,
    /// It takes a refusal for one of all calls, and the service refuses repetitions of what it has done.
    RefusesRepetitions,
}

struct Charge(Bank, Built);

impl Step<Order> for Charge {
    const NAME: &'static str = "charge";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Order, ()>, call: &mut Call) -> Result<(), StepError<String>> {
        let (bank, key) = (&self.0, call.key());
        match self.1 {
            Built::RecordsFirst => bank.charge_after_noting(cx.key, "charge", key).await,
            Built::RefusesRepetitions => bank.charge_once(cx.key, "charge", key).await?,
            _ => bank.charge(cx.key, "charge", key).await,
        }
        Ok(())
    }
    fn unknown(&self) -> Unknown {
        Unknown::Fence
    }
    fn refuses_for_good(&self) -> bool {
        self.1 == Built::RefusesRepetitions
    }
}

impl Undo<Order> for Charge {
    async fn undo(&self, cx: Cx<'_, Order, ()>, ran: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
        if self.1 != Built::LeavesMaybe || ran != Ran::Maybe {
            self.0.void(cx.key, "charge", call.step_key()).await;
        }
        Ok(())
    }
}

/// charge
pub(crate) fn payment<T: Transaction>(bank: &Bank, built: Built) -> Saga<Order, T> {
    Saga::new("payment", 1).step(Charge(bank.clone(), built)).build()
}
