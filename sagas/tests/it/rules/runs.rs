//! Orchestrated sagas: T1 to T14, T25, T41.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::time::Duration;

use es_core::store::Transaction;
use sagas::overview::{self, Pattern, Transactions as _, Which};
use sagas::saga::{
    Cx, IfItFailed, Journal, Outcome, Retry, RunError, RunShown, RunStatus, Saga, Sagas as _, Step,
    StepError, Verb, Why,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Subject;
use super::trip::{DEADLINE, Play, Trip, Trips, retry, trip};

const REMOTE: [&str; 3] = ["flight", "hotel", "car"];

fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort();
    all
}

fn refused(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Undone(Why::Refused { step, .. }) => Some(step),
        _ => None,
    }
}

/// T1
pub(super) async fn steps_run_in_order_and_each_once<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    assert_eq!(trips.run("a", trip()).await, Outcome::Completed);
    assert_eq!(trips.effects("a").await, ["mail", "order", "seat"]);
    let acted = trips.outside.acted("a");
    assert_eq!(sorted(acted[..3].to_vec()), ["car", "flight", "hotel"]);
    assert_eq!(acted[3..], ["pay"]);
    let shown = trips.show("a").await;
    assert_eq!((shown.status, shown.outcome), (RunStatus::Ended, Some(Outcome::Completed)));
    assert!(shown.steps.iter().all(|step| step.state == "done"), "{:?}", shown.steps);
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T2
pub(super) async fn what_has_run_is_undone_when_a_step_refuses<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    for step in ["order", "seat", "flight", "hotel", "car", "pay"] {
        let outcome = trips.run(step, trip().with(step, &[Play::Refuses])).await;
        assert_eq!(refused(&outcome), Some(step));
        let (effects, acted) = (trips.effects(step).await, trips.outside.acted(step));
        for local in ["order", "seat"] {
            let has = |what: &str| effects.iter().any(|of| of == what);
            assert_eq!(has(local), has(&format!("undo {local}")), "{step}: {effects:?}");
        }
        for remote in REMOTE {
            let n = |what: &str| acted.iter().filter(|of| *of == what).count();
            assert_eq!(n(remote), n(&format!("undo {remote}")), "{step}: {acted:?}");
            assert_eq!(n(&format!("void {remote}")), 0, "its refusal was certain: {acted:?}");
        }
        assert!(!effects.iter().any(|of| of == "mail"));
        assert!(!acted.iter().any(|of| of == "pay"));
    }
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T3
pub(super) async fn a_call_whose_answer_is_lost_acts_once<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let lost = [Play::ActsUnheard, Play::Fails, Play::Acts];
    let input = trip().with("flight", &lost).with("pay", &lost).with("seat", &lost).with("mail", &lost);
    assert_eq!(trips.run("a", input).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a").iter().filter(|of| *of == "flight" || *of == "pay").count(), 2);
    assert_eq!(trips.effects("a").await, ["mail", "order", "seat"]);
    trips.end().await;
}

/// T4
pub(super) async fn what_may_have_run_is_not_left_behind<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    // Settled: called until the answer is certain, and then undone.
    let unheard = [Play::ActsUnheard, Play::ActsUnheard, Play::ActsUnheard, Play::Fails, Play::Acts];
    let outcome = trips.run("settled", trip().with("flight", &unheard)).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "flight"), "{outcome}");
    assert!(trips.outside.acted("settled").iter().any(|of| of == "undo flight"));
    // Fenced: undone without knowing.
    let outcome = trips.run("fenced", trip().with("hotel", &[Play::Fails])).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "hotel"), "{outcome}");
    assert!(trips.outside.acted("fenced").iter().any(|of| of == "void hotel"));
    // A person is asked, who finds out.
    let handle = trips.begin("asked", &trip().with("car", &[Play::Fails])).await;
    let shown = trips.until("asked", "parked", |shown| shown.status == RunStatus::Parked).await;
    assert!(shown.waits_for.contains("a person"), "{}", shown.waits_for);
    assert_eq!(trips.ask("asked", Verb::Cancel).await, Ok(()));
    trips.until("asked", "parked again", |shown| shown.status == RunStatus::Parked).await;
    assert_eq!(trips.ask("asked", Verb::Skip { step: "car".to_owned() }).await, Ok(()));
    let outcome = trips.end_of(&handle).await;
    assert!(matches!(outcome, Outcome::Undone(Why::Cancelled { .. })), "{outcome}");
    trips.end().await;
}

