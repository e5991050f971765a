//! What operators see of runs, and have done to many of them: T15 to T21.

use std::time::Duration;

use es_core::store::Table;
use sagas::saga::{
    Frozen, HowUndone, IfItFailed, Outcome, RunError, RunFilter, RunListed, RunStatus, Verb, Waiting, Why,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Subject;
use super::trip::{DEADLINE, Play, Trips, trip};

/// All that a filter wants, in small pages.
async fn listed<S: Subject>(trips: &Trips<'_, S>, filter: &RunFilter) -> Vec<RunListed> {
    let (runs, mut all, mut after) = (trips.runs(), Vec::new(), None);
    loop {
        let page = trips.ground.ask(async || runs.list(filter, after.as_ref(), 2).await).await;
        assert!(page.runs.len() <= 2);
        all.extend(page.runs);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

async fn keys<S: Subject>(trips: &Trips<'_, S>, filter: &RunFilter) -> Vec<String> {
    let mut keys: Vec<String> = listed(trips, filter).await.into_iter().map(|run| run.key).collect();
    keys.sort();
    keys
}

async fn waiting<S: Subject>(trips: &Trips<'_, S>) -> Vec<Waiting> {
    let runs = trips.runs();
    let found = trips.ground.ask(async || runs.waiting(None, 100).await).await;
    found.into_iter().map(|(_, waiting)| waiting).collect()
}

async fn until_parked<S: Subject>(trips: &Trips<'_, S>, key: &str) {
    trips.until(key, "parked", |shown| shown.status == RunStatus::Parked).await;
}

async fn until_called<S: Subject>(trips: &Trips<'_, S>, key: &str, step: &str) {
    while !trips.outside.is_waiting(key, step) {
        trips.ground.pause().await;
    }
}

/// T15
pub(super) async fn runs_are_listed_by_what_they_do_and_fail_with<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let no_mail = ["m1", "m2", "m3"];
    for key in no_mail {
        trips.begin(key, &trip().with("mail", &[Play::Fails])).await;
    }
    let stuck = trip().with("pay", &[Play::Refuses]).with("undo seat", &[Play::Fails]);
    trips.begin("stuck", &stuck).await;
    assert_eq!(trips.run("done", trip()).await, Outcome::Completed);
    trips.run("gone", trip().with("pay", &[Play::Refuses])).await;
    for key in ["m1", "m2", "m3", "stuck"] {
        until_parked(&trips, key).await;
    }
    let all = RunFilter::all();
    let parked = all.clone().with_status(RunStatus::Parked);
    assert_eq!(keys(&trips, &parked).await, ["m1", "m2", "m3", "stuck"]);
    assert_eq!(keys(&trips, &all.clone().failing_with("mail: no mail")).await, no_mail);
    assert_eq!(keys(&trips, &parked.clone().failing_with("seat: not undone")).await, ["stuck"]);
    let ended = listed(&trips, &all.clone().with_status(RunStatus::Ended)).await;
    let gone = ended.iter().find(|run| run.key == "gone").expect("it has ended");
    assert_eq!(gone.error.as_deref(), Some("pay: pay is sold out"));
    assert!(ended.len() == 2 && ended.iter().all(|run| run.ended >= run.begun && run.outcome.is_some()));
    // Those that are a while old, and not the one that comes later.
    trips.ground.seconds(100);
    trips.begin("waits", &trip().with("flight", &[Play::Waits])).await;
    until_called(&trips, "waits", "flight").await;
    let young = trips.show("waits").await.begun;
    assert_eq!(keys(&trips, &all.clone().begun_since(young)).await, ["waits"]);
    let live = all.clone().with_status(RunStatus::Running).with_status(RunStatus::Undoing);
    assert_eq!(keys(&trips, &live).await, ["waits"]);
    assert_eq!(keys(&trips, &live.begun_before(young)).await, [""; 0]);
    assert_eq!(keys(&trips, &all).await, ["done", "gone", "m1", "m2", "m3", "stuck", "waits"]);
    let tomorrow = young + Duration::from_secs(2 * 24 * 60 * 60);
    let late = all.with_status(RunStatus::Ended).ended_since(tomorrow);
    assert_eq!(keys(&trips, &late).await, [""; 0]);
    trips.outside.let_go();
    trips.end().await;
}

/// T16
pub(super) async fn a_run_that_cannot_be_read_is_shown_to_people_until_it_is_repaired<S: Subject>(
    subject: &S,
) {
    let mut trips = Trips::start(subject).await;
    let handle = trips.begin("j", &trip().with("flight", &[Play::Waits])).await;
    until_called(&trips, "j", "flight").await;
    trips.crash(0);
    let (journal, run) =
        (Table::<Value>::new("txn.journal.trip").unwrap(), handle.run().simple().to_string());
    let before = trips.ground.overwrite(&journal, &run, &json!({"odd": 1})).await;
    trips.join().await;
    // What the node of before has called is answered.
    trips.outside.let_go();
    while waiting(&trips).await.is_empty() {
        for _ in 0..40 {
            trips.ground.pause().await;
        }
    }
    let all = waiting(&trips).await;
    assert!(all.iter().all(|run| run.damaged && run.why.contains("cannot be read")), "{all:?}");
    let damaged = RunFilter::all().with_status(RunStatus::Damaged);
    assert_eq!(keys(&trips, &damaged).await, ["j"]);
    assert_eq!(keys(&trips, &RunFilter::all()).await, ["j"]);
    let shown = trips.show("j").await;
    assert_eq!(shown.status, RunStatus::Damaged);
    assert!(shown.waits_for.contains("repair"), "{}", shown.waits_for);
    trips.ground.overwrite(&journal, &run, &before).await;
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(waiting(&trips).await, []);
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T17
pub(super) async fn what_would_come_of_a_failure_or_a_request_is_told_and_not_done<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let handle = trips.begin("a", &trip().with("flight", &[Play::Waits])).await;
    until_called(&trips, "a", "flight").await;
    let has_run = |step: &sagas::saga::StepShown| step.state == "done";
    trips
        .until("a", "the others run", |shown| shown.steps.iter().filter(|step| has_run(step)).count() == 4)
        .await;
    let runs = trips.runs();
    let foreseen = trips.ground.ask(async || runs.if_it_failed("a").await).await;
    let Ok(IfItFailed::Undone(rounds)) = foreseen else { panic!("{foreseen:?}") };
    let rounds: Vec<Vec<(&str, HowUndone)>> =
        rounds.iter().map(|round| round.iter().map(|would| (&*would.step, would.how)).collect()).collect();
    let undone = |step| (step, HowUndone::Undone);
    let together = vec![undone("seat"), ("flight", HowUndone::Settled), undone("hotel"), undone("car")];
    assert_eq!(rounds, [together, vec![undone("flight")], vec![undone("order")]]);
    let dry = async |key: &str, verb: Verb| {
        trips.ground.ask(async || runs.dry_run(key, verb.clone(), "ada", "because").await).await
    };
    let cancelled = dry("a", Verb::Cancel).await.expect("it can be");
    assert_eq!(cancelled.records, ["cancelled by ada: because", "to be undone: cancelled by ada: because"]);
    let skipped = dry("a", Verb::Skip { step: "mail".to_owned() }).await;
    assert!(skipped.is_err(), "{skipped:?}");
    let resolved =
        dry("a", Verb::Resolve { step: "flight".to_owned(), output: sagas::Data::of(&7).unwrap() }).await;
    assert!(resolved.is_err_and(|why| why.contains("is being called")));
    // The pivot may run.
    let paid = trips.begin("b", &trip().with("pay", &[Play::Waits])).await;
    until_called(&trips, "b", "pay").await;
    let foreseen = trips.ground.ask(async || runs.if_it_failed("b").await).await;
    assert!(matches!(foreseen, Ok(IfItFailed::Forward(_))), "{foreseen:?}");
    assert!(dry("b", Verb::Cancel).await.is_err());
    trips.outside.let_go();
    for handle in [&handle, &paid] {
        assert_eq!(trips.end_of(handle).await, Outcome::Completed);
        assert!(dry(handle.key(), Verb::Abandon).await.is_err());
        let journal = trips.show(handle.key()).await.journal;
        assert!(journal.iter().all(|(_, what)| !what.contains("ada")), "{journal:?}");
    }
    trips.end().await;
}

/// T18
pub(super) async fn many_runs_are_asked_at_once_and_no_other<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let no_mail = trip().with("mail", &[Play::Fails]);
    let mut handles = Vec::new();
    for key in ["a", "b", "c", "d", "e"] {
        handles.push(trips.begin(key, &no_mail).await);
        until_parked(&trips, key).await;
    }
    trips.run("gone", trip().with("pay", &[Play::Refuses])).await;
    let (runs, filter) = (trips.runs(), RunFilter::all().failing_with("mail: no mail"));
    let frozen = trips.ground.ask(async || runs.freeze(&filter, 5).await).await;
    assert_eq!((frozen.runs.len(), frozen.more), (5, false));
    let few = trips.ground.ask(async || runs.freeze(&filter, 2).await).await;
    assert_eq!((few.runs.len(), few.more), (2, true));
    trips.begin("later", &no_mail).await;
    until_parked(&trips, "later").await;
    let dry = trips
        .ground
        .ask(async || {
            let all = runs.dry_run_each(&frozen, Verb::Retry { step: None }, "ada", "mail is back").await?;
            all.into_iter().map(|one| one.answer).collect::<Result<Vec<_>, _>>()
        })
        .await;
    assert!(
        dry.iter().all(|one| one.as_ref().is_ok_and(|dry| dry.records == ["retried by ada: mail is back"]))
    );
    trips.outside.mend();
    let limit = Duration::from_secs(30);
    loop {
        let retry = Verb::Retry { step: None };
        let all = runs.ask_each(&frozen, retry, "ada", "mail is back", limit).await.unwrap();
        assert_eq!(
            all.iter().map(|one| one.run).collect::<Vec<_>>(),
            frozen.runs.iter().map(|(run, _)| *run).collect::<Vec<_>>()
        );
        if all.iter().all(|one| !matches!(one.answer, Err(RunError::Store(_)))) {
            let fits = |one: &sagas::saga::Answered<()>| {
                matches!(one.answer, Ok(Ok(())) | Err(RunError::Ended { .. }))
            };
            assert!(all.iter().all(fits), "{all:?}");
            break;
        }
        trips.ground.pause().await;
    }
    for handle in &handles {
        assert_eq!(trips.end_of(handle).await, Outcome::Completed);
        let journal = trips.show(handle.key()).await.journal;
        assert!(journal.iter().any(|(_, what)| what == "retried by ada: mail is back"), "{journal:?}");
    }
    assert_eq!(trips.show("later").await.status, RunStatus::Parked);
    // What has ended is neither meant nor asked anything.
    let sold_out = RunFilter::all().failing_with("pay: pay is sold out");
    assert_eq!(trips.ground.ask(async || runs.freeze(&sold_out, 5).await).await.runs.len(), 0);
    let ended = sold_out.with_status(RunStatus::Ended);
    let ended = trips.ground.ask(async || runs.freeze(&ended, 5).await).await;
    assert_eq!(ended.runs.len(), 1);
    let asked = trips
        .ground
        .ask(async || match runs.ask("gone", Verb::Cancel, "ada", "because", limit).await {
            Err(RunError::Store(error)) => Err(error),
            asked => Ok(asked),
        })
        .await;
    assert!(matches!(asked, Err(RunError::Ended { .. })), "{asked:?}");
    // A key of another run than the one that was meant.
    let mut other = Frozen::default();
    other.runs.push((Uuid::nil(), "later".to_owned()));
    let all = trips
        .ground
        .ask(async || {
            let mut all = runs.ask_each(&other, Verb::Abandon, "ada", "because", limit).await?;
            match all.pop().expect("one").answer {
                Err(RunError::Store(error)) => Err(RunError::Store(error)),
                answer => Ok(answer),
            }
        })
        .await;
    assert!(matches!(all, Err(RunError::Unknown { .. })), "{all:?}");
    trips.end().await;
}

/// T19
pub(super) async fn who_wakes_a_run_is_said<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    assert_eq!(trips.run("done", trip()).await, Outcome::Completed);
    assert_eq!(trips.show("done").await.waits_for, "nothing: completed");
    trips.begin("parked", &trip().with("mail", &[Play::Fails])).await;
    until_parked(&trips, "parked").await;
    let parked = trips.show("parked").await.waits_for;
    assert!(parked.starts_with("a person, who retries") && parked.contains("mail: no mail"), "{parked}");
    trips.begin("called", &trip().with("flight", &[Play::Waits])).await;
    until_called(&trips, "called", "flight").await;
    let only = |waits_for: &str| waits_for == "the answer of flight";
    trips.until("called", "the others run", |shown| only(&shown.waits_for)).await;
    // The only node of its version goes.
    trips.crash(0);
    trips.join_as(&[2]).await;
    let who = "a node that has version 1 of its definition; no such node is running";
    trips.until("called", "nobody is there", |shown| shown.waits_for == who).await;
    trips.outside.let_go();
    trips.end().await;
}

