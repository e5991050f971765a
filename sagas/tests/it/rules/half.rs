//! Half messages: M1 to M19.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use es_core::guard::{Guard, GuardKey, Guarded};
use es_core::id::Ids;
use es_core::store::Table;
use es_core::{BoxError, EventStore as _};
use futures::future::join_all;
use sagas::half::{
    Begun, HalfApp as _, HalfMessage, HalfMessages, Halves as _, LocalState, LocalTransaction,
};
use sagas::message::Published;
use sagas::overview::{Act, ActError, ActName, Pattern, Transactions as _, Which};
use sagas::reconcile::{self, Class};
use sagas::saga::{
    Cx, Handle, IfItFailed, Outcome, Retry, RunError, RunShown, RunStatus, SagaInput, StepError, Verb, Why,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Subject;
use super::ground::{Ground, PATIENCE};
use super::shaky::{Fault, Ledger, Shaky, ShakyTx, WithOther};
use super::till::{ByHand, DEAR, List, MOST, Play, Sale, Sales, Told, message, sold};

fn states(shown: &RunShown) -> [&str; 2] {
    [&shown.steps[0].state, &shown.steps[1].state]
}

fn rolled_back(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Undone(Why::RolledBack { why }) => why,
        other => panic!("it is {other}"),
    }
}

fn checks(shown: &RunShown) -> usize {
    shown.journal.iter().filter(|(_, what)| what.starts_with("a check says")).count()
}

fn is_parked(shown: &RunShown) -> bool {
    shown.status == RunStatus::Parked
}

fn resolve(step: &str) -> Verb {
    Verb::Resolve { step: step.to_owned(), output: sagas::Data::of(&json!(null)).unwrap() }
}

fn skip(step: &str) -> Verb {
    Verb::Skip { step: step.to_owned() }
}

const NEVER: &str = "it has not committed, and never will";

/// M1
pub(super) async fn a_message_is_sent_once_if_its_local_transaction_commits<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let sale = sales.sell("a", 5).await;
    assert_eq!(sales.end_of::<Sale>(&sale).await, Outcome::Completed);
    // It is tried again until it does.
    sales.script.plays(&[Play::Fails, Play::Panics]);
    let sale = sales.sell("b", 5).await;
    assert_eq!(sales.end_of::<Sale>(&sale).await, Outcome::Completed);
    assert_eq!(states(&sales.show::<Sale>("b").await), ["commit", "sent"]);
    // Its caller runs it.
    let half = sales.by_hand("c").await;
    assert_eq!(states(&sales.show::<ByHand>("c").await), ["prepared", "not sent"]);
    let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
    tx.sell("c");
    tx.commit().await.unwrap();
    assert_eq!(sales.log().await, [sold("a"), sold("b")], "it is not known here yet");
    sales.ground.ask(async || half.commit().await).await;
    assert_eq!(sales.end_of::<ByHand>(half.handle()).await, Outcome::Completed);
    // Nobody has a guard row.
    let told = sales.tell("d").await;
    assert_eq!(sales.end_of::<Told>(&told).await, Outcome::Completed);
    assert_eq!(sales.log().await, ["a", "b", "c", "d"].map(sold));
    assert_eq!(sales.till.sales().await, ["a", "b", "c"]);
    sales.end().await;
}

