//! Sagas that crash wherever they can: a good one, and some that are built wrong.

mod family;
mod locks;
mod order;
mod second;
mod staged;
mod tcc;

use es_core::memory::{MemoryBackend, Tx};
use es_core::store::RowStore;
use es_core::testing::conformance::double::{Double, Line};
use es_sqlite::{SqliteBackend, SqliteOptions};
use sagas::saga::Outcome;
use sagas::testing::{Failures, VirtualClock, World, crash_matrix};
use uuid::Uuid;

use self::order::{Bank, Built, Order, effects, payment, place_order};

/// All of it, or nothing.
async fn is_whole<B: RowStore>(bank: &Bank, world: &World<B>) {
    let balance = ["hold", "seat", "pay"].map(|step| bank.balance(world.key(), step));
    let rows = effects(world.backend(), world.key()).await;
    match world.outcome() {
        Some(Outcome::Completed) => {
            assert_eq!((balance, rows), ([1; 3], vec!["mail".to_owned(), "reserve".to_owned()]));
        }
        Some(Outcome::Undone(_)) => {
            assert_eq!(balance, [0; 3]);
            let is_undone = rows.is_empty() || rows == ["reserve", "undo reserve"];
            assert!(is_undone, "{rows:?}");
        }
        other => panic!("{other:?}, {}", world.run().waits_for),
    }
}

async fn holds_for(input: Order, least: usize) {
    let bank = Bank::default();
    let matrix = crash_matrix(|| place_order::<Tx>(&bank), input);
    let checked = matrix.check(async |world| is_whole(&bank, world).await).await;
    assert!(checked.points > least && checked.missed * 10 < checked.runs, "{checked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_crashes_anywhere_has_run_or_is_undone() {
    holds_for(Order::fine(), 10).await;
}

#[tokio::test(start_paused = true)]
async fn so_has_one_whose_pivot_refuses() {
    holds_for(Order::refused_by("pay"), 14).await;
}

#[tokio::test(start_paused = true)]
async fn so_has_one_of_whose_branches_one_refuses() {
    holds_for(Order::refused_by("hold"), 9).await;
}

#[tokio::test]
async fn it_runs_on_other_stores() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["call pay 1: kill", "commit reserve done 1: answer lost", "commit mail done 1: kill"] {
        let bank = Bank::default();
        let open = |clock: VirtualClock| {
            let file = folder.path().join(format!("{}.db", Uuid::new_v4()));
            async move { SqliteBackend::open_with(SqliteOptions::new(file).with_clock(clock)).await.unwrap() }
        };
        let matrix = crash_matrix(|| place_order(&bank), Order::fine()).on(open).only(case);
        let checked = matrix.check(async |world| is_whole(&bank, world).await).await;
        assert_eq!((checked.runs, checked.missed), (2, 0));
    }
}

/// What is found in a saga that charges a card, built in some way.
async fn found(built: Built) -> Failures {
    let bank = Bank::default();
    let matrix = crash_matrix(|| payment::<Tx>(&bank, built), Order::fine());
    matrix.try_check(async |world| is_paid(&bank, world)).await.unwrap_err()
}

/// Charged once, or not at all.
fn is_paid<B>(bank: &Bank, world: &World<B>) {
    let paid = i64::from(world.outcome() == Some(&Outcome::Completed));
    assert_eq!(bank.balance(world.key(), "charge"), paid, "{:?}", world.outcome());
}

fn cases(failures: &Failures) -> Vec<&str> {
    failures.iter().map(|failure| &*failure.case).collect()
}

#[tokio::test(start_paused = true)]
async fn built_well_it_is_found_well() {
    let bank = Bank::default();
    let matrix = crash_matrix(|| payment::<Tx>(&bank, Built::Well), Order::fine());
    matrix.check(async |world| is_paid(&bank, world)).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_before_its_effect_without_a_guard_is_found() {
    let failures = found(Built::RecordsFirst).await;
    assert_eq!(cases(&failures), ["call charge 1: kill midway"], "{failures}");
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_leaves_what_may_have_run_is_found() {
    let failures = found(Built::LeavesMaybe).await;
    assert!(cases(&failures).contains(&"call charge 1: answers lost"), "{failures}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_repetition_that_is_taken_for_clean_is_found() {
    let failures = found(Built::RefusesRepetitions).await;
    assert!(cases(&failures).contains(&"call charge 1: answer lost"), "{failures}");
    let told = failures.to_string();
    assert!(told.contains("it is undone, and charge, which has run or may have, is not"), "{told}");
    assert!(told.contains("CRASH_MATRIX='call charge 1: "), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_store_without_a_fence_is_found() {
    let bank = Bank::default();
    let matrix = crash_matrix(|| payment(&bank, Built::Well), Order::fine());
    let matrix = matrix.on(|clock| async move {
        let store = Double::new(MemoryBackend::with_clock(clock));
        store.set(Line::Unfenced("txn."));
        store
    });
    let failures = matrix.try_check(async |world| is_paid(&bank, world)).await.unwrap_err();
    assert!(cases(&failures).contains(&"commit charge done 1: stall"), "{failures}");
    assert!(failures.to_string().contains("a node that was overtaken was not stopped"), "{failures}");
}

#[tokio::test(start_paused = true)]
async fn a_case_that_is_not_there_is_found() {
    let bank = Bank::default();
    let matrix =
        crash_matrix(|| payment::<Tx>(&bank, Built::Well), Order::fine()).only("call change 1: kill");
    let failures = matrix.try_check(async |world| is_paid(&bank, world)).await.unwrap_err();
    assert_eq!(cases(&failures), ["call change 1: kill"], "{failures}");
    assert!(failures.to_string().contains("there is no such case"), "{failures}");
}
