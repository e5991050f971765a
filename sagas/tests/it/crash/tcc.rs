//! TCCs that crash wherever they can: a good one, and some whose participants are built wrong.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use es_core::BoxError;
use es_core::memory::{MemoryBackend, Tx};
use es_core::store::{RowStore, Transaction};
use sagas::saga::{Call, Cx, Journal, Outcome, Ran, Remote, StepError};
use sagas::tcc::{Tcc, TccTransaction};
use sagas::testing::{Failures, World, crash_matrix};
use tokio::task::yield_now;

use super::cases;
use super::order::{Order, effects, write};

/// How the other participant is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Built {
    Well,
    /// Its cancel leaves what is not said to have reserved.
    LeavesMaybe,
    /// Its confirmation acts each time.
    ConfirmsTwice,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    held: i64,
    used: i64,
    /// It has answered a reservation, or a cancel that came first.
    is_known: bool,
    is_over: bool,
}

/// A participant that is called by key.
#[derive(Clone, Debug, Default)]
struct Hall(Arc<Mutex<BTreeMap<String, Account>>>);

impl Hall {
    async fn call<R>(&self, of: &str, act: impl FnOnce(&mut Account) -> R) -> R {
        yield_now().await;
        let answer = act(self.0.lock().unwrap().entry(of.to_owned()).or_default());
        yield_now().await;
        answer
    }

    fn account(&self, of: &str) -> Account {
        self.0.lock().unwrap().get(of).copied().unwrap_or_default()
    }
}

/// Elsewhere.
struct Room(Hall, Built);

impl Tcc<Order> for Room {
    const NAME: &'static str = "room";
    type Held = ();
    type Refusal = String;
    type Place = Remote;
    async fn reserve(&self, cx: Cx<'_, Order>, _: &mut Call) -> Result<(), StepError<String>> {
        cx.input.asks("room")?;
        let reserve = |account: &mut Account| match (account.is_known, account.is_over) {
            (_, true) => Err(StepError::Retry("it is over".into())),
            (true, false) => Ok(()),
            (false, false) => {
                (account.held, account.is_known) = (1, true);
                Ok(())
            }
        };
        self.0.call(cx.key, reserve).await
    }
    async fn confirm(&self, cx: Cx<'_, Order>, (): (), _: &mut Call) -> Result<(), BoxError> {
        let confirm = |account: &mut Account| {
            if !account.is_over || self.1 == Built::ConfirmsTwice {
                (account.held, account.used, account.is_over) = (0, account.used + 1, true);
            }
        };
        self.0.call(cx.key, confirm).await;
        Ok(())
    }
    async fn cancel(&self, cx: Cx<'_, Order>, held: Ran<()>, _: &mut Call) -> Result<(), BoxError> {
        if held == Ran::Maybe && self.1 == Built::LeavesMaybe {
            return Ok(());
        }
        let cancel =
            |account: &mut Account| (account.held, account.is_known, account.is_over) = (0, true, true);
        self.0.call(cx.key, cancel).await;
        Ok(())
    }
}

/// In the database of the journal.
struct Seat<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Tcc<Order> for Seat<T> {
    const NAME: &'static str = "seat";
    type Held = ();
    type Refusal = String;
    type Place = Journal<T>;
    async fn reserve(&self, cx: Cx<'_, Order>, tx: &mut T) -> Result<(), StepError<String>> {
        write(tx, cx.key, "reserved");
        yield_now().await;
        cx.input.asks("seat")
    }
    async fn confirm(&self, cx: Cx<'_, Order>, (): (), tx: &mut T) -> Result<(), BoxError> {
        write(tx, cx.key, "used");
        yield_now().await;
        Ok(())
    }
    async fn cancel(&self, cx: Cx<'_, Order>, _: Ran<()>, tx: &mut T) -> Result<(), BoxError> {
        write(tx, cx.key, "released");
        yield_now().await;
        Ok(())
    }
}

fn evening<T: Transaction>(hall: &Hall, built: Built) -> TccTransaction<Order, T> {
    TccTransaction::new("evening", 1).branch(Seat(PhantomData)).branch(Room(hall.clone(), built)).build()
}

/// All of it, or nothing.
async fn is_whole<B: RowStore>(hall: &Hall, world: &World<B>) {
    let account = hall.account(world.key());
    let rows = effects(world.backend(), world.key()).await;
    match world.outcome() {
        Some(Outcome::Completed) => {
            assert_eq!((account.held, account.used), (0, 1));
            assert_eq!(rows, ["reserved", "used"]);
        }
        Some(Outcome::Undone(_)) => {
            assert_eq!((account.held, account.used), (0, 0));
            assert!(rows.is_empty() || rows == ["released", "reserved"], "{rows:?}");
        }
        other => panic!("{other:?}, {}", world.run().waits_for),
    }
}

async fn found(built: Built) -> Failures {
    let hall = Hall::default();
    let matrix = crash_matrix(|| evening::<Tx>(&hall, built), Order::fine());
    matrix.try_check(async |world: &World<MemoryBackend>| is_whole(&hall, world).await).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_tcc_that_crashes_anywhere_is_confirmed_or_cancelled() {
    for (order, least) in [(Order::fine(), 8), (Order::refused_by("room"), 4), (Order::refused_by("seat"), 2)]
    {
        let hall = Hall::default();
        let matrix = crash_matrix(|| evening::<Tx>(&hall, Built::Well), order);
        let checked = matrix.check(async |world| is_whole(&hall, world).await).await;
        assert!(checked.points > least && checked.missed * 10 < checked.runs, "{checked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_leaves_what_may_be_reserved_is_found() {
    let failures = found(Built::LeavesMaybe).await;
    assert!(cases(&failures).contains(&"call room 1: answers lost"), "{failures}");
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_that_acts_twice_is_found() {
    let failures = found(Built::ConfirmsTwice).await;
    assert!(cases(&failures).contains(&"call confirm room 1: answer lost"), "{failures}");
    assert!(cases(&failures).contains(&"call confirm room 1: duplicate"), "{failures}");
}
