//! The saga: place, reserve, pay, book a van, confirm. The van is the pivot.

use std::convert::Infallible;
use std::time::Duration;

use es_core::prelude::*;
use es_sqlite::{GuardedTx, SqliteGuarded, Tx};
use sagas::saga::{Call, Cx, Guarded, OrRetry as _, Ran, Reply, Retry, Saga, StepError, step};

use crate::money::Cents;
use crate::order::bank::Bank;
use crate::order::book::{Cancel, Confirm, OrderId, Place, Placed};
use crate::order::stock;
use crate::order::van::{Book, VanError, VanId};
use crate::order::wanted::PlaceOrder;

/// `place` · `reserve` · `pay` · `book` · `confirm`
pub(crate) fn place_order(bank: &Bank) -> Saga<PlaceOrder, Tx> {
    Saga::new("place-order", 1)
        .deadline(Duration::from_mins(15))
        .step(Open)
        .step(Reserve)
        .step(Pay(bank.clone()))
        .pivot(BookVan)
        .then(Close)
        .build()
}

/// So brief that a run ends soon: the service next door is asked again at once.
fn brief() -> Retry {
    Retry::default().pauses(Duration::from_millis(20), Duration::from_secs(2)).tries(8)
}

/// In the journal: an event, in the commit of the step.
struct Open;

#[step(name = "place", undo = cancel)]
impl Open {
    async fn place(&self, cx: Cx<'_, PlaceOrder>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
        let PlaceOrder { number, customer, items } = cx.input.clone();
        let place = Place(Placed { customer, items });
        cx.sender.send(&OrderId(number), place).within(tx).await.or_retry().map(drop)
    }

    async fn cancel(&self, cx: Cx<'_, PlaceOrder>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        cx.sender.send(&OrderId(cx.input.number), Cancel {}).within(tx).await?;
        Ok(())
    }
}

/// In the database of the warehouse: all items, or none. It leaves what they cost.
struct Reserve;

#[step(name = "reserve", undo = release, place = Guarded<SqliteGuarded>, retry = brief())]
impl Reserve {
    async fn reserve(&self, cx: Cx<'_, PlaceOrder>, tx: &mut GuardedTx) -> Result<Cents, StepError<String>> {
        stock::reserve(tx, cx.key, &cx.input.items).await
    }

    async fn release(
        &self,
        cx: Cx<'_, PlaceOrder>,
        _: Ran<Cents>,
        tx: &mut GuardedTx,
    ) -> Result<(), BoxError> {
        Ok(stock::release(tx, cx.key).await?)
    }
}

/// At the payment service, which remembers keys, and what it has refused. It leaves the number of the payment.
struct Pay(Bank);

#[step(name = "pay", undo = refund, refuses_for_good, retry = brief())]
impl Pay {
    async fn pay(
        &self,
        cx: Cx<'_, PlaceOrder, (Reserve,)>,
        call: &mut Call,
    ) -> Result<i64, StepError<String>> {
        let ((Cents(cost),), customer) = (cx.needs, &cx.input.customer);
        let request = self.0.post(&format!("accounts/{customer}/charges")).body(cost.to_string());
        let said = |reply: &Reply| String::from_utf8_lossy(reply.body()).into_owned();
        let declined = |reply: &Reply| (reply.status() == 402).then(|| said(reply));
        call.send_or_refuse(request, declined).await?.json().map_err(StepError::Retry)
    }

    async fn refund(
        &self,
        _: Cx<'_, PlaceOrder, (Reserve,)>,
        _: Ran<i64>,
        call: &mut Call,
    ) -> Result<(), BoxError> {
        let request = self.0.post("refunds").body(call.step_key().to_owned());
        call.send(request).await.map(drop)
    }
}

/// In the journal, and the last that may say no: what the van refuses, the step refuses.
struct BookVan;

#[step(name = "book")]
impl BookVan {
    async fn book(&self, cx: Cx<'_, PlaceOrder>, tx: &mut Tx) -> Result<VanId, StepError<VanError>> {
        let order = OrderId(cx.input.number);
        let (van, book) = (VanId::of(order), Book { order, discs: cx.input.copies() });
        match cx.sender.send(&van, book).within(tx).await {
            Ok(_) => Ok(van),
            Err(CommandError::Refused(full)) => Err(StepError::Refused(full)),
            Err(error) => Err(StepError::Retry(error.into())),
        }
    }
}

/// In the journal.
struct Close;

#[step(name = "confirm")]
impl Close {
    async fn confirm(
        &self,
        cx: Cx<'_, PlaceOrder, (Reserve, Pay)>,
        tx: &mut Tx,
    ) -> Result<(), StepError<Infallible>> {
        let (order, (paid, receipt)) = (OrderId(cx.input.number), cx.needs);
        cx.sender.send(&order, Confirm { order, paid, receipt }).within(tx).await.or_retry().map(drop)
    }
}