/// M2
pub(super) async fn what_is_rolled_back_leaves_no_trace<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let dear = sales.sell("a", DEAR).await;
    assert_eq!(rolled_back(&sales.end_of::<Sale>(&dear).await), "too dear");
    // It never comes to its end: then it never will.
    sales.script.plays(&[Play::Fails; 3]);
    let fails = sales.sell("b", 5).await;
    let why = format!("{NEVER}; the last try has failed: a statement failed");
    assert_eq!(rolled_back(&sales.end_of::<Sale>(&fails).await), why);
    assert_eq!(states(&sales.show::<Sale>("b").await), ["rollback", "never sent"]);
    // Its caller rolls it back, or does not begin it.
    let half = sales.by_hand("c").await;
    let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
    tx.sell("c");
    tx.roll_back("sold out").await.unwrap();
    let given_up = sales.by_hand("d").await;
    for (half, why) in [(half, format!("{NEVER}: sold out")), (given_up, NEVER.to_owned())] {
        sales.ground.ask(async || half.rollback().await).await;
        assert_eq!(rolled_back(&sales.end_of::<ByHand>(half.handle()).await), why);
        assert!(matches!(half.begin().await.unwrap(), Begun::RolledBack(_)));
    }
    sales.script.plays(&[Play::Says(LocalState::Rollback)]);
    let told = sales.tell("e").await;
    assert_eq!(rolled_back(&sales.end_of::<Told>(&told).await), "the call that ran it says so");
    assert_eq!(sales.log().await, []);
    assert_eq!(sales.till.sales().await, [""; 0]);
    for kind in ["sale", "by-hand", "told"] {
        for table in [format!("hot.txn.wakes.half.{kind}.v1"), format!("txn.attention.half.{kind}")] {
            let table = Table::<Value>::new(table).unwrap();
            assert_eq!(sales.ground.ask(async || table.all(&sales.ground.backend).await).await, []);
        }
    }
    sales.end().await;
}

/// M3
pub(super) async fn a_caller_that_is_gone_leaves_a_message_that_is_decided<S: Subject>(subject: &S) {
    let mut sales = Sales::start(subject).await;
    // After the half message; after the local transaction; after the hint.
    let half = sales.by_hand("half").await.handle().clone();
    let (mut committed, mut hinted) = (Vec::new(), None);
    for key in ["local", "hint"] {
        let half = sales.by_hand(key).await;
        let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
        tx.sell(key);
        tx.commit().await.unwrap();
        committed.push(half.handle().clone());
        hinted = Some(half);
    }
    let hinted = hinted.unwrap();
    sales.ground.ask(async || hinted.commit().await).await;
    drop(hinted);
    sales.join().await;
    sales.crash(0);
    sales.no_longer_immune();
    assert_eq!(rolled_back(&sales.end_of::<ByHand>(&half).await), NEVER);
    for handle in &committed {
        assert_eq!(sales.end_of::<ByHand>(handle).await, Outcome::Completed);
    }
    let log: BTreeSet<String> = sales.log().await.into_iter().map(|(stream, _)| stream).collect();
    assert_eq!(log, ["hint", "local"].map(|key| sold(key).0).into());
    assert_eq!(sales.log().await.len(), 2);
    sales.end().await;
}

/// M4
pub(super) async fn what_a_node_that_is_gone_has_begun_acts_once<S: Subject>(subject: &S) {
    let mut sales = Sales::start(subject).await;
    sales.script.plays(&[Play::Waits]);
    let sale = sales.sell("a", 5).await;
    sales.script.until_waiting().await;
    // Its call ends with it, or ends well.
    sales.crash(0);
    sales.script.let_go();
    sales.join().await;
    assert_eq!(sales.end_of::<Sale>(&sale).await, Outcome::Completed);
    assert_eq!(sales.till.sales().await, ["a"]);
    assert_eq!(sales.log().await, [sold("a")]);
    sales.end().await;
}

/// M5
pub(super) async fn a_check_waits_for_the_local_transaction_that_runs<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    for (key, commits) in [("a", true), ("b", false)] {
        let half = sales.by_hand(key).await;
        let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
        tx.sell(key);
        sales.no_longer_immune();
        // More often than what counts may be.
        let shown = sales.until::<ByHand>(key, |shown| checks(shown) > MOST as usize).await;
        assert_eq!((states(&shown), shown.steps[0].failures), (["checking", "not sent"], 0));
        let (_, what) = shown.journal.last().unwrap();
        assert!(what.starts_with("a check says: the local transaction is running"), "{what}");
        match commits {
            true => tx.commit().await.unwrap(),
            false => drop(tx),
        }
        let outcome = sales.end_of::<ByHand>(half.handle()).await;
        match commits {
            true => assert_eq!(outcome, Outcome::Completed),
            false => assert_eq!(rolled_back(&outcome), NEVER),
        }
    }
    assert_eq!(sales.log().await, [sold("a")]);
    sales.end().await;
}

