//! What proves an attempt without events, on a server: after its connection has died, in a batch, and for how long.

use es_core::ErrorKind;
use es_core::id::Ids;
use es_core::store::{AppendCondition, Check, EventFilter};
use es_core::store::{
    Attempt, Backend as _, Builds as _, Commit, CommitError, Committed, EventStore as _, ExpectedVersion,
    Position, Resolution, Tables, Transaction as _, Version,
};
use es_postgres::PgBackend;
use es_postgres::testing::{Server, ServerOptions};
use sqlx::Executor as _;
use uuid::Uuid;

use crate::support::{
    Gate, WAITING, Wire, append, commit, connect, count, data, fresh, mark, new_id, refused, row, row_of,
    run, stream, until_count, with,
};

const WITNESSES: &str = "select count(*) from es.witnesses";
/// Sessions of this database that wait for a row of another.
const HELD: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query like '%append(%'";

fn quick_server() -> Server {
    ServerOptions::new().start().unwrap()
}

fn rows(one: es_core::store::RowWrite) -> Commit {
    Commit { rows: vec![one], ..Commit::default() }
}

fn named(commit: Commit) -> Commit {
    Commit { attempt: new_id(), ..commit }
}

fn is_applied(resolution: &Resolution) -> bool {
    matches!(resolution, Resolution::Applied(_))
}

/// The server has committed it, and its answer is lost: with and without a name, and the row has gone since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_events_whose_answer_is_lost_is_applied() {
    let server = tokio::task::spawn_blocking(quick_server).await.unwrap();
    let database = server.database().await.unwrap();
    let other = with(&database, |o| o).await;
    for (i, lost) in
        [rows(row("k", 1, Some("2"))), named(rows(row("k", 1, Some("2"))))].into_iter().enumerate()
    {
        other.commit(rows(row("k", 0, Some("1")))).await.unwrap();
        let wire = Wire::to(&server);
        let store = PgBackend::connect_with(wire.options(&server, &database)).await.unwrap();
        let mut held = connect(database.url()).await;
        held.execute("begin; select 1 from es.rows where tbl = 'v/1' and key = 'k' for update")
            .await
            .unwrap();
        let running = tokio::spawn({
            let (store, lost) = (store.clone(), lost.clone());
            async move { store.commit(lost).await }
        });
        until_count(database.url(), HELD, 1).await;
        wire.cut();
        let CommitError::Unknown(attempt) = refused(running.await.unwrap()) else { panic!("it is unknown") };
        if i == 1 {
            assert_eq!(*attempt, Attempt::of(lost.attempt, &lost));
        }
        held.execute("commit").await.unwrap();
        until_count(database.url(), HELD, 0).await;
        assert!(is_applied(&other.resolve(&attempt).await.unwrap()), "it waits for it, and finds it");
        assert_eq!(data(&other, "v/1", "k").await.as_deref(), Some("2"));
        other.commit(rows(row("k", 2, None))).await.unwrap();
        for store in [&other, &store] {
            assert!(is_applied(&store.resolve(&attempt).await.unwrap()));
        }
    }
}

/// A batch is one statement. What it holds can be asked for by name while it runs, and waits for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_ask_for_a_commit_of_a_running_batch_waits_for_the_batch() {
    let (database, store) = fresh().await;
    let other = with(&database, |o| o).await;
    let held = Gate::hold(database.url()).await;
    let check = |name: &str| Check { stream: stream(name), expected: ExpectedVersion::NoStream };
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("first")).await }
    });
    until_count(database.url(), WAITING, 1).await;
    let commits: Vec<Commit> = (0..20)
        .map(|i| {
            named(Commit {
                checks: vec![check(&format!("s{i}"))],
                ..rows(row(&format!("k{i}"), 0, Some("1")))
            })
        })
        .collect();
    let running: Vec<_> = commits
        .iter()
        .cloned()
        .map(|one| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(one).await })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    held.release().await;
    first.await.unwrap().unwrap();
    let held = Gate::hold(database.url()).await;
    let done = futures::future::join_all(running);
    let asked = commits.iter().map(|one| {
        let (other, attempt) = (other.clone(), Attempt::of(one.attempt, one));
        async move { other.resolve(&attempt).await.unwrap() }
    });
    let asking = futures::future::join_all(asked);
    let (done, asked, ()) = futures::join!(done, asking, held.release());
    for (done, asked) in done.into_iter().zip(asked) {
        match done.unwrap() {
            Ok(_) => assert!(is_applied(&asked)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
                assert_eq!(asked, Resolution::Never);
            }
        }
    }
    assert_eq!(
        count(database.url(), "select count(*) from es.rows").await,
        count(database.url(), WITNESSES).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_given_up_does_not_stop_its_batch() {
    let (database, store) = fresh().await;
    let late = named(rows(row("late", 0, Some("1"))));
    assert_eq!(store.resolve(&Attempt::of(late.attempt, &late)).await.unwrap(), Resolution::Never);
    let held = Gate::hold(database.url()).await;
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("first")).await }
    });
    until_count(database.url(), WAITING, 1).await;
    let all: Vec<Commit> = (0..9)
        .map(|i| Commit { rows: vec![row(&format!("k{i}"), 0, Some("1"))], ..commit(&format!("s{i}")) })
        .chain([Commit { appends: commit("late").appends, ..late.clone() }])
        .collect();
    let running: Vec<_> = all
        .into_iter()
        .map(|one| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(one).await })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    held.release().await;
    first.await.unwrap().unwrap();
    let mut outcomes = Vec::new();
    for one in running {
        outcomes.push(one.await.unwrap());
    }
    let error = refused(outcomes.pop().unwrap());
    assert!(error.to_string().contains("was given up"), "{error}");
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(data(&store, "v/1", "late").await, None);
}

