//! A seat of a concert, sold by a saga: locked, paid and sold, or free again. `examples/tickets` does it by a process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use es_core::memory::{MemoryBackend, Tx};
use es_core::prelude::*;
use sagas::saga::{
    Call, Cx, OrRetry as _, Outcome, Ran, Saga, SagaApp as _, SagaInput, Sagas as _, StepError, step,
};
use serde::{Deserialize, Serialize};

#[derive(AggregateId, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SeatId(String);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Locked {
    order: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unlocked {
    order: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sold {
    order: u32,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "seat")]
enum SeatEvent {
    Locked(Locked),
    Unlocked(Unlocked),
    Sold(Sold),
}

#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
enum SeatError {
    #[error("order {0} has the seat")]
    Taken(u32),
    #[error("the seat is not locked for this order")]
    NotLocked,
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = SeatId, event = SeatEvent, error = SeatError)]
struct Seat {
    has: Option<u32>,
    sold: bool,
}

impl Apply for Seat {
    fn apply(&mut self, event: &SeatEvent) {
        match event {
            SeatEvent::Locked(e) => self.has = Some(e.order),
            SeatEvent::Unlocked(_) => self.has = None,
            SeatEvent::Sold(_) => self.sold = true,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lock {
    order: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Unlock {
    order: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sell {
    order: u32,
}

#[commands]
impl Seat {
    #[create_if_missing]
    fn lock(&self, cmd: Lock) -> Result<Locked, SeatError> {
        match self.has {
            Some(by) => Err(SeatError::Taken(by)),
            None => Ok(Locked { order: cmd.order }),
        }
    }

    fn unlock(&self, cmd: Unlock) -> Result<Unlocked, SeatError> {
        self.is_locked_for(cmd.order)?;
        Ok(Unlocked { order: cmd.order })
    }

    fn sell(&self, cmd: Sell) -> Result<Sold, SeatError> {
        self.is_locked_for(cmd.order)?;
        Ok(Sold { order: cmd.order })
    }
}

impl Seat {
    fn is_locked_for(&self, order: u32) -> Result<(), SeatError> {
        if self.has == Some(order) && !self.sold { Ok(()) } else { Err(SeatError::NotLocked) }
    }
}

/// What a sale is started with. Stored, as the aggregate's events are.
#[derive(Serialize, Deserialize)]
struct Sale {
    order: u32,
    seat: SeatId,
    dollars: u32,
}

impl SagaInput for Sale {}

/// In the journal's database: the event of the seat is in the commit of the step.
struct LockSeat;

#[step(name = "lock", undo = unlock)]
impl LockSeat {
    async fn lock(&self, cx: Cx<'_, Sale>, tx: &mut Tx) -> Result<(), StepError<SeatError>> {
        let Sale { order, seat, .. } = cx.input;
        match cx.sender.send(seat, Lock { order: *order }).within(tx).await {
            Ok(_) => Ok(()),
            Err(CommandError::Refused(taken)) => Err(StepError::Refused(taken)),
            Err(error) => Err(StepError::Retry(error.into())),
        }
    }

    async fn unlock(&self, cx: Cx<'_, Sale>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        let Sale { order, seat, .. } = cx.input;
        cx.sender.send(seat, Unlock { order: *order }).within(tx).await?;
        Ok(())
    }
}

/// A service elsewhere, which remembers what it was asked under a key. A real one is called over HTTP, by `call.send_or_refuse(..)`.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<BTreeMap<String, u32>>>);

struct Charge(Bank);

#[step(name = "charge")]
impl Charge {
    async fn charge(&self, cx: Cx<'_, Sale>, call: &mut Call) -> Result<(), StepError<&'static str>> {
        if cx.input.dollars > 500 {
            return Err(StepError::Refused("the card's limit is 500 dollars"));
        }
        let mut charges = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        charges.insert(call.key().to_owned(), cx.input.dollars);
        Ok(())
    }
}

/// Behind the pivot: it cannot say no, and is tried until it succeeds.
struct SellSeat;

#[step(name = "sell")]
impl SellSeat {
    async fn sell(&self, cx: Cx<'_, Sale>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
        let Sale { order, seat, .. } = cx.input;
        cx.sender.send(seat, Sell { order: *order }).within(tx).await.or_retry().map(drop)
    }
}

/// The charge is the pivot: nothing behind it can fail for good, so nothing has to be paid back.
fn sale(bank: &Bank) -> Saga<Sale, Tx> {
    let held = Duration::from_mins(30);
    Saga::new("sale", 1).deadline(held).step(LockSeat).pivot(Charge(bank.clone())).then(SellSeat).build()
}

pub async fn run() -> anyhow::Result<()> {
    let bank = Bank::default();
    let app = App::on(MemoryBackend::new()).aggregate::<Seat>().saga(sale(&bank)).start().await?;
    let buy = async |order: u32, dollars| {
        let sale = Sale { order, seat: SeatId::from("3-12"), dollars };
        app.run_saga(&format!("order-{order}"), sale).await
    };
    // A card that is refused gives the seat back.
    assert_eq!(buy(1, 900).await?.to_string(), "undone: charge was refused: the card's limit is 500 dollars");
    assert_eq!(buy(2, 90).await?, Outcome::Completed);
    assert_eq!(buy(3, 90).await?.to_string(), "undone: lock was refused: order 2 has the seat");
    // The same request again is the same sale.
    assert_eq!(buy(2, 90).await?, Outcome::Completed);

    let seat = app.load::<Seat>(&SeatId::from("3-12")).await?.map(|seat| (seat.has, seat.sold));
    assert_eq!(seat, Some((Some(2), true)));
    assert_eq!(bank.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum::<u32>(), 90);
    crate::say("one seat, sold once, and paid once");
    Ok(())
}
