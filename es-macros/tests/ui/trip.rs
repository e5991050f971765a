//! Steps of a saga: each test puts them together.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::convert::Infallible;

use es_core::BoxError;
use es_core::memory::Tx;
use sagas::saga::{Call, Cx, Journal, Ran, Remote, SagaInput, Step, StepError, Undo};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub struct Trip {}

impl SagaInput for Trip {}

pub struct Seat;

impl Step<Trip> for Seat {
    const NAME: &'static str = "seat";
    type Needs = ();
    type Output = u32;
    type Refusal = String;
    type Place = Journal<Tx>;
    async fn run(&self, _: Cx<'_, Trip, ()>, _: &mut Tx) -> Result<u32, StepError<String>> {
        Ok(1)
    }
}

impl Undo<Trip> for Seat {
    async fn undo(&self, _: Cx<'_, Trip, ()>, _: Ran<u32>, _: &mut Tx) -> Result<(), BoxError> {
        Ok(())
    }
}

/// It can refuse, and has no undo.
pub struct Pay;

impl Step<Trip> for Pay {
    const NAME: &'static str = "pay";
    type Needs = (Seat,);
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, _: Cx<'_, Trip, (Seat,)>, _: &mut Call) -> Result<(), StepError<String>> {
        Ok(())
    }
}

/// It cannot refuse, and has no undo.
pub struct Mail;

impl Step<Trip> for Mail {
    const NAME: &'static str = "mail";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Remote;
    async fn run(&self, _: Cx<'_, Trip, ()>, _: &mut Call) -> Result<(), StepError<Infallible>> {
        Ok(())
    }
}