/// T5
pub(super) async fn a_refusal_of_a_repetition_is_not_taken_for_clean<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let input = trip().with("flight", &[Play::ActsUnheard, Play::Refuses]);
    assert_eq!(refused(&trips.run("a", input).await), Some("flight"));
    assert!(trips.outside.acted("a").iter().any(|of| of == "void flight"));
    // Nothing is decided against a pivot that may have run.
    let handle = trips.begin("b", &trip().with("pay", &[Play::ActsUnheard, Play::Refuses])).await;
    trips.until("b", "parked", |shown| shown.status == RunStatus::Parked).await;
    trips.is_declined("b", Verb::Cancel).await;
    let paid = Verb::Resolve { step: "pay".to_owned(), output: sagas::Data::of(&()).unwrap() };
    assert_eq!(trips.ask("b", paid).await, Ok(()));
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    // Somebody has found out that it has not.
    let handle = trips.begin("c", &trip().with("pay", &[Play::ActsUnheard, Play::Refuses])).await;
    trips.until("c", "parked", |shown| shown.status == RunStatus::Parked).await;
    assert_eq!(trips.ask("c", Verb::Skip { step: "pay".to_owned() }).await, Ok(()));
    assert_eq!(refused(&trips.end_of(&handle).await), Some("pay"));
    trips.end().await;
}

/// T6
pub(super) async fn a_step_that_succeeds_after_another_refused_is_undone<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let input = trip().with("flight", &[Play::Waits]).with("hotel", &[Play::Refuses]);
    let handle = trips.begin("a", &input).await;
    trips.until("a", "to be undone", |shown| shown.status == RunStatus::Undoing).await;
    while !trips.outside.is_waiting("a", "flight") {
        trips.ground.pause().await;
    }
    trips.outside.let_go();
    assert_eq!(refused(&trips.end_of(&handle).await), Some("hotel"));
    let acted = trips.outside.acted("a");
    let at = |what: &str| acted.iter().position(|of| of == what);
    assert!(at("flight").is_some() && at("flight") < at("undo flight"), "{acted:?}");
    assert_eq!(sorted(trips.effects("a").await), ["order", "seat", "undo order", "undo seat"]);
    trips.end().await;
}

