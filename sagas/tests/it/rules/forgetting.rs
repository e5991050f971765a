//! Runs that ended long ago are forgotten: T81 to T87, T93 to T98.

use std::time::Duration;

use es_core::clock::Clock as _;
use es_core::store::{Commit, CommitError, EventStore as _, Row, RowWrite, Table};
use es_core::testing::TestClock;
use es_core::testing::conformance::double::{Double, Line};
use sagas::saga::{Outcome, RunError, RunStatus, SagaApp as _, Sagas as _, Verb};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Subject;
use super::family::{Ride, around, behind, is_parked, start, until, within};
use super::trip::{Play, Trips, definition, trip};

const DAY: u64 = 24 * 60 * 60;
/// Longer than runs are remembered.
const LONG: u64 = 32 * DAY;
const TABLES: [&str; 4] = ["starts", "heads", "journal", "ended"];

fn table(of: &str, saga: &str) -> Table<Value> {
    Table::new(format!("txn.{of}.{saga}")).unwrap()
}

async fn rows<S: Subject>(trips: &Trips<'_, S>, of: &str, saga: &str) -> Vec<Row<Value>> {
    let table = table(of, saga);
    trips.ground.ask(|| table.all(&trips.ground.backend)).await
}

/// How many rows there are of a saga, by table.
async fn stored<S: Subject>(trips: &Trips<'_, S>, saga: &str) -> [usize; 4] {
    let mut n = [0; 4];
    for (n, of) in n.iter_mut().zip(TABLES) {
        *n = rows(trips, of, saga).await.len();
    }
    n
}

/// The keys of the runs that are stored.
async fn kept<S: Subject>(trips: &Trips<'_, S>) -> Vec<String> {
    kept_of(trips, "trip").await
}

async fn kept_of<S: Subject>(trips: &Trips<'_, S>, saga: &str) -> Vec<String> {
    let mut keys: Vec<String> = rows(trips, "heads", saga)
        .await
        .iter()
        .map(|row| row.value["key"].as_str().unwrap_or_default().to_owned())
        .collect();
    keys.sort();
    keys
}

async fn until_kept<S: Subject>(trips: &Trips<'_, S>, keys: &[&str]) {
    until_kept_of(trips, "trip", keys).await;
}

async fn until_rides<S: Subject>(trips: &Trips<'_, S>, keys: &[&str]) {
    until_kept_of(trips, "ride", keys).await;
}

async fn until_kept_of<S: Subject>(trips: &Trips<'_, S>, saga: &str, keys: &[&str]) {
    let begun = Instant::now();
    loop {
        let kept = kept_of(trips, saga).await;
        if kept == keys {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{kept:?}");
        trips.ground.pause().await;
    }
}

/// The clock goes on by so much.
async fn leap<S: Subject>(trips: &Trips<'_, S>, seconds: u64) {
    trips.ground.seconds(seconds);
    settle(trips).await;
}

/// Until no node believes in an older time.
async fn settle<S: Subject>(trips: &Trips<'_, S>) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        trips.ground.pause().await;
    }
}

async fn write<S: Subject>(trips: &Trips<'_, S>, rows: Vec<RowWrite>) {
    trips.ground.commit(Commit { rows, ..Commit::default() }).await;
}

/// T81
pub(super) async fn what_ended_long_ago_is_forgotten_and_its_key_starts_anew<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    // Two nodes, each with a part of the runs.
    trips.join().await;
    let undone = trip().with("pay", &[Play::Refuses]);
    let handle = trips.begin("a", &undone).await;
    assert!(matches!(trips.end_of(&handle).await, Outcome::Undone(_)));
    // Not of the node that was told how it ended.
    let known = trips.begin("a", &undone).await;
    assert!(known.was_started_before());
    for key in ["b", "c", "d"] {
        assert_eq!(trips.run(key, trip()).await, Outcome::Completed);
    }
    let live = trips.begin("live", &trip().with("mail", &[Play::Fails])).await;
    trips.until("live", "parked", |shown| shown.status == RunStatus::Parked).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &["live"]).await;
    let [starts, heads, journal, ended] = stored(&trips, "trip").await;
    assert_eq!((starts, heads, ended), (1, 1, 0));
    let records = trips.show("live").await.journal.len();
    assert_eq!(journal, records);
    // Whoever knew it hears of that.
    let waited = known.outcome().await;
    let Err(gone @ RunError::Gone { .. }) = waited else { panic!("{waited:?}") };
    assert!(gone.to_string().contains("has ended and was forgotten since"), "{gone}");
    let runs = trips.runs();
    let asked = loop {
        match runs.ask("a", Verb::Cancel, "ada", "because", Duration::from_secs(30)).await {
            Err(RunError::Store(_)) => trips.ground.pause().await,
            answer => break answer,
        }
    };
    let Err(unknown @ RunError::Unknown { .. }) = asked else { panic!("{asked:?}") };
    assert!(unknown.to_string().contains("has ended and was forgotten since"), "{unknown}");
    // Also with another input, and its steps act again.
    let again = trips.begin("a", &trip()).await;
    assert!(!again.was_started_before() && again.run() != handle.run());
    trips.end_of(&again).await;
    assert_eq!(trips.ask("live", Verb::Abandon).await, Ok(()));
    trips.end_of(&live).await;
    trips.end().await;
}

