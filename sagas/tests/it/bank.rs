//! What the tests are about: money goes from one account to another, by a process that is written by hand.

use std::time::Duration;

use es_core::prelude::*;
use es_core::projection::nth;
use sagas::{
    Association, Definition, Elapsed, Next, On, OnRefused, OnTimer, Process, Refused, RefusedCommand, Sends,
    Step, Timer, To,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) owner: String,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deposited {
    pub(crate) amount: i64,
    pub(crate) transfer: Option<String>,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Withdrawn {
    pub(crate) amount: i64,
    pub(crate) transfer: Option<String>,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Closed {}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "account")]
pub(crate) enum AccountEvent {
    Opened(Opened),
    Deposited(Deposited),
    Withdrawn(Withdrawn),
    Closed(Closed),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("the account has only {balance}")]
    Overdrawn { balance: i64 },
}

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = AccountEvent, error = AccountError)]
pub(crate) struct Account {
    pub(crate) balance: i64,
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) owner: String,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deposit {
    pub(crate) amount: i64,
    pub(crate) transfer: Option<String>,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Withdraw {
    pub(crate) amount: i64,
    pub(crate) transfer: Option<String>,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Close {}

#[commands]
impl Account {
    fn open(cmd: Open) -> Result<Opened, AccountError> {
        Ok(Opened { owner: cmd.owner })
    }
    fn deposit(&self, cmd: Deposit) -> Result<Deposited, AccountError> {
        Ok(Deposited { amount: cmd.amount, transfer: cmd.transfer })
    }
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, AccountError> {
        let Withdraw { amount, transfer } = cmd;
        if amount > self.balance {
            return Err(AccountError::Overdrawn { balance: self.balance });
        }
        Ok(Withdrawn { amount, transfer })
    }
    fn close(&self, _: Close) -> Result<Closed, AccountError> {
        Ok(Closed {})
    }
}

/// Somebody wants money to go from one account to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Requested {
    pub(crate) id: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) amount: i64,
}
/// What is noted at the bank: who has a receipt's number may ask for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inquired {
    pub(crate) receipt: String,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order")]
pub(crate) enum OrderEvent {
    Requested(Requested),
    Inquired(Inquired),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
pub(crate) struct No;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = OrderEvent, error = No)]
pub(crate) struct Order;

