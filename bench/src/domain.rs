//! What is measured: an account, and a deposit of about 200 bytes of JSON.

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deposited {
    pub amount: i64,
    pub note: String,
}

/// A deposit that is found by its account's tag, in whatever stream it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credited {
    pub account: u64,
    pub amount: i64,
    pub note: String,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "account")]
pub enum AccountEvent {
    Deposited(Deposited),
    #[event(tags(account))]
    Credited(Credited),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountError {}

impl std::fmt::Display for AccountError {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

impl std::error::Error for AccountError {}

#[derive(Aggregate, Clone, Debug, Default, Serialize, Deserialize)]
#[aggregate(id = u64, event = AccountEvent, error = AccountError)]
pub struct Account {
    pub balance: i64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(e) => self.balance += e.amount,
            AccountEvent::Credited(e) => self.balance += e.amount,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deposit {
    pub amount: i64,
    pub note: String,
}

/// Many deposits that one command decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DepositMany {
    pub deposits: Vec<Deposited>,
}

#[commands]
impl Account {
    #[create_if_missing]
    fn deposit(&self, cmd: Deposit) -> Result<Deposited, AccountError> {
        Ok(Deposited { amount: cmd.amount, note: cmd.note })
    }

    #[create_if_missing]
    fn deposit_many(&self, cmd: DepositMany) -> Result<Vec<Deposited>, AccountError> {
        Ok(cmd.deposits)
    }
}

/// As JSON, an event of about 200 bytes.
pub fn deposit() -> Deposit {
    Deposit { amount: 1, note: "x".repeat(170) }
}

/// As JSON, an event of 23 bytes: what is measured is then the framework.
pub fn small_deposit() -> Deposit {
    Deposit { amount: 1, note: String::new() }
}