/// T7
pub(super) async fn an_undo_that_fails_for_ever_waits_for_a_person_and_others_go_on<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let fails = |undo: &str| trip().with("pay", &[Play::Refuses]).with(undo, &[Play::Fails]);
    let skipped = trips.begin("skipped", &fails("undo flight")).await;
    let retried = trips.begin("retried", &fails("undo seat")).await;
    for key in ["skipped", "retried"] {
        trips.until(key, "parked", |shown| shown.status == RunStatus::Parked).await;
    }
    // The steps beside it are undone, those before it are not.
    let acted = trips.outside.acted("skipped");
    assert!(["undo hotel", "undo car"].iter().all(|undo| acted.iter().any(|of| of == undo)), "{acted:?}");
    assert!(!trips.effects("skipped").await.contains(&"undo order".to_owned()));
    assert_eq!(trips.run("other", trip()).await, Outcome::Completed);
    let runs = trips.runs();
    assert_eq!(trips.ground.ask(async || runs.waiting(None, 10).await).await.len(), 2);
    assert_eq!(trips.ask("skipped", Verb::Skip { step: "flight".to_owned() }).await, Ok(()));
    assert_eq!(refused(&trips.end_of(&skipped).await), Some("pay"));
    trips.outside.mend();
    assert_eq!(trips.ask("retried", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(refused(&trips.end_of(&retried).await), Some("pay"));
    assert!(trips.effects("retried").await.contains(&"undo order".to_owned()));
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T8
pub(super) async fn a_deadline_undoes_what_is_not_decided_and_nothing_else<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let waits = |step: &str| trip().with(step, &[Play::Waits]);
    let before = trips.begin("before", &waits("flight")).await;
    let after = trips.begin("after", &waits("pay")).await;
    for (key, step) in [("before", "flight"), ("after", "pay")] {
        while !trips.outside.is_waiting(key, step) {
            trips.ground.pause().await;
        }
    }
    trips.ground.seconds(DEADLINE.as_secs() + 1);
    trips.until("before", "to be undone", |shown| shown.status == RunStatus::Undoing).await;
    // The pivot may run.
    trips.is_declined("after", Verb::Cancel).await;
    trips.outside.let_go();
    assert_eq!(trips.end_of(&before).await, Outcome::Undone(Why::Deadline));
    assert_eq!(trips.end_of(&after).await, Outcome::Completed);
    trips.end().await;
}

/// T9
pub(super) async fn a_key_stands_for_one_run<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    trips.join().await;
    let input = trip();
    let two = async { trips.ground.ask(async || trips.nodes[1].start_saga("a", &input).await).await };
    let (one, two) = futures::join!(trips.begin("a", &input), two);
    assert_eq!(one.run(), two.run());
    assert_eq!(trips.end_of(&one).await, Outcome::Completed);
    let again = trips.begin("a", &trip()).await;
    assert!(again.was_started_before() && again.run() == one.run());
    let other = trip().with("pay", &[Play::Refuses]);
    let refused = loop {
        match trips.nodes[0].start_saga("a", &other).await {
            Err(error) if error.kind() == es_core::ErrorKind::Transient => {}
            answer => break answer,
        }
    };
    assert!(matches!(refused, Err(RunError::OtherInput { .. })), "{refused:?}");
    assert_eq!(trips.effects("a").await, ["mail", "order", "seat"]);
    trips.end().await;
}

/// T10
pub(super) async fn runs_of_a_node_that_is_gone_go_on_elsewhere_and_act_once<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    let mut handles = Vec::new();
    for n in 0..12 {
        let input = match n % 4 {
            0 => trip(),
            1 => trip().with("flight", &[Play::Waits]),
            2 => trip().with("seat", &[Play::Fails, Play::Acts]).with("pay", &[Play::Refuses]),
            _ => trip().with("pay", &[Play::ActsUnheard]),
        };
        handles.push((n, trips.begin(&format!("k{n}"), &input).await));
    }
    for n in (1..12).step_by(4) {
        while !trips.outside.is_waiting(&format!("k{n}"), "flight") {
            trips.ground.pause().await;
        }
    }
    trips.join().await;
    trips.crash(0);
    trips.outside.let_go();
    for (n, handle) in handles {
        let (outcome, key) = (trips.end_of(&handle).await, format!("k{n}"));
        let effects = trips.effects(&key).await;
        match outcome {
            Outcome::Completed => assert_eq!(effects, ["mail", "order", "seat"], "{key}"),
            Outcome::Undone(_) => {
                assert_eq!(sorted(effects), ["order", "seat", "undo order", "undo seat"], "{key}");
            }
            other => panic!("{key}: {other}"),
        }
        let acted = trips.outside.acted(&key);
        for remote in REMOTE {
            assert!(acted.iter().filter(|of| *of == remote).count() <= 1, "{key}: {acted:?}");
        }
    }
    trips.end().await;
}

/// T14
pub(super) async fn a_run_that_a_request_has_woken_is_found_if_its_node_is_lost<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    let plays = [Play::Fails, Play::Fails, Play::Fails, Play::Fails, Play::Waits];
    let input = trip().with("pay", &[Play::Refuses]).with("undo flight", &plays);
    let handle = trips.begin("a", &input).await;
    trips.until("a", "parked", |shown| shown.status == RunStatus::Parked).await;
    assert_eq!(trips.ask("a", Verb::Retry { step: None }).await, Ok(()));
    while !trips.outside.is_waiting("a", "undo flight") {
        trips.ground.pause().await;
    }
    trips.join().await;
    trips.crash(0);
    trips.outside.let_go();
    assert_eq!(refused(&trips.end_of(&handle).await), Some("pay"));
    trips.end().await;
}