/// M6
pub(super) async fn while_no_producer_is_there_nothing_is_counted<S: Subject>(subject: &S) {
    let mut sales = Sales::start(subject).await;
    let half = sales.by_hand("a").await;
    let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
    tx.sell("a");
    tx.commit().await.unwrap();
    let (handle, app) = (half.handle().clone(), sales.nodes.remove(0));
    drop(half);
    assert!(app.shutdown(PATIENCE).await);
    for _ in 0..10 {
        sales.no_longer_immune();
    }
    sales.join().await;
    assert_eq!(sales.end_of::<ByHand>(&handle).await, Outcome::Completed);
    let shown = sales.show::<ByHand>("a").await;
    assert_eq!(checks(&shown), 1, "{:?}", shown.journal);
    assert_eq!(sales.log().await, [sold("a")]);
    sales.end().await;
}

/// M7
pub(super) async fn a_listener_that_does_not_know_an_id_is_asked_again<S: Subject>(subject: &S) {
    let mut sales = Sales::start(subject).await;
    sales.script.plays(&[Play::Says(LocalState::Unknown)]);
    sales.script.answers(&[LocalState::NotMine]);
    let told = sales.tell("a").await;
    let shown = sales.until::<Told>("a", |shown| shown.steps[0].state == "unknown").await;
    assert_eq!((checks(&shown), sales.script.checked()), (0, 0), "it is immune");
    sales.no_longer_immune();
    sales.until::<Told>("a", is_parked).await;
    // Another instance of the group knows it.
    sales.join().await;
    sales.crash(0);
    sales.script.answers(&[LocalState::NotMine, LocalState::Commit]);
    assert_eq!(sales.ask::<Told>("a", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(sales.end_of::<Told>(&told).await, Outcome::Completed);
    let shown = sales.show::<Told>("a").await;
    let unknown = "a check says: whoever was asked does not know the local transaction";
    assert!(shown.journal.iter().any(|(_, what)| what.starts_with(unknown)), "{:?}", shown.journal);
    assert_eq!(sales.script.executed(), 1);
    assert_eq!(sales.log().await, [sold("a")]);
    sales.end().await;
}

/// M8
pub(super) async fn what_is_checked_in_vain_waits_for_a_person_who_decides<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let (runs, ground) = (sales.runs::<Told>(), &sales.ground);
    sales.script.plays(&[Play::Says(LocalState::Unknown); 2]);
    sales.script.answers(&[LocalState::Unknown]);
    let told = [sales.tell("a").await, sales.tell("b").await];
    for key in ["a", "b"] {
        sales.until::<Told>(key, |shown| shown.steps[0].state == "unknown").await;
    }
    sales.no_longer_immune();
    for key in ["a", "b"] {
        let shown = sales.until::<Told>(key, is_parked).await;
        let says = format!(
            "{MOST} checks have come to nothing certain, the last one to: the listener does not know"
        );
        assert!(shown.waits_for.contains(&says), "{}", shown.waits_for);
        assert_eq!((states(&shown), shown.steps[0].failures), (["unknown", "not sent"], MOST));
    }
    let kinds = sales.nodes[0].transactions().kinds();
    assert!(kinds.iter().any(|(pattern, kind)| pattern.name() == "half" && kind == "half.told"), "{kinds:?}");
    let told_a = Which::new(Pattern::HALF, "half.told", "a");
    for act in [Act::Cancel, Act::GoForward] {
        let asked = sales.nodes[0].transactions().dry_run(&told_a, act, "ada", "because").await;
        let Err(ActError::NotKnown { knows, .. }) = asked else { panic!("{asked:?}") };
        assert_eq!(knows, [ActName::Retry, ActName::Skip, ActName::Resolve, ActName::Abandon]);
    }
    let waiting = ground.ask(async || runs.waiting(None, 10).await).await;
    assert_eq!(waiting.len(), 2);
    let forward = ground.ask(async || runs.if_it_failed("a").await).await;
    assert!(matches!(forward, Ok(IfItFailed::Forward(_))), "{forward:?}");
    for verb in [Verb::Cancel, Verb::GoForward, skip("message"), resolve("nothing")] {
        let said = ground.ask(async || runs.dry_run("a", verb.clone(), "ada", "because").await).await;
        said.unwrap_err();
    }
    assert_eq!(sales.ask::<Told>("a", resolve("local")).await, Ok(()));
    assert_eq!(sales.ask::<Told>("b", skip("local")).await, Ok(()));
    assert_eq!(sales.end_of::<Told>(&told[0]).await, Outcome::Completed);
    assert_eq!(rolled_back(&sales.end_of::<Told>(&told[1]).await), "ada says so: because");
    // The database is away for long; whoever hints has it asked again.
    let half = sales.by_hand("c").await;
    let Begun::Open(tx) = half.begin().await.unwrap() else { panic!("it is the first") };
    tx.commit().await.unwrap();
    sales.till.is_away.store(true, Ordering::SeqCst);
    sales.no_longer_immune();
    let shown = sales.until::<ByHand>("c", is_parked).await;
    assert!(shown.waits_for.contains("it is away"), "{}", shown.waits_for);
    sales.till.is_away.store(false, Ordering::SeqCst);
    sales.ground.ask(async || half.commit().await).await;
    assert_eq!(sales.end_of::<ByHand>(half.handle()).await, Outcome::Completed);
    assert_eq!(sales.log().await, [sold("a"), sold("c")]);
    sales.end().await;
}

/// M9
pub(super) async fn a_check_without_a_guard_is_believed_once_the_call_has_returned<S: Subject>(subject: &S) {
    let mut sales = Sales::start(subject).await;
    sales.script.answers(&[LocalState::Rollback]);
    sales.script.plays(&[Play::Says(LocalState::Unknown), Play::Waits]);
    let returned = sales.tell("a").await;
    sales.until::<Told>("a", |shown| shown.steps[0].state == "unknown").await;
    let lost = sales.tell("b").await;
    sales.script.until_waiting().await;
    sales.join().await;
    sales.crash(0);
    sales.no_longer_immune();
    assert_eq!(rolled_back(&sales.end_of::<Told>(&returned).await), "the listener says so");
    // It may commit yet.
    let shown = sales.until::<Told>("b", is_parked).await;
    assert!(shown.waits_for.contains("may be running still"), "{}", shown.waits_for);
    assert_eq!(sales.script.executed(), 2, "it is executed once");
    // It has.
    sales.script.answers(&[LocalState::Commit]);
    assert_eq!(sales.ask::<Told>("b", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(sales.end_of::<Told>(&lost).await, Outcome::Completed);
    assert_eq!(sales.log().await, [sold("b")]);
    sales.end().await;
}

/// M10
pub(super) async fn the_same_key_again_is_the_same_message<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let first = sales.sell("a", 5).await;
    assert_eq!(sales.end_of::<Sale>(&first).await, Outcome::Completed);
    let again = sales.sell("a", 5).await;
    assert_eq!((again.run(), again.was_started_before()), (first.run(), true));
    let app = &sales.nodes[0];
    let other = sales
        .ground
        .ask(async || match app.send_in_transaction("a", message("b"), Sale { cents: 5 }).await {
            Err(RunError::Store(error)) => Err(error),
            other => Ok(other.unwrap_err()),
        })
        .await;
    assert!(matches!(other, RunError::OtherInput { .. }), "{other}");
    let half = sales.by_hand("b").await;
    let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
    tx.sell("b");
    tx.commit().await.unwrap();
    let again = sales.by_hand("b").await;
    assert_eq!(again.guard_key(), half.guard_key());
    assert!(matches!(again.begin().await.unwrap(), Begun::Committed));
    sales.ground.ask(async || again.commit().await).await;
    assert_eq!(sales.end_of::<ByHand>(half.handle()).await, Outcome::Completed);
    assert_eq!(sales.till.sales().await, ["a", "b"]);
    assert_eq!(sales.log().await, [sold("a"), sold("b")]);
    // It is said who runs it.
    let error = app.send_in_transaction("c", message("c"), ByHand { cents: 5 }).await.unwrap_err();
    assert!(matches!(error, RunError::NoHalf { run_by: "the engine", .. }), "{error}");
    sales.end().await;
}

/// M11
pub(super) async fn a_hint_decides_nothing<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    // It says that it has committed, and has not begun.
    let half = sales.by_hand("a").await;
    sales.ground.ask(async || half.commit().await).await;
    assert_eq!(rolled_back(&sales.end_of::<ByHand>(half.handle()).await), NEVER);
    assert!(matches!(half.begin().await.unwrap(), Begun::RolledBack(_)));
    // It says that it was rolled back, and has committed.
    let half = sales.by_hand("b").await;
    let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
    tx.sell("b");
    tx.commit().await.unwrap();
    sales.ground.ask(async || half.rollback().await).await;
    assert_eq!(sales.end_of::<ByHand>(half.handle()).await, Outcome::Completed);
    // It comes late, and again.
    for _ in 0..2 {
        sales.ground.ask(async || half.rollback().await).await;
    }
    assert_eq!(sales.till.sales().await, ["b"]);
    assert_eq!(sales.log().await, [sold("b")]);
    sales.end().await;
}

/// M14
pub(super) async fn a_listener_that_was_not_called_before_its_node_ended_is_called_by_the_next<S: Subject>(
    subject: &S,
) {
    let mut sales = Sales::start(subject).await;
    sales.until_at_work().await;
    let mut handles = Vec::new();
    for round in 0..5 {
        let keys: Vec<String> = (0..10).map(|n| format!("{round}-{n}")).collect();
        // Where it ends, some are handed over, some are written as taken up, and some are called.
        handles.extend(join_all(keys.iter().map(|key| sales.tell(key))).await);
        assert!(sales.nodes.remove(0).shutdown(PATIENCE).await);
        sales.join().await;
    }
    for handle in &handles {
        assert_eq!(sales.end_of::<Told>(handle).await, Outcome::Completed);
    }
    assert_eq!(sales.script.executed(), handles.len());
    sales.end().await;
}

/// M15
pub(super) async fn the_same_request_in_another_order_finds_what_it_has_begun<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let text = |list: &List| serde_json::to_string(list).unwrap();
    let list = List::new();
    let other = std::iter::repeat_with(List::new).find(|other| text(other) != text(&list)).unwrap();
    for (key, commits) in [("a", true), ("b", false)] {
        let half = sales.list(key, &list).await;
        let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
        tx.sell(key);
        match commits {
            true => tx.commit().await.unwrap(),
            false => tx.roll_back("sold out").await.unwrap(),
        }
        let again = sales.list(key, &other).await;
        assert_eq!((again.handle().run(), again.fingerprint()), (half.handle().run(), half.fingerprint()));
        match again.begin().await.unwrap() {
            Begun::Committed => assert!(commits),
            Begun::RolledBack(why) => assert_eq!((why.as_str(), commits), ("sold out", false)),
            Begun::Open(_) => panic!("{key} is open again"),
        }
        sales.ground.ask(async || again.commit().await).await;
        let outcome = sales.end_of::<List>(half.handle()).await;
        assert_eq!(outcome == Outcome::Completed, commits, "{outcome}");
    }
    assert_eq!(sales.log().await, [sold("a")]);
    sales.end().await;
}