/// T82
pub(super) async fn a_write_to_a_run_that_is_forgotten_is_refused_for_ever<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let handle = trips.begin("a", &trip().with("mail", &[Play::Fails])).await;
    trips.until("a", "parked", |shown| shown.status == RunStatus::Parked).await;
    // What somebody would write who has it in memory.
    let head = rows(&trips, "heads", "trip").await.remove(0);
    let wakes = Table::<Value>::new("hot.txn.wakes.trip.v1").unwrap();
    let wake = trips.ground.ask(|| wakes.all(&trips.ground.backend)).await.remove(0);
    assert_eq!(trips.ask("a", Verb::Abandon).await, Ok(()));
    trips.end_of(&handle).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &[]).await;
    // What wakes it in vain goes.
    write(&trips, vec![wakes.insert(wake.key, wake.value).unwrap()]).await;
    while !trips.left_over().await.is_empty() {
        trips.ground.pause().await;
    }
    let late = || {
        let record = json!({ "at": "2026-01-01T00:00:00Z", "record": { "taken": {} } });
        let next = format!("{}:{:020}", head.key, head.value["records"].as_u64().unwrap() + 1);
        let rows = vec![
            table("journal", "trip").insert(next, record).unwrap(),
            table("heads", "trip").put(&head).unwrap(),
        ];
        Commit { rows, ..Commit::default() }
    };
    for n in 0..3 {
        let refused = loop {
            match trips.ground.backend.commit(late()).await {
                Err(error) if error.kind() == es_core::ErrorKind::Conflict => break error,
                Err(error) => assert_ne!(error.kind(), es_core::ErrorKind::Misuse, "{error}"),
                Ok(_) => panic!("it was written"),
            }
        };
        assert!(matches!(refused, CommitError::Fenced { actual: 0, .. }), "{refused:?}");
        // Nor once the key stands for another one.
        if n == 0 {
            trips.run("a", trip()).await;
        }
    }
    assert_eq!(stored(&trips, "trip").await[1], 1);
    trips.end().await;
}