/// T10
pub(super) async fn a_node_that_ends_leaves_its_runs_to_the_next<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    let handle = trips.begin("a", &trip().with("pay", &[Play::Fails, Play::Fails, Play::Acts])).await;
    trips.stop().await;
    trips.join().await;
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.effects("a").await, ["mail", "order", "seat"]);
    trips.end().await;
}

/// T11
pub(super) async fn a_run_keeps_its_version_and_is_left_to_who_has_it<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    let old = trips.begin("old", &trip().with("flight", &[Play::Waits])).await;
    while !trips.outside.is_waiting("old", "flight") {
        trips.ground.pause().await;
    }
    // The older program goes, and the newer one does not have its definition.
    trips.crash(0);
    trips.join_as(&[2]).await;
    trips.outside.let_go();
    assert_eq!(trips.run("new", trip()).await, Outcome::Completed);
    trips.ground.seconds(2);
    let shown = trips.show("old").await;
    assert_eq!((shown.outcome, shown.steps.len()), (None, 0));
    assert!(shown.waits_for.contains("version 1"), "{}", shown.waits_for);
    // What is asked of it waits, too: this program would make something else of it.
    let brief = Duration::from_millis(50);
    let retry = Verb::Retry { step: None };
    let runs = trips.runs();
    assert!(matches!(runs.ask("old", retry, "ada", "now", brief).await, Err(RunError::Store(_))));
    assert_eq!(trips.show("old").await.outcome, None);
    trips.join_as(&[2, 1]).await;
    assert_eq!(trips.end_of(&old).await, Outcome::Completed);
    assert_eq!([trips.show("old").await.version, trips.show("new").await.version], [1, 2]);
    trips.end().await;
}

/// T41
pub(super) async fn a_run_of_an_earlier_definition_is_shown_as_any<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    let old = trips.begin("old", &trip().with("mail", &[Play::Fails])).await;
    let is_parked = |shown: &RunShown| shown.status == RunStatus::Parked;
    trips.until("old", "parked", is_parked).await;
    trips.crash(0);
    trips.join_as(&[2, 1]).await;
    let runs = trips.runs();
    let shown = trips.ground.ask(async || runs.show("old").await).await;
    assert_eq!((shown.version, shown.steps.len()), (1, 7));
    assert!(shown.waits_for.contains("mail: no mail"), "{}", shown.waits_for);
    let retry = Verb::Retry { step: None };
    let dry = async || runs.dry_run("old", retry.clone(), "ada", "because").await;
    let dry = trips.ground.ask(dry).await.unwrap();
    assert_eq!(dry.records, ["retried by ada: because"]);
    let foreseen = trips.ground.ask(async || runs.if_it_failed("old").await).await;
    assert!(matches!(foreseen, Ok(IfItFailed::Forward(_))), "{foreseen:?}");
    // Both definitions are one kind in the list of all.
    let (all, which) = (trips.nodes[0].transactions(), Which::new(Pattern::SAGA, "trip", "old"));
    assert_eq!(all.kinds(), [(Pattern::SAGA, "trip".to_owned())]);
    assert_eq!(trips.ground.ask(async || all.waits_for(&which).await).await, [shown.waits_for]);
    let act = overview::Act::Retry { part: None };
    let dry = trips.ground.ask(async || all.dry_run(&which, act.clone(), "ada", "because").await).await;
    assert!(dry.starts_with("retried by ada: because; "), "{dry}");
    trips.outside.mend();
    assert_eq!(trips.ask("old", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(trips.end_of(&old).await, Outcome::Completed);
    assert_eq!(trips.run("new", trip()).await, Outcome::Completed);
    assert_eq!([trips.show("old").await.version, trips.show("new").await.version], [1, 2]);
    trips.end().await;
}

/// T12
pub(super) async fn a_run_that_cannot_be_read_holds_up_no_other<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let handle = trips.begin("a", &trip().with("flight", &[Play::Waits])).await;
    while !trips.outside.is_waiting("a", "flight") {
        trips.ground.pause().await;
    }
    let mut trips = trips;
    trips.crash(0);
    let journal = es_core::store::Table::<Value>::new("txn.journal.trip").unwrap();
    let before =
        trips.ground.overwrite(&journal, &handle.run().simple().to_string(), &json!({"odd": 1})).await;
    trips.join().await;
    trips.outside.let_go();
    assert_eq!(trips.run("b", trip()).await, Outcome::Completed);
    trips.ground.overwrite(&journal, &handle.run().simple().to_string(), &before).await;
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    trips.end().await;
}