/// How many commits a run has come to: each writes its head once.
async fn commits<S: Subject>(sales: &Sales<'_, S>, handle: &Handle) -> u64 {
    let table = Table::<Value>::new("txn.heads.half.sale").unwrap();
    let heads = sales.ground.ask(async || table.all(&sales.ground.backend).await).await;
    let run = handle.run().simple().to_string();
    heads.into_iter().find(|row| row.key.ends_with(&run)).unwrap().rev
}

/// M16
pub(super) async fn a_message_is_appended_in_the_commit_of_what_it_follows_from<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    sales.until_at_work().await;
    // A store that fails once is asked again, which takes a commit more.
    for n in 0..20 {
        let sale = sales.sell(&format!("a{n}"), 5).await;
        assert_eq!(sales.end_of::<Sale>(&sale).await, Outcome::Completed);
        // That of the half message, and one.
        if commits(&sales, &sale).await == 2 {
            return sales.end().await;
        }
    }
    panic!("each has taken more");
}

/// M17
pub(super) async fn messages_of_one_key_that_come_together_are_all_sent<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let (app, ground) = (&sales.nodes[0], &sales.ground);
    let keys: Vec<String> = (0..12).map(|n| format!("a{n}")).collect();
    let sells = keys.iter().map(|key| {
        ground.ask(async || app.send_in_transaction(key, message("hot"), Sale { cents: 5 }).await)
    });
    for handle in join_all(sells).await {
        assert_eq!(sales.end_of::<Sale>(&handle).await, Outcome::Completed);
    }
    assert_eq!(sales.script.executed(), keys.len(), "no local transaction runs again for that");
    assert_eq!(sales.till.sales().await.len(), keys.len());
    assert_eq!(sales.log().await, vec![sold("hot"); keys.len()]);
    sales.end().await;
}