/// T83
pub(super) async fn a_long_run_is_forgotten_in_portions_whoever_is_lost_in_between<S: Subject>(subject: &S) {
    const RECORDS: u64 = 2_600;
    let mut trips = Trips::start(subject).await;
    let handle = trips.begin("a", &trip()).await;
    trips.end_of(&handle).await;
    // As if more had happened to it.
    let mut head = rows(&trips, "heads", "trip").await.remove(0);
    let own = head.value["records"].as_u64().unwrap();
    let all: Vec<u64> = (own + 1..=RECORDS).collect();
    for some in all.chunks(500) {
        let record = json!({ "at": "2026-01-01T00:00:00Z", "record": { "taken": {} } });
        let row = |n: &u64| {
            table("journal", "trip").insert(format!("{}:{n:020}", head.key), record.clone()).unwrap()
        };
        write(&trips, some.iter().map(row).collect()).await;
    }
    head.value["records"] = json!(RECORDS);
    write(&trips, vec![table("heads", "trip").put(&head).unwrap()]).await;
    trips.ground.seconds(LONG);
    let begun = Instant::now();
    let mut crashes = 0;
    loop {
        let [_, heads, journal, ended] = stored(&trips, "trip").await;
        // As long as there is something of it, it is found by these rows; its key is free at once.
        if heads == 0 || ended == 0 {
            assert_eq!(stored(&trips, "trip").await, [0; 4]);
            break;
        }
        if journal < usize::try_from(RECORDS).unwrap() {
            assert_eq!(rows(&trips, "starts", "trip").await, []);
        }
        if crashes < 2 && journal < usize::try_from(RECORDS).unwrap() - 500 * crashes {
            trips.crash(0);
            crashes += 1;
            trips.join().await;
            trips.ground.seconds(2);
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{journal} are left");
        trips.ground.pause().await;
    }
    assert!(crashes > 0, "it went in one portion");
    assert!(!trips.begin("a", &trip()).await.was_started_before());
    trips.end().await;
}

/// T84
pub(super) async fn one_of_a_family_is_kept_while_another_goes_on<S: Subject>(subject: &S) {
    // A child that has ended, and whose parent goes on.
    let trips = start(subject, behind, within).await;
    let handle = trips.begin("a", &trip().with("note 9", &[Play::Waits])).await;
    while !trips.outside.is_waiting("a", "note 9") {
        trips.ground.pause().await;
    }
    let ride = until(&trips, "a", "ended", |ride| ride.outcome.is_some()).await;
    // What ended on a later day goes last.
    leap(&trips, 2 * DAY).await;
    assert_eq!(trips.run("later", trip()).await, Outcome::Completed);
    until(&trips, "later", "ended", |ride| ride.outcome.is_some()).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &["a"]).await;
    until_rides(&trips, &[&ride.key]).await;
    trips.outside.let_go();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    leap(&trips, LONG).await;
    until_kept(&trips, &[]).await;
    until_rides(&trips, &[]).await;
    trips.end().await;

    // A parent that was abandoned, and whose child waits for a person.
    let trips = start(subject, around, within).await;
    let handle = trips.begin("b", &trip().with("pay", &[Play::Waits])).await;
    while !trips.outside.is_waiting("b", "pay") {
        trips.ground.pause().await;
    }
    assert_eq!(trips.ask("b", Verb::Abandon).await, Ok(()));
    trips.outside.release();
    trips.end_of(&handle).await;
    let ride = until(&trips, "b", "parked", is_parked).await;
    leap(&trips, 2 * DAY).await;
    assert_eq!(trips.run("later", trip()).await, Outcome::Completed);
    until(&trips, "later", "ended", |ride| ride.outcome.is_some()).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &["b"]).await;
    let rides = trips.nodes[0].saga_runs::<Ride>().unwrap();
    let ask =
        async || match rides.ask(&ride.key, Verb::GoForward, "ada", "because", Duration::from_secs(30)).await
        {
            Err(RunError::Ended { .. }) | Ok(Err(_)) => Ok(()),
            answer => answer.map(drop),
        };
    trips.ground.ask(ask).await;
    until(&trips, "b", "ended", |ride| ride.outcome.is_some()).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &[]).await;
    until_rides(&trips, &[]).await;
    trips.end().await;
}

/// T85
pub(super) async fn what_cannot_be_read_is_not_forgotten_and_holds_up_no_other<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    for key in ["a", "b", "c", "d", "noted"] {
        trips.run(key, trip()).await;
    }
    leap(&trips, 2 * DAY).await;
    trips.run("later", trip()).await;
    let of = async |table: &str, key: &str| {
        let runs = rows(&trips, "heads", "trip").await;
        let head = runs.into_iter().find(|row| row.value["key"] == *key).unwrap();
        let run = head.key.split_once(':').unwrap().1.to_owned();
        let all = rows(&trips, table, "trip").await;
        (all.into_iter().find(|row| row.key.contains(&run)).unwrap(), head)
    };
    // One whose end cannot be read, one whose head cannot be, one that a newer program wrote, one that people were told of.
    let (mut ended, _) = of("ended", "a").await;
    ended.value = json!({ "odd": true });
    let (_, mut head) = of("heads", "b").await;
    let mut newer = of("heads", "c").await.1;
    (head.value["status"], newer.value["format"]) = (json!("odd"), json!(99));
    let noted = of("heads", "noted").await.1.key;
    let note = json!({ "key": "noted", "version": 1, "since": "2026-01-01T00:00:00Z", "why": "odd", "damaged": true });
    write(
        &trips,
        vec![
            table("ended", "trip").put(&ended).unwrap(),
            table("heads", "trip").put(&head).unwrap(),
            table("heads", "trip").put(&newer).unwrap(),
            table("attention", "trip").insert(noted.clone(), note).unwrap(),
        ],
    )
    .await;
    leap(&trips, LONG).await;
    until_kept(&trips, &["a", "b", "c", "noted"]).await;
    // Repaired, they go.
    ended = rows(&trips, "ended", "trip").await.into_iter().find(|row| row.value["odd"] == true).unwrap();
    let good = rows(&trips, "ended", "trip").await.into_iter().find(|row| row.value["key"] == "b").unwrap();
    ended.value = good.value;
    ended.value["key"] = json!("a");
    write(
        &trips,
        vec![table("ended", "trip").put(&ended).unwrap(), table("attention", "trip").delete_at(noted, 1)],
    )
    .await;
    leap(&trips, DAY).await;
    until_kept(&trips, &["b", "c"]).await;
    trips.end().await;
}

