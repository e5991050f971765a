//! A saga that is a step of another one: both crash wherever they can.

use std::convert::Infallible;

use es_core::BoxError;
use es_core::memory::{MemoryBackend, Tx};
use sagas::saga::{
    Call, Child, Cx, Outcome, Ran, RunFilter, RunStatus, Saga, SagaInput, Sagas as _, StepError, SubSaga,
    step,
};
use sagas::testing::{World, crash_matrix};
use serde::{Deserialize, Serialize};

use super::order::{Bank, Order, effects, write};

#[derive(Serialize, Deserialize)]
struct Cargo {
    of: String,
    order: Order,
}
impl SagaInput for Cargo {}

struct Boat(Bank);

#[step(name = "boat", undo = let_go, refuses_for_good)]
impl Boat {
    async fn boat(&self, cx: Cx<'_, Cargo>, call: &mut Call) -> Result<u32, StepError<String>> {
        cx.input.order.asks("boat")?;
        self.0.charge(&cx.input.of, "boat", call.key()).await;
        Ok(4)
    }

    async fn let_go(&self, cx: Cx<'_, Cargo>, _: Ran<u32>, call: &mut Call) -> Result<(), BoxError> {
        self.0.void(&cx.input.of, "boat", call.step_key()).await;
        Ok(())
    }
}

struct Load;

#[step(name = "load", undo = unload)]
impl Load {
    async fn load(&self, cx: Cx<'_, Cargo>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
        write(tx, &cx.input.of, "load");
        Ok(())
    }

    async fn unload(&self, cx: Cx<'_, Cargo>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        write(tx, &cx.input.of, "undo load");
        Ok(())
    }
}

struct Ship;

impl SubSaga<Order> for Ship {
    const NAME: &'static str = "ship";
    type Needs = ();
    type Saga = Cargo;
    type Gives = Boat;

    fn input(&self, cx: Cx<'_, Order>) -> Cargo {
        Cargo { of: cx.key.to_owned(), order: cx.input.clone() }
    }
}

struct Reserve;

#[step(name = "reserve", undo = release)]
impl Reserve {
    async fn reserve(&self, cx: Cx<'_, Order>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
        write(tx, cx.key, "reserve");
        Ok(())
    }

    async fn release(&self, cx: Cx<'_, Order>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        write(tx, cx.key, "undo reserve");
        Ok(())
    }
}

struct Pay(Bank);

#[step(name = "pay", refuses_for_good)]
impl Pay {
    async fn pay(&self, cx: Cx<'_, Order>, call: &mut Call) -> Result<(), StepError<String>> {
        cx.input.asks("pay")?;
        self.0.charge(cx.key, "pay", call.key()).await;
        Ok(())
    }
}

struct Mail;

#[step(name = "mail")]
impl Mail {
    async fn mail(
        &self,
        cx: Cx<'_, Order, (Child<Ship>,)>,
        tx: &mut Tx,
    ) -> Result<(), StepError<Infallible>> {
        assert_eq!(cx.needs, (4,));
        write(tx, cx.key, "mail");
        Ok(())
    }
}

/// reserve · ship: boat with load · pay · mail
fn as_a_step(bank: &Bank) -> (Saga<Order, Tx>, Saga<Cargo, Tx>) {
    let order = Saga::new("place-order", 1).step(Reserve).step(Child::of(Ship)).pivot(Pay(bank.clone()));
    (order.then(Mail).build(), Saga::new("ship-goods", 1).both(Boat(bank.clone()), Load).build())
}

/// reserve · ship: load · boat · mail
fn as_the_pivot(bank: &Bank) -> (Saga<Order, Tx>, Saga<Cargo, Tx>) {
    let order = Saga::new("place-order", 1).step(Reserve).pivot(Child::of(Ship)).then(Mail);
    (order.build(), Saga::new("ship-goods", 1).step(Load).pivot(Boat(bank.clone())).build())
}

/// All of both, or nothing of either.
async fn is_whole(bank: &Bank, world: &World<MemoryBackend>, steps: &[&str]) {
    let is_completed = match world.outcome() {
        Some(Outcome::Completed) => true,
        Some(Outcome::Undone(_)) => false,
        other => panic!("{other:?}, {}", world.run().waits_for),
    };
    for step in steps {
        assert_eq!(bank.balance(world.key(), step), i64::from(is_completed), "{step}");
    }
    let rows = effects(world.backend(), world.key()).await;
    for (what, undo) in [("load", "undo load"), ("reserve", "undo reserve")] {
        let has = |row: &str| rows.iter().any(|own| own == row);
        assert_eq!(has(what) && !has(undo), is_completed, "{rows:?}");
        assert!(has(what) || !has(undo), "{rows:?}");
    }
    assert_eq!(rows.iter().any(|row| row == "mail"), is_completed, "{rows:?}");
    let page = world.app().saga_runs::<Cargo>().unwrap().list(&RunFilter::all(), None, 10).await.unwrap();
    // There is one, if there is any.
    assert!(page.runs.len() <= 1 && page.runs.len() >= usize::from(is_completed), "{page:?}");
    for run in page.runs {
        assert_eq!(run.status, RunStatus::Ended, "{run:?}");
        assert_eq!(run.outcome == Some(Outcome::Completed), is_completed, "{run:?}");
    }
}

async fn holds_for(
    family: fn(&Bank) -> (Saga<Order, Tx>, Saga<Cargo, Tx>),
    order: Order,
    steps: &[&str],
    least: usize,
) {
    let bank = Bank::default();
    let matrix = crash_matrix(|| family(&bank), order);
    let checked = matrix.check(async |world| is_whole(&bank, world, steps).await).await;
    assert!(checked.points > least && checked.missed * 10 < checked.runs, "{checked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_saga_and_the_one_within_have_both_run_or_are_both_undone() {
    holds_for(as_a_step, Order::fine(), &["boat", "pay"], 14).await;
}

#[tokio::test(start_paused = true)]
async fn so_have_those_of_which_the_outer_one_refuses() {
    holds_for(as_a_step, Order::refused_by("pay"), &["boat", "pay"], 20).await;
}

#[tokio::test(start_paused = true)]
async fn so_have_those_of_which_the_one_within_refuses() {
    holds_for(as_a_step, Order::refused_by("boat"), &["boat", "pay"], 12).await;
}

#[tokio::test(start_paused = true)]
async fn so_have_those_of_which_the_one_within_decides() {
    holds_for(as_the_pivot, Order::fine(), &["boat"], 11).await;
}

#[tokio::test(start_paused = true)]
async fn so_have_those_of_which_the_one_within_decides_against_it() {
    holds_for(as_the_pivot, Order::refused_by("boat"), &["boat"], 11).await;
}