/// M18
pub(super) async fn what_becomes_of_half_messages_is_what_their_guard_rows_say<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let sold = sales.sell("a", 5).await;
    assert_eq!(sales.end_of::<Sale>(&sold).await, Outcome::Completed);
    sales.script.plays(&[Play::Fails; 3]);
    for (key, cents) in [("fails", 5), ("dear", DEAR)] {
        let sale = sales.sell(key, cents).await;
        rolled_back(&sales.end_of::<Sale>(&sale).await);
    }
    let half = sales.by_hand("b").await;
    let Begun::Open(mut tx) = half.begin().await.unwrap() else { panic!("it is the first") };
    tx.sell("b");
    tx.commit().await.unwrap();
    let given_up = sales.by_hand("c").await;
    for half in [&half, &given_up] {
        sales.ground.ask(async || half.commit().await).await;
        sales.end_of::<ByHand>(half.handle()).await;
    }
    // Nothing guards it.
    let told = sales.tell("d").await;
    assert_eq!(sales.end_of::<Told>(&told).await, Outcome::Completed);
    let (all, till) = (sales.nodes[0].transactions(), Arc::new(sales.till.clone()));
    let guards = reconcile::guards(&all, sales.ground.backend.clone(), "till", till).unwrap();
    let guards = guards.looks_again_after(Duration::ZERO);
    let look = async || sales.ground.ask(async || guards.run().await).await;
    let report = look().await;
    assert!(report.is_clean() && report.keys == 5, "{report}");
    sales.till.loses(sold.run()).await;
    sales.till.loses(half.handle().run()).await;
    let report = look().await;
    assert_eq!((report.of(Class::MissingRight), report.differences()), (2, 2), "{report}");
    let keys: BTreeSet<String> = report.first.into_iter().map(|of| of.key).collect();
    let of = |kind: &str, handle: &Handle| format!("half.{kind}/local {}", handle.run());
    assert_eq!(keys, [of("sale", &sold), of("by-hand", half.handle())].into());
    sales.end().await;
}

