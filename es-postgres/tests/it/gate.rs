//! What is done before the gate, so that nobody waits behind it for long: looks into a log that has grown, and waits for
//! others.

use es_core::event::Tag;
use es_core::store::{
    AppendCondition, Attempt, Commit, CommitError, Committed, EventFilter, EventStore as _, ExpectedVersion,
    FilterItem, Position, RecordedEvent, Resolution, Version, read_all,
};
use es_postgres::{PgBackend, testing};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use crate::support::{
    Gate, LIMIT, WAITING, append, assert_sound, commit, connect, count, exact, fresh, gate, mark, new_id,
    refused, run, stream, until_count, with,
};

/// The events of `commit`, all with these tags.
fn tagged(commit: Commit, tags: &[&str]) -> Commit {
    let mut commit = commit;
    for event in commit.appends.iter_mut().flat_map(|append| &mut append.events) {
        event.tags = tags.iter().map(|tag| Tag::parse(*tag).unwrap()).collect();
    }
    commit
}

/// An append that no event with all of these tags may have come before.
fn under(name: &str, tags: &[&str], after: u64) -> Commit {
    let item = tags.iter().fold(FilterItem::new(), |item, tag| item.with_tag(Tag::parse(*tag).unwrap()));
    let condition = AppendCondition { fail_if_events_match: item.into(), after: Position(after) };
    Commit { condition: Some(condition), ..commit(name) }
}

#[tokio::test]
async fn what_the_log_refuses_is_refused_while_another_session_holds_the_gate() {
    let (database, store) = fresh().await;
    store.commit(tagged(commit("a"), &["course:1", "student:1"])).await.unwrap();
    store.commit(Commit { outcomes: vec![mark("used", "a")], ..commit("a") }).await.unwrap();
    let held = Gate::hold(database.url()).await;
    let broken = timeout(LIMIT, store.commit(under("b", &["course:1", "student:1"], 0)));
    let broken = refused(broken.await.expect("it does not come to the gate"));
    assert!(matches!(broken, CommitError::ConditionFailed { position: Position(1), .. }), "{broken:?}");
    let used = timeout(LIMIT, store.commit(Commit { outcomes: vec![mark("used", "a")], ..commit("b") }));
    let used = refused(used.await.expect("it does not come to the gate"));
    assert!(matches!(used, CommitError::Repeated { .. }), "{used:?}");
    held.release().await;
    store.commit(under("b", &["course:1", "student:2"], 0)).await.unwrap();
}

