//! TCC: T60 to T70.

use std::marker::PhantomData;

use es_core::store::Transaction;
use sagas::overview::{Pattern, Transactions as _};
use sagas::saga::{
    Cx, HowUndone, IfItFailed, Journal, Outcome, RunError, RunShown, RunStatus, Saga, SagaApp as _,
    Sagas as _, Step, StepError, Verb, Why,
};
use sagas::tcc::Tccs as _;
use serde_json::json;

use super::Subject;
use super::branches::{DEADLINE, DEAR, Play, Transfer, Transfers};
use super::ground::PATIENCE;

fn refused(outcome: &Outcome) -> Option<(&str, &str)> {
    match outcome {
        Outcome::Undone(Why::Refused { step, why }) => Some((step, why)),
        _ => None,
    }
}

fn states(shown: &RunShown) -> Vec<&str> {
    shown.steps.iter().map(|step| &*step.state).collect()
}

/// What the bank in the store has done is as it was before, or was cancelled.
fn is_cancelled(effects: &[String]) -> bool {
    effects.is_empty() || effects == ["cancelled", "reserved"]
}

fn is_parked(shown: &RunShown) -> bool {
    shown.status == RunStatus::Parked
}

fn resolve(branch: &str) -> Verb {
    Verb::Resolve { step: branch.to_owned(), output: sagas::Data::of(&json!(null)).unwrap() }
}

fn skip(branch: &str) -> Verb {
    Verb::Skip { step: branch.to_owned() }
}

/// T60
pub(super) async fn every_branch_is_confirmed_or_every_one_is_cancelled<S: Subject>(subject: &S) {
    let transfers = Transfers::start(subject).await;
    assert_eq!(transfers.run("a", 5).await, Outcome::Completed);
    assert_eq!(transfers.effects("a").await, ["confirmed", "reserved"]);
    assert_eq!(transfers.bank.acted("a"), ["reserve", "confirm"]);
    let shown = transfers.show("a").await;
    assert_eq!(states(&shown), ["confirmed", "confirmed"], "{:?}", shown.journal);
    // The other bank says no.
    transfers.bank.plays("b", "reserve", &[Play::Refuses]);
    assert_eq!(refused(&transfers.run("b", 5).await), Some(("credit", "it is closed")));
    let effects = transfers.effects("b").await;
    assert!(is_cancelled(&effects), "{effects:?}");
    assert_eq!(transfers.bank.acted("b"), [""; 0], "its refusal was certain");
    // The bank here does.
    assert_eq!(refused(&transfers.run("c", DEAR).await), Some(("debit", "too dear")));
    assert_eq!(transfers.effects("c").await, [""; 0]);
    let acted = transfers.bank.acted("c");
    assert!(acted.is_empty() || acted == ["reserve", "cancel"] || acted == ["bar"], "{acted:?}");
    assert_eq!(transfers.left_over().await, [""; 0]);
    transfers.end().await;
}

/// T61
pub(super) async fn what_may_have_reserved_is_cancelled_and_never_reserves_after_that<S: Subject>(
    subject: &S,
) {
    let transfers = Transfers::start(subject).await;
    // It is not known to have reserved, and has not.
    transfers.bank.plays("a", "reserve", &[Play::Fails; 3]);
    let outcome = transfers.run("a", 5).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "credit"), "{outcome}");
    assert_eq!(transfers.bank.acted("a"), ["bar"]);
    // It comes late, and again.
    let key = transfers.bank.keys("a").remove(0);
    for _ in 0..2 {
        transfers.bank.arrives("a", "reserve", &key).unwrap_err();
    }
    assert_eq!(transfers.bank.acted("a"), ["bar"]);
    // It has.
    transfers.bank.plays("b", "reserve", &[Play::Unheard, Play::Fails, Play::Fails]);
    let outcome = transfers.run("b", 5).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "credit"), "{outcome}");
    assert_eq!(transfers.bank.acted("b"), ["reserve", "cancel"]);
    // It has, and refuses to do it again.
    transfers.bank.plays("c", "reserve", &[Play::Unheard, Play::Refuses]);
    assert_eq!(refused(&transfers.run("c", 5).await), Some(("credit", "it is closed")));
    assert_eq!(transfers.bank.acted("c"), ["reserve", "cancel"]);
    for run in ["a", "b", "c"] {
        let effects = transfers.effects(run).await;
        assert!(is_cancelled(&effects), "{effects:?}");
    }
    transfers.end().await;
}