/// T86
pub(super) async fn runs_of_a_version_that_no_node_has_are_forgotten_by_the_newest<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    trips.run("old", trip()).await;
    let live = trips.begin("live", &trip().with("mail", &[Play::Fails])).await;
    trips.until("live", "parked", |shown| shown.status == RunStatus::Parked).await;
    trips.stop().await;
    trips.join_as(&[2]).await;
    trips.run("new", trip()).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &["live"]).await;
    // Its own node has gone, and so it waits: nobody takes it for one that has ended.
    assert_eq!(trips.show("live").await.version, 1);
    trips.join_as(&[2, 1]).await;
    assert_eq!(trips.ask("live", Verb::Abandon).await, Ok(()));
    trips.end_of(&live).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &[]).await;
    trips.end().await;
}

/// T87
pub(super) async fn a_clock_that_is_off_forgets_late_and_never_early<S: Subject>(subject: &S) {
    const OFF: Duration = Duration::from_secs(600);
    let trips = Trips::start(subject).await;
    trips.run("before", trip()).await;
    // The next one ends right before the end of a day, by a clock that is ten minutes behind.
    let midnight = |n: i64| -> es_core::Timestamp {
        let now = trips.ground.clock.now().as_second();
        let day = i64::try_from(DAY).unwrap();
        es_core::Timestamp::from_second((now / day + n) * day).unwrap()
    };
    let real_end = midnight(2) - Duration::from_secs(5);
    trips.ground.clock.set(real_end - OFF);
    settle(&trips).await;
    trips.run("a", trip()).await;
    let remembered = Duration::from_secs(30 * DAY);
    // It is remembered for a minute more; by a clock that is ten minutes ahead.
    trips.ground.clock.set(real_end + remembered - Duration::from_secs(60) + OFF);
    until_kept(&trips, &["a"]).await;
    // All of a round.
    settle(&trips).await;
    assert_eq!(trips.show("a").await.outcome, Some(Outcome::Completed));
    // The clock goes back by a year, and comes again.
    trips.ground.clock.set(real_end - Duration::from_secs(365 * DAY));
    settle(&trips).await;
    assert_eq!(kept(&trips).await, ["a"]);
    trips.ground.clock.set(real_end + remembered + Duration::from_secs(2 * DAY));
    until_kept(&trips, &[]).await;
    trips.end().await;
}

/// The store over a line of its own, and a node behind it.
async fn join_over<S: Subject>(trips: &mut Trips<'_, S>) -> Double<S::Backend> {
    let (ground, outside) = (&trips.ground, trips.outside.clone());
    let line = Double::new(ground.subject.again(&ground.backend, &ground.clock).await);
    let app = ground.join_over(&line, |app| app.saga(definition(&outside, 1))).await;
    trips.nodes.push(app);
    line
}