/// A transaction of somebody else that has appended an event to a stream, and is not at its end: it holds the gate.
async fn somebody_appends(url: &str, name: &str, tag: &str) -> PgConnection {
    let mut conn = connect(url).await;
    let sql = format!(
        "begin; set search_path = es; select pg_advisory_xact_lock({});
         insert into events
         select (select max(position) from events) + 1, stream_id, version + 1, type_id, recorded_at,
                uuid_send(gen_random_uuid()) || substr(envelope, 17), data
         from events join streams using (stream_id) where name = '{name}' order by version desc limit 1;
         insert into tags select '{tag}', max(position) from events",
        gate()
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn
}

/// What a commit comes to that has looked before the gate while `somebody_appends`.
async fn overtaken(url: &str, store: &PgBackend, one: Commit) -> Result<Committed, CommitError> {
    let mut somebody = somebody_appends(url, "s", "course:1").await;
    let (store, waiting) = (store.clone(), WAITING);
    let committed = tokio::spawn(async move { store.commit(one).await });
    until_count(url, waiting, 1).await;
    sqlx::raw_sql("commit").execute(&mut somebody).await.unwrap();
    timeout(LIMIT, committed).await.expect("the gate is free").unwrap()
}

#[tokio::test]
async fn what_came_in_between_is_seen_behind_the_gate() {
    let database = testing::database().await;
    let url = database.url();
    let store = with(&database, |o| o).await;
    store.commit(commit("s")).await.unwrap();
    // It knows where the stream is from its own last batch, and then has to look it up.
    for round in 0..3 {
        let at = 1 + 3 * round;
        let late = refused(overtaken(url, &store, exact("s", at)).await);
        assert!(
            matches!(late, CommitError::Conflict { actual, .. } if actual == Version(at + 1)),
            "{late:?}"
        );
        let any = overtaken(url, &store, commit("s")).await.unwrap();
        assert_eq!(any.versions, [Version(at + 3)]);
    }
    let after = store.head().await.unwrap().0;
    let broken = refused(overtaken(url, &store, under("t", &["course:1"], after)).await);
    assert!(
        matches!(broken, CommitError::ConditionFailed { position, .. } if position == Position(after + 1)),
        "{broken:?}"
    );
    overtaken(url, &store, under("t", &["course:2"], after)).await.unwrap();
    assert_sound(url, &store).await;
}

#[tokio::test]
async fn a_stranger_that_uses_a_key_keeps_nobody_else_waiting() {
    let database = testing::database().await;
    let (store, other) = (with(&database, |o| o).await, with(&database, |o| o).await);
    // A transaction that has used the key, and is not at its end.
    let mut stranger = connect(database.url()).await;
    for sql in [
        "begin",
        "set search_path = es",
        "select * from append(gen_random_uuid(), null, 0, 0, null, null, null, null, null, null, null, null, null, null,
             null, null, marks => '[{\"request\": 1, \"key\": \"k\", \"fingerprint\": \"00000000000000000000000000000007\",
                 \"stream\": \"s\", \"version\": 0, \"events\": 0, \"refusal\": null}]')",
    ] {
        sqlx::raw_sql(sql).execute(&mut stranger).await.unwrap();
    }
    let waiting =
        tokio::spawn(
            async move { store.commit(Commit { outcomes: vec![mark("k", "s")], ..commit("s") }).await },
        );
    until_count(database.url(), WAITING, 1).await;
    timeout(LIMIT, other.commit(commit("s"))).await.expect("the gate is free").unwrap();
    sqlx::raw_sql("commit").execute(&mut stranger).await.unwrap();
    let used = refused(waiting.await.unwrap());
    assert!(matches!(used, CommitError::Repeated { .. }), "{used:?}");
}

/// Index entries and rows of tags and events that were read, by connections that have ended.
const READ: &str =
    "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes where schemaname = 'es'
    and (relname = 'tags' or relname like 'events%')";
const FETCHED: &str = "select coalesce(sum(idx_tup_fetch), 0)::bigint from pg_stat_user_tables where schemaname = 'es' and relname like 'events%'";
const OTHERS: &str = "select count(*) from pg_stat_activity where datname = current_database()
    and backend_type = 'client backend' and pid <> pg_backend_pid()";

#[tokio::test]
async fn a_condition_is_looked_for_along_its_rarest_tag() {
    const EVENTS: usize = 5_000;
    const CONDITIONS: i64 = 20;
    let database = testing::database().await;
    let store = with(&database, |o| o.with_notify(false)).await;
    store.commit(tagged(append("s", ExpectedVersion::Any, EVENTS), &["course:1", "year:1"])).await.unwrap();
    store.commit(tagged(commit("s"), &["student:1"])).await.unwrap();
    drop(store);
    until_count(database.url(), OTHERS, 0).await;
    let before = count(database.url(), READ).await;
    let store = with(&database, |o| o.with_notify(false)).await;
    for _ in 0..CONDITIONS {
        store.commit(under("t", &["course:1", "year:1", "student:1"], 0)).await.unwrap();
    }
    drop(store);
    until_count(database.url(), OTHERS, 0).await;
    let read = count(database.url(), READ).await - before;
    assert!(read < CONDITIONS * 500, "{read} entries were read for {CONDITIONS} conditions");
}

/// A commit that comes to the gate behind another one looks at what came since, and not at the whole of its streams.
#[tokio::test]
async fn behind_the_gate_a_long_stream_is_not_walked_through() {
    const EVENTS: usize = 10_000;
    let database = testing::database().await;
    let url = database.url();
    let store = with(&database, |o| o.with_notify(false)).await;
    store.commit(commit("s")).await.unwrap();
    store.commit(append("long", ExpectedVersion::Any, EVENTS)).await.unwrap();
    // As a rule a stream is short: that is what plans count on.
    for some in 0..5 {
        let appends = (0..1_000).map(|i| commit(&format!("{some}-{i}")).appends.remove(0)).collect();
        store.commit(Commit { appends, ..Commit::default() }).await.unwrap();
    }
    drop(store);
    until_count(url, OTHERS, 0).await;
    run(url, "vacuum analyze es.events").await;
    let before = count(url, FETCHED).await;
    let store = with(&database, |o| o.with_notify(false)).await;
    overtaken(url, &store, commit("long")).await.unwrap();
    drop(store);
    until_count(url, OTHERS, 0).await;
    let read = count(url, FETCHED).await - before;
    assert!(read < 500, "{read} entries were read for one event");
}

#[tokio::test]
async fn a_read_goes_along_the_rarest_of_its_tags_whatever_comes_first() {
    const EVENTS: usize = 10_000;
    let database = testing::database().await;
    let url = database.url();
    let store = with(&database, |o| o.with_notify(false)).await;
    store.commit(tagged(append("s", ExpectedVersion::Any, EVENTS), &["year:1", "course:1"])).await.unwrap();
    store.commit(tagged(commit("s"), &["year:1", "student:1"])).await.unwrap();
    store.commit(tagged(commit("s"), &["student:1"])).await.unwrap();
    drop(store);
    until_count(url, OTHERS, 0).await;
    for table in ["events", "tags"] {
        run(url, &format!("vacuum analyze es.{table}")).await;
    }
    let before = count(url, READ).await;
    let store = with(&database, |o| o.with_notify(false)).await;
    for tags in [["year:1", "student:1"], ["student:1", "year:1"]] {
        let page = store.read(&all_of(&tags), Position(0), 100).await.unwrap();
        assert_eq!(page.events.len(), 1);
        assert!(!page.more);
    }
    drop(store);
    until_count(url, OTHERS, 0).await;
    let read = count(url, READ).await - before;
    assert!(read < 2_000, "{read} entries were read for two events");
}

/// However many events have each of its tags: it says how far it has come.
#[tokio::test]
async fn a_read_along_tags_that_hardly_ever_meet_is_cut() {
    let database = testing::database().await;
    let store = with(&database, |o| o).await;
    for tags in [["year:1", "a:1"], ["year:1", "b:1"], ["year:1", "a:1"]] {
        for _ in 0..2 {
            store.commit(tagged(append("s", ExpectedVersion::Any, 9_000), &tags)).await.unwrap();
        }
    }
    store.commit(tagged(commit("s"), &["a:1", "b:1", "c:1"])).await.unwrap();
    let head = store.head().await.unwrap();
    let page = store.read(&all_of(&["a:1", "b:1"]), Position(0), 100).await.unwrap();
    assert!(page.events.is_empty() && page.more && page.through < head, "{page:?}");
    let found = read_all(&store, &all_of(&["a:1", "b:1"]), Position(0)).await.unwrap();
    assert_eq!(found.events.iter().map(RecordedEvent::place).collect::<Vec<_>>(), [head]);
    let typed = FilterItem::new().with_types(["never"]).with_tag(Tag::parse("year:1").unwrap());
    let found = read_all(&store, &typed.into(), Position(0)).await.unwrap();
    assert!(found.events.is_empty());
    // Another alternative goes on no further than the one that is cut.
    let either = all_of(&["a:1", "b:1"]).or(FilterItem::new().with_tag(Tag::parse("c:1").unwrap()));
    let page = store.read(&either, Position(0), 100).await.unwrap();
    assert!(page.events.is_empty() && page.more, "{page:?}");
}

fn all_of(tags: &[&str]) -> EventFilter {
    tags.iter().fold(FilterItem::new(), |item, tag| item.with_tag(Tag::parse(*tag).unwrap())).into()
}

/// An attempt that came to nothing is looked for among what was recorded since it was named.
#[tokio::test]
async fn an_attempt_that_never_came_is_found_so_without_a_walk_through_a_long_stream() {
    const EVENTS: usize = 10_000;
    let database = testing::database().await;
    let url = database.url();
    let store = with(&database, |o| o.with_notify(false)).await;
    store.commit(append("long", ExpectedVersion::Any, EVENTS)).await.unwrap();
    let old = "begin; set local es.maintenance = 'on';
        update es.events set recorded_at = recorded_at - interval '30 days'; commit";
    run(url, old).await;
    run(url, "vacuum analyze es.events").await;
    let late = store.commit(commit("long")).await.unwrap();
    drop(store);
    until_count(url, OTHERS, 0).await;
    let before = count(url, FETCHED).await;
    let store = with(&database, |o| o.with_notify(false)).await;
    let never = Attempt { id: new_id(), appends: vec![(stream("long"), vec![new_id()])] };
    assert_eq!(store.resolve(&never).await.unwrap(), Resolution::Never);
    let last = store.stream(&stream("long"), Version(EVENTS as u64), 1).await.unwrap()[0].id;
    let came = Attempt { id: new_id(), appends: vec![(stream("long"), vec![last])] };
    assert_eq!(store.resolve(&came).await.unwrap(), Resolution::Applied(late));
    drop(store);
    until_count(url, OTHERS, 0).await;
    let read = count(url, FETCHED).await - before;
    assert!(read < 500, "{read} entries were read for one attempt");
}