#[tokio::test]
async fn only_what_writes_and_has_no_events_leaves_a_witness() {
    let (database, store) = fresh().await;
    store.commit(commit("s")).await.unwrap();
    store
        .commit(Commit { rows: vec![row("a", 0, Some("1"))], outcomes: vec![mark("k", "s")], ..commit("s") })
        .await
        .unwrap();
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = named(commit("s"));
    tx.commit().await.unwrap();
    // It has read, and written nothing.
    let mut tx = store.begin().await.unwrap();
    tx.execute("select 1").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(count(database.url(), WITNESSES).await, 0);
    run(database.url(), "create table mine (x integer)").await;
    let mut tx = store.begin().await.unwrap();
    tx.execute("insert into mine values (1)").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.execute("insert into mine values (2)").await.unwrap();
    *tx.staged() = named(append("s", ExpectedVersion::Exists, 0));
    tx.commit().await.unwrap();
    assert_eq!(count(database.url(), WITNESSES).await, 2, "rows of its user's own");
    store.commit(rows(row("b", 0, None))).await.unwrap();
    // Rows are written first, and the rest by a call within the call.
    store.commit(Commit { rows: vec![row("b", 0, None)], ..look_at("s") }).await.unwrap();
    store.commit(Commit { rows: vec![row("b", 0, Some("1"))], ..look_at("s") }).await.unwrap();
    assert_eq!(count(database.url(), WITNESSES).await, 5);
}

fn look_at(name: &str) -> Commit {
    let check = Check { stream: stream(name), expected: ExpectedVersion::Exists };
    Commit { checks: vec![check], ..append(name, ExpectedVersion::Exists, 0) }
}

/// No write, no id of a transaction, and no sync.
#[tokio::test]
async fn what_only_looks_is_no_transaction_that_writes() {
    let (database, store) = fresh().await;
    store.commit(commit("s")).await.unwrap();
    let next = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    // A server of its own, and whatever else it does now and then is waited for.
    for tries in 0.. {
        let before = count(database.url(), next).await;
        let condition = AppendCondition { fail_if_events_match: EventFilter::all(), after: Position(1) };
        let condition = Commit { condition: Some(condition), ..Commit::default() };
        for look in [look_at("s"), named(look_at("s")), condition, append("s", ExpectedVersion::Any, 0)] {
            store.commit(look.clone()).await.unwrap();
            let mut tx = store.begin().await.unwrap();
            *tx.staged() = look;
            tx.commit().await.unwrap();
        }
        if count(database.url(), next).await == before {
            break;
        }
        assert!(tries < 20, "each time something was written");
    }
    assert_eq!(count(database.url(), WITNESSES).await, 0);
}

/// A batch is settled by one that left something. One that only looks would say that nothing of it was applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_first_commit_only_looks_is_settled_by_another() {
    let server = tokio::task::spawn_blocking(quick_server).await.unwrap();
    let database = server.database().await.unwrap();
    let other = with(&database, |o| o).await;
    other.commit(commit("s")).await.unwrap();
    let wire = Wire::to(&server);
    let store = PgBackend::connect_with(wire.options(&server, &database)).await.unwrap();
    let held = Gate::hold(database.url()).await;
    let send = |one: Commit| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(one).await })
    };
    let first = send(commit("first"));
    until_count(database.url(), WAITING, 1).await;
    let looks = send(look_at("s"));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let writes = send(commit("t"));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let again = tokio::spawn({
        let url = database.url().to_owned();
        async move { Gate::hold(&url).await }
    });
    until_count(database.url(), WAITING, 2).await;
    held.release().await;
    first.await.unwrap().unwrap();
    let again = again.await.unwrap();
    until_count(database.url(), WAITING, 1).await;
    wire.cut();
    let CommitError::Unknown(looked) = refused(looks.await.unwrap()) else { panic!("it is unknown") };
    let CommitError::Unknown(attempt) = refused(writes.await.unwrap()) else { panic!("it is unknown") };
    assert_eq!(looked.id, attempt.id, "one batch");
    again.release().await;
    // The next commit settles the batch before it is sent.
    while store.commit(commit("u")).await.is_err() {}
    assert!(is_applied(&other.resolve(&attempt).await.unwrap()));
}