/// T93
pub(super) async fn a_start_that_meets_the_end_of_what_is_remembered_begins_anew<S: Subject>(subject: &S) {
    let mut trips = Trips::start(subject).await;
    let first = trips.begin("a", &trip()).await;
    trips.end_of(&first).await;
    let line = join_over(&mut trips).await;
    // It has read what its key stands for, and not yet what that has begun with.
    line.set(Line::HoldsLookups("txn.journal.trip"));
    let mut other = trip();
    other.note = Some("more".to_owned());
    let start = async {
        loop {
            match trips.nodes[1].start_saga("a", &other).await {
                Ok(handle) => break handle,
                Err(RunError::Store(_)) => trips.ground.pause().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let forget = async {
        while line.held() == 0 {
            trips.ground.pause().await;
        }
        leap(&trips, LONG).await;
        until_kept(&trips, &[]).await;
        line.set(Line::Up);
    };
    let (handle, ()) = tokio::join!(start, forget);
    assert!(!handle.was_started_before() && handle.run() != first.run());
    trips.end_of(&handle).await;
    trips.end().await;
}

/// T94
pub(super) async fn a_run_that_cannot_be_forgotten_holds_up_no_other<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let line = join_over(&mut trips).await;
    for key in ["a", "b", "bad", "c", "d"] {
        trips.run(key, trip()).await;
    }
    let bad = rows(&trips, "ended", "trip").await.into_iter().find(|row| row.value["key"] == "bad").unwrap();
    leap(&trips, 2 * DAY).await;
    trips.run("later", trip()).await;
    line.set(Line::RefusesRow("txn.ended.trip", bad.key.leak()));
    leap(&trips, LONG).await;
    until_kept(&trips, &["bad"]).await;
    line.set(Line::Up);
    leap(&trips, DAY).await;
    until_kept(&trips, &[]).await;
    assert_eq!(stored(&trips, "trip").await, [0; 4]);
    trips.end().await;
}

/// T95
pub(super) async fn what_is_forgotten_is_read_about_once<S: Subject>(subject: &S) {
    const RECORDS: u64 = 40;
    let mut trips = Trips::open(subject).await;
    let line = join_over(&mut trips).await;
    for n in 0..24 {
        trips.run(&n.to_string(), trip()).await;
    }
    // As if more had happened to each: half a megabyte, nearly.
    let failed = json!({ "step": "flight", "undo": false, "error": "x".repeat(10_000) });
    let record = json!({ "at": "2026-01-01T00:00:00Z", "record": { "failed": failed } });
    for mut head in rows(&trips, "heads", "trip").await {
        let own = head.value["records"].as_u64().unwrap();
        let row = |n: u64| table("journal", "trip").insert(format!("{}:{n:020}", head.key), record.clone());
        let mut more: Vec<RowWrite> = (own + 1..=RECORDS).map(|n| row(n).unwrap()).collect();
        head.value["records"] = json!(RECORDS);
        more.push(table("heads", "trip").put(&head).unwrap());
        write(&trips, more).await;
    }
    let journal = stored(&trips, "trip").await[2];
    let read = || line.scanned_of("txn.journal.trip").0;
    let before = read();
    trips.ground.seconds(LONG);
    until_kept(&trips, &[]).await;
    let read = read() - before;
    assert!(read <= 3 * journal, "{read} rows were read to delete {journal}");
    trips.end().await;
}

/// T96
pub(super) async fn of_the_clocks_of_store_and_app_the_one_that_is_behind_forgets<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let (begun, app) = (trips.ground.clock.now(), TestClock::at(trips.ground.clock.now()));
    let after = |days: u64| begun + Duration::from_secs(days * DAY + 60 * 60);
    let outside = trips.outside.clone();
    let store = trips.ground.subject.again(&trips.ground.backend, &trips.ground.clock).await;
    let node = trips.ground.join_by(&app, &store, |app| app.saga(definition(&outside, 1))).await;
    trips.nodes.push(node);
    for (key, day) in [("early", 0), ("mid", 2), ("late", 10)] {
        trips.ground.clock.set(after(day));
        app.set(after(day));
        settle(&trips).await;
        trips.run(key, trip()).await;
    }
    // The store is wrong, by months, and then it is right.
    trips.ground.clock.set(after(100));
    settle(&trips).await;
    app.set(after(31));
    until_kept(&trips, &["late", "mid"]).await;
    settle(&trips).await;
    assert_eq!(kept(&trips).await, ["late", "mid"]);
    trips.ground.clock.set(after(33));
    settle(&trips).await;
    // So is the machine of the node.
    app.set(after(100));
    until_kept(&trips, &["late"]).await;
    settle(&trips).await;
    assert_eq!(kept(&trips).await, ["late"]);
    trips.ground.clock.set(after(50));
    until_kept(&trips, &[]).await;
    trips.end().await;
}

/// T97
pub(super) async fn before_each_portion_it_is_judged_anew_what_may_be_forgotten<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let line = join_over(&mut trips).await;
    trips.run("first", trip()).await;
    leap(&trips, 2 * DAY).await;
    trips.run("second", trip()).await;
    let begun = trips.ground.clock.now();
    // A clock is wrong, until the first portion is on its way.
    line.set(Line::HoldsCommits("txn.ended.trip"));
    let held = line.held();
    trips.ground.seconds(2 * LONG);
    while line.held() == held {
        trips.ground.pause().await;
    }
    trips.ground.clock.set(begun);
    line.set(Line::Up);
    until_kept(&trips, &["second"]).await;
    settle(&trips).await;
    assert_eq!(kept(&trips).await, ["second"]);
    leap(&trips, LONG).await;
    until_kept(&trips, &[]).await;
    trips.end().await;
}

/// T98
pub(super) async fn runs_of_a_later_version_are_left_to_whoever_has_it<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    trips.join_as(&[2]).await;
    trips.run("later", trip()).await;
    trips.stop().await;
    trips.join().await;
    trips.run("own", trip()).await;
    leap(&trips, LONG).await;
    until_kept(&trips, &["later"]).await;
    settle(&trips).await;
    assert_eq!(kept(&trips).await, ["later"]);
    trips.join_as(&[2]).await;
    leap(&trips, DAY).await;
    until_kept(&trips, &[]).await;
    trips.end().await;
}