/// T13
pub(super) async fn a_panic_in_a_step_is_a_failure_of_it<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let input =
        trip().with("seat", &[Play::Panics]).with("flight", &[Play::Panics]).with("mail", &[Play::Panics]);
    assert_eq!(trips.run("a", input).await, Outcome::Completed);
    assert_eq!(trips.effects("a").await, ["mail", "order", "seat"]);
    let shown = trips.show("a").await;
    assert!(shown.journal.iter().any(|(_, what)| what.contains("seat panics")), "{:?}", shown.journal);
    trips.end().await;
}

/// T14
pub(super) async fn what_an_operator_asks_is_done_once_and_noted<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let handle = trips.begin("a", &trip().with("mail", &[Play::Fails])).await;
    trips.until("a", "parked", |shown| shown.status == RunStatus::Parked).await;
    // The pivot has run.
    trips.is_declined("a", Verb::Cancel).await;
    // Nothing is undone.
    trips.is_declined("a", Verb::Skip { step: "mail".to_owned() }).await;
    // No such step.
    trips.is_declined("a", Verb::Retry { step: Some("male".to_owned()) }).await;
    assert_eq!(trips.ask("a", Verb::Abandon).await, Ok(()));
    let outcome = trips.end_of(&handle).await;
    assert!(matches!(&outcome, Outcome::Abandoned { actor, .. } if actor == "ada"), "{outcome}");
    let shown = trips.show("a").await;
    assert!(shown.journal.iter().any(|(_, what)| what == "abandoned by ada: because"), "{:?}", shown.journal);
    let runs = trips.runs();
    let late = loop {
        match runs.ask("a", Verb::Cancel, "ada", "too late", Duration::from_secs(30)).await {
            Err(RunError::Store(_)) => {}
            answer => break answer,
        }
    };
    assert!(matches!(late, Err(RunError::Ended { .. })), "{late:?}");
    assert!(runs.ask("z", Verb::Cancel, "ada", "x", Duration::ZERO).await.is_err(), "there is none");
    trips.end().await;
}

/// What is written in a way in which it cannot be read.
#[derive(Serialize, Deserialize)]
struct Odd {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    list: Vec<u8>,
}

struct LeavesOdd<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Step<Trip> for LeavesOdd<T> {
    const NAME: &'static str = "odd";
    type Needs = ();
    type Output = Odd;
    type Refusal = Infallible;
    type Place = Journal<T>;
    async fn run(&self, _: Cx<'_, Trip, ()>, _: &mut T) -> Result<Odd, StepError<Infallible>> {
        Ok(Odd { list: Vec::new() })
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

/// T25
pub(super) async fn a_local_step_whose_output_cannot_be_read_has_failed<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let odd = |_: &_| Saga::new("trip", 1).pivot(LeavesOdd(PhantomData)).build();
    trips.join_with(odd, |app| app).await;
    let outcome = trips.run("a", trip()).await;
    let Outcome::Undone(Why::Failed { step, error }) = &outcome else { panic!("{outcome}") };
    assert_eq!(step, "odd");
    assert!(error.contains("cannot be read"), "{error}");
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}
