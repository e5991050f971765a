//! A saga with locks that crashes wherever it can.

use std::convert::Infallible;

use es_core::BoxError;
use es_core::memory::Tx;
use sagas::saga::{Call, Cx, Lock, Outcome, Ran, Resource, Saga, SagaLock, StepError, step};
use sagas::testing::crash_matrix;

use super::order::{Bank, Order, effects, write};

struct Seat;

impl SagaLock<Order> for Seat {
    const NAME: &'static str = "seat";
    type Needs = ();
    fn resources(&self, _: Cx<'_, Order>) -> Vec<Resource> {
        vec![Resource::exclusive("seat/42"), Resource::shared("hall/1")]
    }
}

struct Row;

impl SagaLock<Order> for Row {
    const NAME: &'static str = "row";
    type Needs = (Hold,);
    fn resources(&self, cx: Cx<'_, Order, (Hold,)>) -> Vec<Resource> {
        vec![Resource::exclusive(format!("row/{}", cx.needs.0)), Resource::shared("hall/1")]
    }
}

struct Hold;

#[step(name = "hold", undo = let_go)]
impl Hold {
    async fn hold(
        &self,
        cx: Cx<'_, Order, (Lock<Seat>,)>,
        tx: &mut Tx,
    ) -> Result<u32, StepError<Infallible>> {
        write(tx, cx.key, "hold");
        Ok(7)
    }

    async fn let_go(
        &self,
        cx: Cx<'_, Order, (Lock<Seat>,)>,
        _: Ran<u32>,
        tx: &mut Tx,
    ) -> Result<(), BoxError> {
        write(tx, cx.key, "undo hold");
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
    async fn mail(&self, cx: Cx<'_, Order>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
        write(tx, cx.key, "mail");
        Ok(())
    }
}

/// seat · hold · row · pay · mail: the last step is in the commit that leaves the locks.
fn sale(bank: &Bank) -> Saga<Order, Tx> {
    Saga::new("sale", 1).lock(Seat).step(Hold).lock(Row).pivot(Pay(bank.clone())).then(Mail).build()
}

/// The matrix itself looks whether a run that has ended has left its locks.
async fn holds_for(order: Order, least: usize) {
    let bank = Bank::default();
    let matrix = crash_matrix(|| sale(&bank), order);
    let checked = matrix
        .check(async |world| {
            let is_completed = match world.outcome() {
                Some(Outcome::Completed) => true,
                Some(Outcome::Undone(_)) => false,
                other => panic!("{other:?}, {}", world.run().waits_for),
            };
            assert_eq!(bank.balance(world.key(), "pay"), i64::from(is_completed));
            let rows = effects(world.backend(), world.key()).await;
            let has = |row: &str| rows.iter().any(|own| own == row);
            assert_eq!(
                (has("hold") && !has("undo hold"), has("mail")),
                (is_completed, is_completed),
                "{rows:?}"
            );
        })
        .await;
    assert!(checked.points > least && checked.missed * 10 < checked.runs, "{checked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_saga_with_locks_has_run_or_is_undone_and_leaves_them() {
    holds_for(Order::fine(), 7).await;
}

#[tokio::test(start_paused = true)]
async fn so_has_one_whose_pivot_refuses() {
    holds_for(Order::refused_by("pay"), 8).await;
}