/// T20
pub(super) async fn what_a_person_sends_forward_is_undone_by_a_person_only<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let waits = || trip().with("flight", &[Play::Waits]);
    let says_no = || waits().with("pay", &[Play::Refuses]);
    let mut handles = Vec::new();
    for (key, input) in [("late", waits()), ("paid", says_no()), ("undone", says_no()), ("left", waits())] {
        handles.push(trips.begin(key, &input).await);
        until_called(&trips, key, "flight").await;
        if key != "left" {
            assert_eq!(trips.ask(key, Verb::GoForward).await, Ok(()));
        }
    }
    trips.is_declined("late", Verb::GoForward).await;
    trips.ground.seconds(DEADLINE.as_secs() + 1);
    trips.until("left", "to be undone", |shown| shown.status == RunStatus::Undoing).await;
    trips.outside.release();
    assert_eq!(trips.end_of(&handles[3]).await, Outcome::Undone(Why::Deadline));
    assert_eq!(trips.end_of(&handles[0]).await, Outcome::Completed);
    for key in ["paid", "undone"] {
        until_parked(&trips, key).await;
        trips.is_declined(key, Verb::Skip { step: "pay".to_owned() }).await;
    }
    assert_eq!(trips.ask("undone", Verb::Cancel).await, Ok(()));
    let outcome = trips.end_of(&handles[2]).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Cancelled { actor, .. }) if actor == "ada"), "{outcome}");
    trips.outside.mend();
    assert_eq!(trips.ask("paid", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(trips.end_of(&handles[1]).await, Outcome::Completed);
    trips.end().await;
}

/// T21
pub(super) async fn a_node_says_whether_it_works_on_its_runs<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    trips.join().await;
    // All slices are worked on, by two nodes, and each sees what is due.
    loop {
        let mut slices = Vec::new();
        for node in &trips.nodes {
            let health = node.health().await;
            let [engine] = &health.engines[..] else { panic!("{:?}", health.engines) };
            assert_eq!(engine.group, "txn.trip.v1");
            slices.push(engine.slices);
        }
        if slices == [512, 512] {
            break;
        }
        trips.ground.pause().await;
    }
    for node in &trips.nodes {
        loop {
            let health = node.health().await;
            let engine = &health.engines[0];
            if engine.failing.is_none() && health.ill_engine(engine, Duration::from_secs(60)).is_none() {
                break;
            }
            trips.ground.pause().await;
        }
    }
    trips.stop_one(0).await;
    while trips.nodes[0].health().await.engines[0].slices < 1_024 {
        trips.ground.pause().await;
    }
    // Its looks are a while ago.
    let health = trips.nodes[0].health().await;
    let mut engine = health.engines[0].clone();
    engine.looked = engine.looked.map(|looked| looked - Duration::from_secs(90));
    engine.failing = Some("no connection".to_owned());
    let ill = health.ill_engine(&engine, Duration::from_secs(60));
    assert!(ill.as_ref().is_some_and(|ill| ill.contains("no connection")), "{ill:?}");
    engine.slices = 0;
    assert_eq!(health.ill_engine(&engine, Duration::from_secs(60)), None);
    trips.end().await;
}

