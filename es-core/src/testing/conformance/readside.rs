//! The read side of the suites' accounts: views, a reactor, a query.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::domain::{AccountEvent, Deposited, Opened, Withdrawn};
use crate::event::{Event, Payload, Recorded};
use crate::projection::{Change, Fold, Projection, View, Views};
use crate::query::{Answer, Queries, Query};
use crate::services::{Scope, Services};
use crate::store::{EventFilter, RecordedEvent};
use crate::{BoxError, Reactor};

/// The balance of each account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// What is on it.
    pub amount: i64,
    /// How many payments were taken in: shows one that is taken twice.
    pub n_payments: u64,
}

fn payments() -> EventFilter {
    EventFilter::of::<Opened>().or(EventFilter::of::<Deposited>()).or(EventFilter::of::<Withdrawn>())
}

impl Projection for Balance {
    const NAME: &'static str = "balance";
    fn filter() -> EventFilter {
        payments()
    }
}

impl View for Balance {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let mut changes = Vec::new();
        for payload in AccountEvent::decode(event)? {
            match payload {
                AccountEvent::Opened(e) => Change::of(e, event, &mut changes)?,
                AccountEvent::Deposited(e) => Change::of(e, event, &mut changes)?,
                AccountEvent::Withdrawn(e) => Change::of(e, event, &mut changes)?,
                AccountEvent::Closed(_) | AccountEvent::Rated(_) => {}
            }
        }
        Ok(changes)
    }
}

fn key<P: Payload<Event = AccountEvent>>(event: Recorded<'_, P>) -> Result<Vec<String>, BoxError> {
    Ok(vec![event.aggregate_id()?])
}

macro_rules! folds { ($($payload:ident($row:ident, $event:ident) $change:block)+) => { $(
    impl Fold<$payload> for Balance {
        fn keys(event: Recorded<'_, $payload>) -> Result<Vec<String>, BoxError> {
            key(event)
        }

        fn fold(mut self, $event: Recorded<'_, $payload>) -> Result<Option<Self>, BoxError> {
            let $row = &mut self;
            $change
            Ok(Some(self))
        }
    }
)+ } }

folds! {
    Opened(row, _event) { row.amount = 0; }
    Deposited(row, event) {
        row.amount += event.amount;
        row.n_payments += 1;
    }
    Withdrawn(row, event) {
        row.amount -= event.amount;
        row.n_payments += 1;
    }
}

/// A projection under the name of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondBalance {}

/// A projection that nobody had before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenamedBalance {}

macro_rules! empty_views { ($($view:ident = $name:literal;)+) => { $(
    impl Projection for $view {
        const NAME: &'static str = $name;
        fn filter() -> EventFilter {
            payments()
        }
    }

    impl View for $view {
        type Key = String;
        fn changes(_: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
            Ok(Vec::new())
        }
    }
)+ } }

empty_views! {
    SecondBalance = "balance";
    RenamedBalance = "saldo";
}

/// Welcomes whoever opens an account, unless it is told to fail. Clones share what they did.
#[derive(Clone, Debug, Default)]
pub struct Welcome {
    welcomed: Arc<Mutex<Vec<String>>>,
    failures: Arc<Mutex<u32>>,
}

impl Welcome {
    /// Whom it welcomed, in order.
    #[must_use]
    pub fn welcomed(&self) -> Vec<String> {
        self.welcomed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails this often from now on, every other time with a panic.
    pub fn fail(&self, times: u32) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = times;
    }
}

impl Reactor for Welcome {
    const NAME: &'static str = "welcome";
    fn filter() -> EventFilter {
        EventFilter::of::<Opened>()
    }

    async fn react(&self, event: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if *failures > 0 {
            *failures -= 1;
            assert!(failures.is_multiple_of(2), "the mailer panics now and then");
            return Err("the mail server is down".into());
        }
        if let Some(opened) = event.payload::<Opened>()? {
            self.welcomed.lock().unwrap_or_else(PoisonError::into_inner).push(opened.owner);
        }
        Ok(())
    }

    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// Asks for the balance of an account.
#[derive(Clone, Debug)]
pub struct BalanceOf(
    /// Which account.
    pub String,
);

/// Asks the same with a text that its handler refuses.
#[derive(Clone, Debug)]
pub struct BalanceOfNobody;

/// Answers them.
#[derive(Clone, Copy, Debug)]
pub struct Balances;

impl Query for BalanceOf {
    type Answer = Option<Balance>;
    type Handler = Balances;
}

impl Answer<BalanceOf> for Balances {
    type Env<'e> = (&'e Views,);
    async fn answer<'a>(
        &'a self,
        query: BalanceOf,
        (views,): (&'a Views,),
    ) -> Result<Option<Balance>, BoxError> {
        views.get::<Balance>(&query.0).await
    }
}

impl Query for BalanceOfNobody {
    type Answer = ();
    type Handler = Balances;
}

impl Answer<BalanceOfNobody> for Balances {
    type Env<'e> = ();
    async fn answer(&self, _: BalanceOfNobody, (): ()) -> Result<(), BoxError> {
        Err("nobody has no balance".into())
    }
}

impl Queries for Balances {
    fn missing(services: &Services) -> Vec<String> {
        crate::query::missing_for::<BalanceOf>(services)
    }
}