/// M19
pub(super) async fn a_message_that_no_log_takes_is_refused_before_anything_is_begun<S: Subject>(subject: &S) {
    let sales = Sales::start(subject).await;
    let app = &sales.nodes[0];
    let read = |key: &str, body: Value| {
        serde_json::from_value::<HalfMessage>(json!({ "topic": "sold", "key": key, "body": body })).unwrap()
    };
    let unfit = [read(&"k".repeat(300), json!(1)), read("a", Value::from("x".repeat(1_100_000)))];
    for message in unfit {
        let by_engine = app.send_in_transaction("a", message.clone(), Sale { cents: 5 }).await.unwrap_err();
        let by_caller = app.send_half("a", message, ByHand { cents: 5 }).await.unwrap_err();
        for error in [by_engine, by_caller] {
            assert!(matches!(error, RunError::Input { .. }), "{error}");
        }
    }
    assert_eq!((sales.script.executed(), sales.till.sales().await), (0, Vec::new()));
    sales.end().await;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deed {
    fails: bool,
}
impl SagaInput for Deed {}

/// In the second database.
struct Do<D>(PhantomData<fn() -> D>);

impl<D: Ledger> LocalTransaction<Deed> for Do<D> {
    type Database = Shaky<D>;
    type Refusal = &'static str;

    async fn execute(
        &self,
        cx: Cx<'_, Deed>,
        tx: &mut ShakyTx<D::Tx>,
    ) -> Result<(), StepError<&'static str>> {
        D::write(&mut tx.tx, cx.key).await.map_err(StepError::Retry)?;
        match cx.input.fails {
            true => Err(StepError::Retry("it fails".into())),
            false => Ok(()),
        }
    }

    fn retry(&self) -> Retry {
        let brief = Duration::from_millis(5);
        Retry::default().pauses(brief, brief * 4).tries(2)
    }
}

