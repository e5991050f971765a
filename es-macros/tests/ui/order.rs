//! Steps of a saga for these tests.
#![allow(
    dead_code,
    missing_debug_implementations,
    missing_docs,
    unnameable_types,
    unreachable_pub,
    reason = "each test uses a part of it"
)]

use std::convert::Infallible;

use es_core::BoxError;
use es_core::memory::Tx;
use sagas::saga::{Call, Cx, Journal, Ran, Remote, SagaInput, Step, StepError, Undo};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub cents: u64,
}
impl SagaInput for Order {}

/// In the database of the journal; can be undone.
pub struct Reserve;
impl Step<Order> for Reserve {
    const NAME: &'static str = "reserve";
    type Needs = ();
    type Output = String;
    type Refusal = String;
    type Place = Journal<Tx>;
    async fn run(&self, _: Cx<'_, Order, ()>, _: &mut Tx) -> Result<String, StepError<String>> {
        Ok("tea".to_owned())
    }
}
impl Undo<Order> for Reserve {
    async fn undo(&self, _: Cx<'_, Order, ()>, _: Ran<String>, _: &mut Tx) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Elsewhere; reads what `Reserve` has left, can refuse, and cannot be undone.
pub struct Charge;
impl Step<Order> for Charge {
    const NAME: &'static str = "charge";
    type Needs = (Reserve,);
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Order, (Reserve,)>, _: &mut Call) -> Result<(), StepError<String>> {
        let (_reserved,): (String,) = cx.needs;
        Ok(())
    }
}

/// Cannot refuse.
pub struct Mail;
impl Step<Order> for Mail {
    const NAME: &'static str = "mail";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Remote;
    async fn run(&self, _: Cx<'_, Order, ()>, _: &mut Call) -> Result<(), StepError<Infallible>> {
        Ok(())
    }
}

/// Needs what `Reserve` has left, and can be undone.
pub struct Pack;
impl Step<Order> for Pack {
    const NAME: &'static str = "pack";
    type Needs = (Reserve,);
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, _: Cx<'_, Order, (Reserve,)>, _: &mut Call) -> Result<(), StepError<String>> {
        Ok(())
    }
}
impl Undo<Order> for Pack {
    async fn undo(&self, _: Cx<'_, Order, (Reserve,)>, _: Ran<()>, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
}
