//! The domain of these tests.
#![allow(
    dead_code,
    missing_debug_implementations,
    missing_docs,
    unnameable_types,
    unreachable_pub,
    reason = "each test uses a part of it"
)]

use es_core::prelude::*;
use es_core::store::EventFilter;
use serde::{Deserialize, Serialize};

#[derive(AggregateId, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountId(String);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deposited {
    pub amount: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Withdrawn {
    pub amount: u64,
    pub fee: u64,
}

#[derive(Deserialize)]
struct WithdrawnV1(u64);

#[derive(Deserialize)]
struct WithdrawnV2 {
    value: u64,
}

impl From<WithdrawnV1> for WithdrawnV2 {
    fn from(old: WithdrawnV1) -> Self {
        Self { value: old.0 }
    }
}

impl From<WithdrawnV2> for Withdrawn {
    fn from(old: WithdrawnV2) -> Self {
        Self { amount: old.value, fee: 1 }
    }
}

#[derive(Deserialize)]
struct Moved(u64);

impl From<Moved> for Vec<AccountEvent> {
    fn from(old: Moved) -> Self {
        vec![Withdrawn { amount: old.0, fee: 0 }.into(), Deposited { amount: old.0 }.into()]
    }
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "account", retired("account.moved" = Moved))]
pub enum AccountEvent {
    Opened(Opened),
    Deposited(Deposited),
    #[event(version = 3, upcast(1 = WithdrawnV1, 2 = WithdrawnV2), was("account.paid"), tags(amount))]
    Withdrawn(Withdrawn),
}

impl AccountEvent {
    pub fn all() -> EventFilter {
        EventFilter::of_enum::<Self>()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum AccountError {
    #[error("overdrawn")]
    Overdrawn,
}

#[derive(Aggregate, Clone, Debug, Default, Serialize, Deserialize)]
#[aggregate(id = AccountId, event = AccountEvent, error = AccountError, snapshot(every = 200))]
pub struct Account {
    balance: u64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => {}
            AccountEvent::Deposited(e) => self.balance += e.amount,
            AccountEvent::Withdrawn(e) => self.balance -= e.amount + e.fee,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    pub owner: String,
    pub deposit: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deposit {
    pub amount: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Withdraw {
    pub amount: u64,
}

pub struct Limits {
    pub daily: u64,
}

impl Limits {
    async fn daily(&self) -> Result<u64, std::io::Error> {
        std::future::ready(Ok(self.daily)).await
    }
}

#[commands]
impl Account {
    fn open(cmd: Open) -> Result<(Opened, Deposited), AccountError> {
        Ok((Opened { owner: cmd.owner }, Deposited { amount: cmd.deposit }))
    }

    fn deposit(&self, cmd: Deposit) -> Result<Deposited, AccountError> {
        Ok(Deposited { amount: cmd.amount })
    }

    async fn withdraw(&self, cmd: Withdraw, limits: &Limits) -> Result<Withdrawn, Failure<AccountError>> {
        let daily = limits.daily().await.map_err(Failure::service)?;
        if cmd.amount > daily || cmd.amount > self.balance {
            return Err(AccountError::Overdrawn.into());
        }
        Ok(Withdrawn { amount: cmd.amount, fee: 0 })
    }
}