#[tokio::test]
async fn what_changes_generations_is_proven_by_its_name() {
    let (_database, store) = fresh().await;
    let tables = Tables { name: "p", version: 1, schema: "create table p (x integer)" };
    store.install(&tables, 1).await.unwrap();
    store.install(&tables, 2).await.unwrap();
    let names: Vec<Commit> =
        (0..3).map(|i| named(rows(row_of("state", &format!("k{i}"), 0, Some("1"))))).collect();
    store.clear(&tables, 2, names[0].clone()).await.unwrap();
    store.switch(&tables, 2, names[1].clone()).await.unwrap();
    store.uninstall(&tables, 1, names[2].clone()).await.unwrap();
    for one in names {
        assert!(is_applied(&store.resolve(&Attempt::of(one.attempt, &one)).await.unwrap()));
    }
    let given_up = named(Commit::default());
    assert_eq!(store.resolve(&Attempt::of(given_up.attempt, &given_up)).await.unwrap(), Resolution::Never);
    let error = refused(store.clear(&tables, 2, given_up).await);
    assert!(error.to_string().contains("was given up"), "{error}");
}

/// An id of version 7 that was made so many seconds ago.
fn made_before(seconds: i64) -> Uuid {
    let ids = Ids::default();
    ids.at(ids.clock().now() - std::time::Duration::from_secs(seconds.unsigned_abs()))
}

#[tokio::test]
async fn one_that_is_too_old_to_be_known_is_neither_applied_nor_never() {
    let (database, store) = fresh().await;
    let attempt = |id| Attempt::of(id, &rows(row("k", 0, Some("1"))));
    let error = store.resolve(&attempt(made_before(3_700))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("too old to be known"), "{error}");
    for young in [made_before(3_500), made_before(0), Uuid::from_u128(7), Uuid::from_u128(u128::MAX)] {
        assert_eq!(store.resolve(&attempt(young)).await.unwrap(), Resolution::Never, "{young}");
    }
    // What is known is known, however old its name is.
    let old = Commit { attempt: made_before(90_000), ..rows(row("k", 0, Some("1"))) };
    store.commit(old.clone()).await.unwrap();
    assert!(is_applied(&store.resolve(&attempt(old.attempt)).await.unwrap()));
    // One with events can be asked for at any time.
    let events = Attempt::of(made_before(90_000), &commit("s"));
    assert_eq!(store.resolve(&events).await.unwrap(), Resolution::Never);
    assert_eq!(count(database.url(), "select count(*) from es.fenced").await, 5);
}

#[tokio::test]
async fn witnesses_are_forgotten_once_they_are_too_old_to_be_asked_for() {
    let (database, store) = fresh().await;
    for (key, id) in [("a", made_before(7_000)), ("b", new_id()), ("c", Uuid::from_u128(7))] {
        store.commit(Commit { attempt: id, ..rows(row(key, 0, Some("1"))) }).await.unwrap();
    }
    // However wrong the clock of whoever named it: kept for an hour after it was written, at least.
    let kept = "select count(*) from es.witnesses
                where until between clock_timestamp() + interval '59 minutes' and clock_timestamp() + interval '1 day'";
    assert_eq!(count(database.url(), kept).await, 3);
    let past =
        "insert into es.witnesses select gen_random_uuid(), clock_timestamp() - i * interval '1 second'
                from generate_series(1, 5000) i";
    run(database.url(), past).await;
    let mut conn = connect(database.url()).await;
    let forget = |after: i64| {
        sqlx::query_as::<_, (i64, i64)>("select forgotten, last from es.forget_witnesses($1, 2000)")
            .bind(after)
    };
    let (mut after, mut all) = (0, Vec::new());
    for _ in 0..4 {
        let (forgotten, last) = forget(after).fetch_one(&mut conn).await.unwrap();
        assert!(last >= after);
        after = last;
        all.push(forgotten);
    }
    assert_eq!(all, [2_000, 2_000, 1_000, 0], "the oldest first, some at a time");
    assert_eq!(count(database.url(), WITNESSES).await, 3);
}

#[tokio::test]
async fn an_event_proves_its_commit_also_if_an_append_of_it_is_empty() {
    let (_database, store) = fresh().await;
    store.commit(append("b", ExpectedVersion::NoStream, 2)).await.unwrap();
    let mut both = append("a", ExpectedVersion::NoStream, 3);
    both.appends.extend(append("b", ExpectedVersion::Any, 0).appends);
    let attempt = Attempt::of(Uuid::nil(), &both);
    assert_eq!(store.resolve(&attempt).await.unwrap(), Resolution::Never);
    store.commit(both).await.unwrap();
    store.commit(commit("b")).await.unwrap();
    let applied = Committed { position: Position(5), versions: vec![Version(3), Version(3)] };
    assert_eq!(
        store.resolve(&attempt).await.unwrap(),
        Resolution::Applied(applied),
        "it had no name to be fenced by"
    );
}