/// T62
pub(super) async fn each_call_of_a_branch_acts_once_under_its_key<S: Subject>(subject: &S) {
    let transfers = Transfers::start(subject).await;
    transfers.bank.plays("a", "reserve", &[Play::Unheard]);
    transfers.bank.plays("a", "confirm", &[Play::Unheard, Play::Fails, Play::Unheard]);
    assert_eq!(transfers.run("a", 5).await, Outcome::Completed);
    assert_eq!(transfers.bank.acted("a"), ["reserve", "confirm"]);
    let keys = transfers.bank.keys("a");
    assert_eq!(keys[1..], [format!("{}/confirm", keys[0])]);
    assert!(keys[0].starts_with("tcc.transfer/") && keys[0].ends_with("/credit"), "{keys:?}");
    transfers.bank.plays("b", "reserve", &[Play::Unheard, Play::Fails, Play::Fails]);
    transfers.bank.plays("b", "cancel", &[Play::Unheard, Play::Fails, Play::Unheard]);
    assert!(matches!(transfers.run("b", 5).await, Outcome::Undone(_)));
    assert_eq!(transfers.bank.acted("b"), ["reserve", "cancel"]);
    let keys = transfers.bank.keys("b");
    assert_eq!(keys[1..], [format!("{}/undo", keys[0])]);
    transfers.end().await;
}

/// T63
pub(super) async fn a_reservation_under_way_is_waited_for_or_barred<S: Subject>(subject: &S) {
    let mut transfers = Transfers::start(subject).await;
    transfers.bank.plays("a", "reserve", &[Play::Waits]);
    let handle = transfers.begin("a", 5).await;
    transfers.until_waiting("a", "reserve").await;
    assert_eq!(transfers.ask("a", Verb::Cancel).await, Ok(()));
    let shown = transfers.until("a", |shown| shown.steps[0].state == "cancelled").await;
    assert_eq!((shown.status, transfers.bank.acted("a").len()), (RunStatus::Undoing, 0));
    transfers.bank.let_go();
    let outcome = transfers.end_of(&handle).await;
    assert!(matches!(outcome, Outcome::Undone(Why::Cancelled { .. })), "{outcome}");
    assert_eq!(transfers.bank.acted("a"), ["reserve", "cancel"]);
    // Its node is gone: it is somewhere in the network, and arrives when all is over.
    transfers.bank.plays("b", "reserve", &[Play::Waits, Play::Fails, Play::Fails, Play::Fails]);
    let handle = transfers.begin("b", 5).await;
    transfers.until_waiting("b", "reserve").await;
    transfers.join().await;
    transfers.crash(0);
    assert!(matches!(transfers.end_of(&handle).await, Outcome::Undone(_)));
    let key = transfers.bank.keys("b").remove(0);
    transfers.bank.arrives("b", "reserve", &key).unwrap_err();
    assert_eq!(transfers.bank.acted("b"), ["bar"]);
    transfers.end().await;
}

