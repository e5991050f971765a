//! The domain of every topic: a bank account.

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(AggregateId, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountId(String);

// Payloads are stored: change them by upcasting.

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deposited {
    pub amount: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Withdrawn {
    pub amount: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    pub at: Timestamp,
    pub by: String,
}

/// Stored as `account.opened`, `account.deposited`, and so on.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "account")]
pub enum AccountEvent {
    Opened(Opened),
    Deposited(Deposited),
    Withdrawn(Withdrawn),
    Closed(Closed),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum AccountError {
    #[error("an amount is more than nothing")]
    NoAmount,
    #[error("only {balance} left")]
    Overdrawn { balance: i64 },
    #[error("only a known person closes an account")]
    Anonymous,
    #[error("that is for another branch")]
    OtherBranch,
}

#[derive(Aggregate, Clone, Debug, Default, Serialize, Deserialize)]
#[aggregate(id = AccountId, event = AccountEvent, error = AccountError, snapshot(every = 100))]
pub struct Account {
    pub balance: i64,
    closed: bool,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => {}
            AccountEvent::Deposited(e) => self.balance += e.amount,
            AccountEvent::Withdrawn(e) => self.balance -= e.amount,
            AccountEvent::Closed(_) => self.closed = true,
        }
    }

    fn ended(&self) -> bool {
        self.closed
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    pub owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deposit {
    pub amount: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Withdraw {
    pub amount: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Close;

#[commands]
impl Account {
    fn open(cmd: Open) -> Result<Opened, AccountError> {
        Ok(Opened { owner: cmd.owner })
    }

    fn deposit(&self, cmd: Deposit) -> Result<Deposited, AccountError> {
        if cmd.amount > 0 { Ok(Deposited { amount: cmd.amount }) } else { Err(AccountError::NoAmount) }
    }

    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, AccountError> {
        match cmd.amount {
            ..=0 => Err(AccountError::NoAmount),
            amount if amount > self.balance => Err(AccountError::Overdrawn { balance: self.balance }),
            amount => Ok(Withdrawn { amount }),
        }
    }

    /// Time, person and branch come in as inputs: see the topic `context`.
    fn close(&self, _: Close, ctx: &Context) -> Result<Closed, AccountError> {
        if ctx.tenant().is_some_and(|branch| branch != "main street") {
            return Err(AccountError::OtherBranch);
        }
        let by = ctx.actor().ok_or(AccountError::Anonymous)?.to_owned();
        Ok(Closed { at: ctx.now(), by })
    }
}

/// For tests and examples: histories are short to write.
#[must_use]
pub fn opened(owner: &str) -> Opened {
    Opened { owner: owner.to_owned() }
}