/// M12
pub(super) async fn a_local_transaction_in_a_second_database_acts_once<S: WithOther>(subject: &S) {
    let ground = Ground::open(subject).await;
    ground.flow();
    let other = subject.other().await;
    other.make().await;
    let other = Shaky::new(other);
    let brief = Duration::from_millis(5);
    let of = || HalfMessages::of("deed", 1, Do::<S::Other>(PhantomData)).checks(brief, brief * 4, 5);
    let app = ground.join(|app| app.provide(other.clone()).half_messages(of())).await;
    let run = async |key: &str, fails| {
        let deed = HalfMessage::new("done", key, &key).unwrap();
        let handle =
            ground.ask(async || app.send_in_transaction(key, deed.clone(), Deed { fails }).await).await;
        loop {
            if let Some(outcome) = ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            ground.pause().await;
        }
    };
    // Its commit is in doubt twice, the second time as it has committed: a check finds that.
    other.will(&[Fault::Lost, Fault::Unheard]);
    assert_eq!(run("a", false).await, Outcome::Completed);
    // It fails, and so does the first check.
    other.will(&[Fault::Lost, Fault::Unheard]);
    let why = format!("{NEVER}; the last try has failed: it fails");
    assert_eq!(rolled_back(&run("b", true).await), why);
    assert_eq!(other.written().await, ["a"]);
    let filter = es_core::store::EventFilter::of::<Published>();
    let page = ground.ask(|| ground.backend.read(&filter, es_core::Position(0), 10)).await;
    let streams: Vec<&str> = page.events.iter().map(|event| event.stream.as_str()).collect();
    assert_eq!(streams, ["message-done/a"]);
    assert!(app.shutdown(PATIENCE).await);
}

/// M13
pub(super) async fn a_lock_that_is_waited_for_in_vain_says_that_it_is_in_progress<S: WithOther>(subject: &S) {
    let other = subject.other().await;
    other.make().await;
    let key = GuardKey::new(Ids::default().next(), "half.deed/local").unwrap();
    let call = Guard::new(&other, key.clone(), 7);
    let Guarded::Run(tx) = call.forward().await.unwrap() else { panic!("it is the first") };
    let impatient = other.impatient().await;
    let error = Guard::new(&impatient, key.clone(), 7).outcome().await.unwrap_err();
    assert!(error.is_in_progress(), "{}", es_core::chain(&error));
    call.done(tx, "null".to_owned()).await.unwrap();
    assert_eq!(Guard::new(&impatient, key, 7).outcome().await.unwrap(), es_core::guard::Outcome::Ran);
    let unread: BoxError = "no lock".into();
    let away = es_core::store::StoreError::transient("asking", std::io::Error::other(unread));
    assert!(!es_core::guard::GuardError::from(away).is_in_progress());
}