/// T64
pub(super) async fn once_every_branch_has_reserved_nothing_cancels_it<S: Subject>(subject: &S) {
    let transfers = Transfers::start(subject).await;
    transfers.bank.breaks("a", "confirm");
    let handle = transfers.begin("a", 5).await;
    transfers.until("a", |shown| shown.steps[1].failures > 0).await;
    let why = transfers.declined("a", Verb::Cancel).await;
    assert!(why.contains("decided to confirm"), "{why}");
    transfers.ground.clock.advance(DEADLINE * 2);
    let shown = transfers.until("a", is_parked).await;
    assert!(shown.waits_for.contains("credit: it is broken"), "{}", shown.waits_for);
    assert_eq!(states(&shown), ["confirmed", "parked"]);
    let runs = transfers.runs();
    let forward = transfers.ground.ask(async || runs.if_it_failed("a").await).await;
    assert!(matches!(forward, Ok(IfItFailed::Forward(_))), "{forward:?}");
    let why = transfers.declined("a", skip("credit")).await;
    assert!(why.contains("not to be cancelled"), "{why}");
    transfers.bank.mend();
    assert_eq!(transfers.ask("a", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(transfers.end_of(&handle).await, Outcome::Completed);
    assert_eq!(transfers.bank.acted("a"), ["reserve", "confirm"]);
    assert_eq!(transfers.effects("a").await, ["confirmed", "reserved"]);
    transfers.end().await;
}

/// T65
pub(super) async fn a_deadline_cancels_what_has_not_all_reserved<S: Subject>(subject: &S) {
    let transfers = Transfers::start(subject).await;
    transfers.bank.plays("a", "reserve", &[Play::Waits]);
    let handle = transfers.begin("a", 5).await;
    transfers.until_waiting("a", "reserve").await;
    transfers.ground.clock.advance(DEADLINE);
    transfers.until("a", |shown| shown.status == RunStatus::Undoing).await;
    transfers.bank.let_go();
    assert_eq!(transfers.end_of(&handle).await, Outcome::Undone(Why::Deadline));
    // Its lease may have run out meanwhile: whoever took it up has not waited for the answer.
    let acted = transfers.bank.acted("a");
    assert!(acted == ["reserve", "cancel"] || acted == ["bar"], "{acted:?}");
    let effects = transfers.effects("a").await;
    assert!(is_cancelled(&effects), "{effects:?}");
    transfers.end().await;
}

/// T66
pub(super) async fn a_tcc_of_a_node_that_is_gone_goes_on_elsewhere<S: Subject>(subject: &S) {
    let mut transfers = Transfers::start(subject).await;
    let (mut handles, calls) = (Vec::new(), ["reserve", "confirm"]);
    for call in calls {
        transfers.bank.plays(call, call, &[Play::Waits]);
        handles.push(transfers.begin(call, 5).await);
        transfers.until_waiting(call, call).await;
    }
    transfers.join().await;
    transfers.crash(0);
    for (handle, run) in handles.iter().zip(calls) {
        assert_eq!(transfers.end_of(handle).await, Outcome::Completed);
        assert_eq!(transfers.bank.acted(run), ["reserve", "confirm"]);
        assert_eq!(transfers.effects(run).await, ["confirmed", "reserved"]);
    }
    transfers.end().await;
}

/// T67
pub(super) async fn what_an_operator_says_of_a_branch_counts<S: Subject>(subject: &S) {
    let transfers = Transfers::start(subject).await;
    let (runs, ground) = (transfers.runs(), &transfers.ground);
    transfers.bank.plays("a", "reserve", &[Play::Unheard, Play::Fails, Play::Fails]);
    transfers.bank.breaks("a", "cancel");
    let cancelled = transfers.begin("a", 5).await;
    transfers.until("a", is_parked).await;
    transfers.bank.breaks("b", "confirm");
    let confirmed = transfers.begin("b", 5).await;
    transfers.until("b", is_parked).await;
    let mut waiting: Vec<String> = ground
        .ask(async || runs.waiting(None, 10).await)
        .await
        .into_iter()
        .map(|(_, waiting)| waiting.key)
        .collect();
    waiting.sort();
    assert_eq!(waiting, ["a", "b"]);
    assert_eq!(transfers.nodes[0].transactions().kinds(), [(Pattern::TCC, "tcc.transfer".to_owned())]);
    let foreseen = ground.ask(async || runs.if_it_failed("a").await).await.unwrap();
    let IfItFailed::Undone(rounds) = foreseen else { panic!("{foreseen:?}") };
    assert_eq!(rounds.concat().last().map(|of| (&*of.step, of.how)), Some(("credit", HowUndone::Asked)));
    for verb in [Verb::GoForward, Verb::Cancel, resolve("credit"), skip("nobody")] {
        transfers.declined("a", verb).await;
    }
    let tried = ground.ask(async || runs.dry_run("a", skip("credit"), "ada", "by hand").await).await;
    assert!(tried.unwrap().records[1].contains("ended: undone"));
    assert_eq!(transfers.ask("a", skip("credit")).await, Ok(()));
    assert_eq!(transfers.ask("b", resolve("credit")).await, Ok(()));
    assert!(matches!(transfers.end_of(&cancelled).await, Outcome::Undone(_)));
    assert_eq!(transfers.end_of(&confirmed).await, Outcome::Completed);
    let journal = transfers.show("b").await.journal;
    assert!(journal.iter().any(|(_, what)| what.contains("by ada: because")), "{journal:?}");
    assert_eq!(transfers.left_over().await, [""; 0]);
    transfers.end().await;
}

/// In the place of both branches.
struct Move<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Step<Transfer> for Move<T> {
    const NAME: &'static str = "move";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Journal<T>;
    async fn run(&self, _: Cx<'_, Transfer>, _: &mut T) -> Result<(), StepError<String>> {
        Ok(())
    }
}

/// T68
pub(super) async fn a_saga_and_a_tcc_of_one_name_and_input_are_two<S: Subject>(subject: &S) {
    let mut transfers = Transfers::start(subject).await;
    let error = transfers.nodes[0].start_saga("a", &Transfer { cents: 5 }).await.unwrap_err();
    assert!(matches!(error, RunError::NotRegistered { .. }), "{error}");
    transfers.join_with(|app| app.saga(Saga::new("transfer", 1).pivot(Move(PhantomData)).build())).await;
    transfers.nodes.swap(0, 1);
    assert_eq!(transfers.run("a", 5).await, Outcome::Completed);
    let saga =
        transfers.ground.ask(async || transfers.nodes[0].start_saga("a", &Transfer { cents: 7 }).await).await;
    assert_eq!(transfers.end_of(&saga).await, Outcome::Completed);
    let without = transfers.ground.join(|app| app).await;
    let error = without.run_tcc("b", Transfer { cents: 5 }).await.unwrap_err().to_string();
    assert!(error.contains(".tcc(..)"), "{error}");
    assert!(without.shutdown(PATIENCE).await);
    transfers.end().await;
}

/// T69
pub(super) async fn a_reservation_that_fails_once_it_is_decided_says_nothing_of_its_cancel<S: Subject>(
    subject: &S,
) {
    let transfers = Transfers::start(subject).await;
    transfers.bank.plays("a", "reserve", &[Play::Hangs]);
    transfers.bank.plays("a", "cancel", &[Play::Waits]);
    let handle = transfers.begin("a", 5).await;
    transfers.until_waiting("a", "reserve").await;
    assert_eq!(transfers.ask("a", Verb::Cancel).await, Ok(()));
    transfers.bank.let_go();
    transfers.until_waiting("a", "cancel").await;
    let shown = transfers.show("a").await;
    assert_eq!((&*shown.steps[1].state, shown.steps[1].failures), ("may have reserved", 0));
    transfers.bank.let_go();
    assert!(matches!(transfers.end_of(&handle).await, Outcome::Undone(Why::Cancelled { .. })));
    assert_eq!(transfers.bank.acted("a"), ["bar"]);
    transfers.end().await;
}

/// T70
pub(super) async fn a_tcc_keeps_the_branches_that_it_began_with<S: Subject>(subject: &S) {
    let mut transfers = Transfers::start(subject).await;
    transfers.bank.plays("old", "confirm", &[Play::Waits]);
    let old = transfers.begin("old", 5).await;
    transfers.until_waiting("old", "confirm").await;
    // The older program goes, and the newer one does not have its definition.
    transfers.crash(0);
    transfers.join_as(&[2]).await;
    assert_eq!(transfers.run("new", 5).await, Outcome::Completed);
    assert_eq!(states(&transfers.show("new").await), ["confirmed"; 3]);
    let shown = transfers.show("old").await;
    assert_eq!(shown.outcome, None);
    assert!(shown.waits_for.contains("version 1"), "{}", shown.waits_for);
    transfers.join_as(&[2, 1]).await;
    assert_eq!(transfers.end_of(&old).await, Outcome::Completed);
    assert_eq!(transfers.bank.acted("old"), ["reserve", "confirm"]);
    assert_eq!(transfers.effects("old").await, ["confirmed", "reserved"]);
    transfers.end().await;
}