impl Apply for Order {
    fn apply(&mut self, _: &OrderEvent) {}
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request(pub(crate) Requested);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inquire {
    pub(crate) receipt: String,
}

#[commands]
impl Order {
    #[create_if_missing]
    fn request(&self, cmd: Request) -> Result<Requested, No> {
        Ok(cmd.0)
    }
    #[create_if_missing]
    fn inquire(&self, cmd: Inquire) -> Result<Inquired, No> {
        Ok(Inquired { receipt: cmd.receipt })
    }
}

/// Withdraw, then deposit. A withdrawal that is refused ends it; one that comes too late is given back, and so is one
/// whose deposit is refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) asked: Option<Requested>,
    pub(crate) withdrawn: bool,
    pub(crate) inquiries: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Expired {}

impl Timer for Expired {
    const NAME: &'static str = "expired";
}

/// Nobody is asked for money: the transfer waits until it expires.
pub(crate) const NOBODY: &str = "nobody";
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

impl Transfer {
    fn asked(&self) -> Requested {
        self.asked.clone().expect("it began with that")
    }
}

impl Sends<Withdraw> for Transfer {}
impl Sends<Deposit> for Transfer {}

impl On<Requested> for Transfer {
    const STARTS: bool = true;
    fn to(event: Recorded<'_, Requested>) -> Result<Vec<To<String>>, BoxError> {
        Ok(vec![To::Key(event.id.clone())])
    }
    fn on(&mut self, event: Recorded<'_, Requested>) -> Result<Next<Self>, BoxError> {
        match event.amount {
            0 => return Ok(Next::end()),
            -1 => panic!("nobody takes less than nothing"),
            _ => {}
        }
        self.asked = Some(event.payload().clone());
        if event.from == NOBODY {
            return Ok(Next::wait().timer(LIMIT, Expired {}));
        }
        let withdraw = Withdraw { amount: event.amount, transfer: Some(event.id.clone()) };
        let next = Next::send(&event.from, withdraw).timer(LIMIT, Expired {});
        Ok(next.associate("receipt", format!("receipt-{}", event.payload().id)))
    }
}

impl On<Withdrawn> for Transfer {
    fn to(event: Recorded<'_, Withdrawn>) -> Result<Vec<To<String>>, BoxError> {
        Ok(event.transfer.clone().map(To::Key).into_iter().collect())
    }
    fn on(&mut self, _: Recorded<'_, Withdrawn>) -> Result<Next<Self>, BoxError> {
        self.withdrawn = true;
        let Requested { id, to, amount, .. } = self.asked();
        let next = Next::send(&to, Deposit { amount, transfer: Some(id.clone()) }).clear::<Expired>();
        Ok(next.and_publish("transfers", &id, &"done").and_end())
    }
}

impl On<Inquired> for Transfer {
    fn to(event: Recorded<'_, Inquired>) -> Result<Vec<To<String>>, BoxError> {
        Ok(vec![To::Found(Association::new("receipt", &event.receipt))])
    }
    fn on(&mut self, _: Recorded<'_, Inquired>) -> Result<Next<Self>, BoxError> {
        self.inquiries += 1;
        if self.inquiries < 2 {
            return Ok(Next::wait());
        }
        Ok(Next::wait().dissociate("receipt", format!("receipt-{}", self.asked().id)))
    }
}

impl OnRefused<Withdraw> for Transfer {
    fn on(&mut self, _: Refused<Withdraw>) -> Result<Next<Self>, BoxError> {
        Ok(Next::end())
    }
}

impl OnRefused<Deposit> for Transfer {
    fn on(&mut self, refused: Refused<Deposit>) -> Result<Next<Self>, BoxError> {
        let Requested { from, .. } = self.asked();
        if refused.id == from {
            return Err("nobody wants the money".into());
        }
        Ok(Next::send(&from, Deposit { transfer: None, ..refused.command }))
    }
}

impl OnTimer<Expired> for Transfer {
    fn on(&mut self, _: Expired) -> Result<Next<Self>, BoxError> {
        Ok(Next::end())
    }
}

impl Process for Transfer {
    const NAME: &'static str = "transfer";
    const BY_KEY: bool = false;
    type Key = String;

    fn filter() -> EventFilter {
        EventFilter::types([Requested::SOURCES, Withdrawn::SOURCES, Inquired::SOURCES].concat())
    }

    fn wire<B: Backend>(app: es_core::AppBuilder<B>) -> es_core::AppBuilder<B> {
        app.command::<Withdraw>().command::<Deposit>()
    }

    fn steps(event: &RecordedEvent) -> Result<Vec<Step<'_, Self>>, BoxError> {
        let (mut steps, mut at, mut more) = (Vec::new(), 0, true);
        while std::mem::take(&mut more) {
            if let Some(payload) = nth::<Requested>(event, at, &mut more)? {
                Step::of(payload, event, &mut steps)?;
            }
            if let Some(payload) = nth::<Withdrawn>(event, at, &mut more)? {
                Step::of(payload, event, &mut steps)?;
            }
            if let Some(payload) = nth::<Inquired>(event, at, &mut more)? {
                Step::of(payload, event, &mut steps)?;
            }
            at += 1;
        }
        Ok(steps)
    }

    fn refused(&mut self, refused: &RefusedCommand) -> Result<Option<Next<Self>>, BoxError> {
        if let Some(next) = refused.hand_to::<Self, Withdraw>(self)? {
            return Ok(Some(next));
        }
        refused.hand_to::<Self, Deposit>(self)
    }

    fn elapsed(&mut self, timer: &Elapsed) -> Result<Option<Next<Self>>, BoxError> {
        timer.hand_to::<Self, Expired>(self)
    }

    fn earlier() -> Vec<Definition> {
        Vec::new()
    }
}

pub(crate) fn requested(amount: i64) -> Requested {
    let text = |text: &str| text.to_owned();
    Requested { id: text("t1"), from: text("ada"), to: text("bob"), amount }
}

pub(crate) fn withdrawn(amount: i64) -> Withdrawn {
    Withdrawn { amount, transfer: Some("t1".to_owned()) }
}