/// T90
pub(super) async fn what_waits_for_a_person_says_all_that_it_waits_for<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let fails = trip().with("pay", &[Play::Refuses]).with("undo flight", &[Play::Fails]);
    let handle = trips.begin("a", &fails.with("undo hotel", &[Play::Fails])).await;
    let runs = trips.runs();
    let why = async || {
        let all = trips.ground.ask(async || runs.waiting(None, 10).await).await;
        all.into_iter().map(|(_, waiting)| waiting.why).collect::<Vec<_>>().join("")
    };
    let shown = trips.until("a", "parked", |shown| shown.status == RunStatus::Parked).await;
    for said in [why().await, shown.waits_for] {
        assert!(said.contains("flight: ") && said.contains("; hotel: "), "{said}");
    }
    assert_eq!(trips.ask("a", Verb::Skip { step: "flight".to_owned() }).await, Ok(()));
    trips.until("a", "parked", |shown| shown.status == RunStatus::Parked).await;
    let left = why().await;
    assert!(!left.contains("flight: ") && left.starts_with("hotel: "), "{left}");
    assert_eq!(trips.ask("a", Verb::Skip { step: "hotel".to_owned() }).await, Ok(()));
    assert!(matches!(trips.end_of(&handle).await, Outcome::Undone(_)));
    trips.end().await;
}
