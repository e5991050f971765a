//! Sagas of steps that only stage what they do.

use std::convert::Infallible;

use es_core::BoxError;
use es_core::memory::Tx;
use es_core::store::{RowStore, Table, Transaction};
use es_sqlite::{SqliteBackend, SqliteOptions};
use sagas::saga::{
    Call, Cx, OrRetry as _, Outcome, Ran, Remote, Saga, Staged, Staging, Step, StepError, Undo,
};
use sagas::testing::{VirtualClock, World, crash_matrix};
use uuid::Uuid;

use super::order::{Bank, Order, effects, write};

/// What all steps of a run have written, together.
fn sums() -> Table<u32> {
    Table::new("sums").unwrap()
}

async fn act(at: &mut Staging, of: &str, what: &str) -> Result<(), BoxError> {
    write(at, of, what);
    let sum = at.row(&sums(), of).await?;
    let sum = sum.map_or_else(|| sums().insert(of, 1), |row| sums().put(&row.clone().with(row.value + 1)));
    Ok(at.write(sum?)?)
}

macro_rules! staged { ($($step:ident $name:literal $refusal:ty, $asks:expr;)+) => { $(
    struct $step;

    impl Step<Order> for $step {
        const NAME: &'static str = $name;
        type Needs = ();
        type Output = u32;
        type Refusal = $refusal;
        type Place = Staged;
        async fn run(&self, cx: Cx<'_, Order, ()>, at: &mut Staging) -> Result<u32, StepError<$refusal>> {
            let asks: fn(&Order) -> Result<(), StepError<$refusal>> = $asks;
            asks(cx.input)?;
            act(at, cx.key, $name).await.or_retry()?;
            Ok(7)
        }
    }

    impl Undo<Order> for $step {
        async fn undo(&self, cx: Cx<'_, Order, ()>, ran: Ran<u32>, at: &mut Staging) -> Result<(), BoxError> {
            assert_eq!(ran, Ran::Yes(7));
            act(at, cx.key, concat!("undo ", $name)).await
        }
    }
)+ } }
staged! {
    Reserve "reserve" String, |order| order.asks("reserve");
    Hold "hold" String, |order| order.asks("hold");
    Pay "pay" String, |order| order.asks("pay");
    Mail "mail" Infallible, |_| Ok(());
}

/// Elsewhere.
struct Seat(Bank);

impl Step<Order> for Seat {
    const NAME: &'static str = "seat";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Order, ()>, call: &mut Call) -> Result<(), StepError<String>> {
        cx.input.asks("seat")?;
        self.0.charge(cx.key, "seat", call.key()).await;
        Ok(())
    }
}

impl Undo<Order> for Seat {
    async fn undo(&self, cx: Cx<'_, Order, ()>, _: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
        self.0.void(cx.key, "seat", call.step_key()).await;
        Ok(())
    }
}

/// reserve · hold · pay · mail: all of them staged.
fn all<T: Transaction>() -> Saga<Order, T> {
    Saga::new("place-order", 1).step(Reserve).step(Hold).pivot(Pay).then(Mail).build()
}

/// reserve · hold with seat, which is elsewhere · pay · mail
fn mixed<T: Transaction>(bank: &Bank) -> Saga<Order, T> {
    Saga::new("place-order", 1).step(Reserve).both(Hold, Seat(bank.clone())).pivot(Pay).then(Mail).build()
}

/// All of it, or nothing; and as often as it says.
async fn is_whole<B: RowStore>(world: &World<B>) {
    let (of, rows) = (world.key(), effects(world.backend(), world.key()).await);
    let has = |what: &str| rows.iter().any(|row| row == what);
    let sum = sums().get(world.backend(), of).await.unwrap().map_or(0, |row| row.value);
    assert_eq!(sum as usize, rows.len(), "{rows:?}");
    match world.outcome() {
        Some(Outcome::Completed) => assert_eq!(rows, ["hold", "mail", "pay", "reserve"]),
        Some(Outcome::Undone(_)) => {
            assert!(!has("pay") && !has("mail"), "{rows:?}");
            assert_eq!(has("reserve"), has("undo reserve"), "{rows:?}");
            assert_eq!(has("hold"), has("undo hold"), "{rows:?}");
        }
        other => panic!("{other:?}, {}", world.run().waits_for),
    }
}

#[tokio::test(start_paused = true)]
async fn staged_steps_that_crash_anywhere_have_run_or_are_undone() {
    for input in [Order::fine(), Order::refused_by("pay"), Order::refused_by("hold")] {
        let checked = crash_matrix(all::<Tx>, input).check(async |world| is_whole(world).await).await;
        assert!(checked.points > 3 && checked.missed * 10 < checked.runs, "{checked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn so_have_those_among_steps_elsewhere() {
    for input in
        [Order::fine(), Order::refused_by("pay"), Order::refused_by("seat"), Order::refused_by("hold")]
    {
        let bank = Bank::default();
        let checked = crash_matrix(|| mixed::<Tx>(&bank), input);
        let checked = checked.check(async |world| {
            is_whole(world).await;
            let held = i64::from(world.outcome() == Some(&Outcome::Completed));
            assert_eq!(bank.balance(world.key(), "seat"), held);
        });
        let checked = checked.await;
        assert!(checked.points > 6 && checked.missed * 10 < checked.runs, "{checked:?}");
    }
}

#[tokio::test]
async fn so_have_those_on_other_stores() {
    let folder = tempfile::tempdir().unwrap();
    for case in [
        "call reserve 1: answer lost",
        "call hold 1: kill",
        "commit begin 1: answer lost",
        "commit begin 1: kill",
    ] {
        let open = |clock: VirtualClock| {
            let file = folder.path().join(format!("{}.db", Uuid::new_v4()));
            async move { SqliteBackend::open_with(SqliteOptions::new(file).with_clock(clock)).await.unwrap() }
        };
        let matrix = crash_matrix(all, Order::fine()).on(open).only(case);
        let checked = matrix.check(async |world| is_whole(world).await).await;
        assert_eq!((checked.runs, checked.missed), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_begins_with_its_first_steps() {
    for no_such in ["commit reserve done 1: kill", "commit take up 1: kill"] {
        let matrix = crash_matrix(all::<Tx>, Order::fine()).only(no_such);
        let failures = matrix.try_check(async |world| is_whole(world).await).await.unwrap_err();
        assert!(failures.to_string().contains("there is no such case"), "{failures}");
    }
}
