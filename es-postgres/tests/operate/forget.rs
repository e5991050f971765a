//! What a store forgets with time, and what it refuses from then on.

use es_core::ErrorKind;
use es_core::clock::{Clock as _, SystemClock, Timestamp};
use es_core::id::Ids;
use es_core::store::{
    Attempt, Backend as _, Commit, CommitError, Committed, EventStore as _, ExpectedVersion, IdempotencyKey,
    Outcome, OutcomeMark, Position, Resolution, RowWrite, Transaction as _, Version,
};
use es_postgres::PgBackend;

use crate::shop::{append, open, stream};

const DAY: i64 = 24 * 3_600;

fn days_ago(days: i64) -> Timestamp {
    Timestamp::from_second(SystemClock.now().as_second() - days * DAY).unwrap()
}

fn key_of(days: i64) -> String {
    format!("pay/{}/once", Ids::default().at(days_ago(days)))
}

async fn under(backend: &PgBackend, key: &str) -> Result<Committed, CommitError> {
    let (version, position) = (Version(0), Position(0));
    let outcome = Outcome {
        fingerprint: 7,
        stream: stream("s"),
        version,
        position,
        events: 0,
        refusal: Some("no".into()),
    };
    let mark = OutcomeMark { key: IdempotencyKey::new(key).unwrap(), outcome };
    backend.commit(Commit { outcomes: vec![mark], ..append("s", ExpectedVersion::Any, 1) }).await
}

#[tokio::test]
async fn a_key_that_is_older_than_what_is_remembered_is_refused_and_not_run() {
    let (_database, backend) = open().await;
    let (old, never_used, young) = (key_of(10), key_of(9), key_of(2));
    for key in [&old, &young, "plain"] {
        under(&backend, key).await.unwrap();
    }
    let forgotten = backend.forget(days_ago(5)).await.unwrap();
    assert_eq!((forgotten.keys, forgotten.attempts), (1, 0));
    assert_eq!(backend.outcome(&IdempotencyKey::new(&*old).unwrap()).await.unwrap(), None);
    // Together with one that is fine: nobody else suffers.
    let fresh = key_of(0);
    let (refused, never, fine) =
        tokio::join!(under(&backend, &old), under(&backend, &never_used), under(&backend, &fresh));
    for refused in [refused, never] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains("older than what is remembered"), "{error}");
    }
    fine.unwrap();
    for key in [&young, "plain"] {
        let error = under(&backend, key).await.unwrap_err();
        assert!(matches!(error, CommitError::Repeated { .. }), "{error}");
    }
    assert_eq!(backend.head().await.unwrap(), Position(4));
}

#[tokio::test]
async fn what_was_given_up_stays_never_once_its_fence_is_forgotten() {
    let (_database, backend) = open().await;
    let ids = Ids::default();
    let (old, young) = (ids.at(days_ago(10)), ids.at(days_ago(1)));
    let given_up = |id| Commit { attempt: id, ..append("s", ExpectedVersion::Any, 1) };
    for id in [old, young] {
        let attempt = Attempt::of(id, &given_up(id));
        assert_eq!(backend.resolve(&attempt).await.unwrap(), Resolution::Never);
    }
    assert_eq!(backend.forget(days_ago(5)).await.unwrap().attempts, 1);
    for id in [old, young] {
        let error = backend.commit(given_up(id)).await.unwrap_err();
        assert!(error.to_string().contains("was given up"), "{error}");
        assert_eq!(backend.resolve(&Attempt::of(id, &given_up(id))).await.unwrap(), Resolution::Never);
    }
    backend.commit(append("s", ExpectedVersion::Any, 1)).await.unwrap();
    assert_eq!(backend.head().await.unwrap(), Position(1));
}

/// Its clock is behind what is forgotten: what it names itself was never used.
#[tokio::test]
async fn a_program_whose_clock_is_behind_writes_on() {
    let (_database, backend) = open().await;
    let all = "insert into es.forgotten values ('attempts', 'ffffffff-ffff-7000-8000-000000000000')";
    sqlx::raw_sql(all).execute(&backend.db()).await.unwrap();
    let row = |rev| RowWrite { table: "v/1".into(), key: "k".to_owned(), rev, row: Some("1".into()) };
    let rows = |rev| Commit { rows: vec![row(rev)], ..Commit::default() };
    backend.commit(append("s", ExpectedVersion::Any, 1)).await.unwrap();
    backend.commit(rows(0)).await.unwrap();
    for staged in [rows(1), append("s", ExpectedVersion::Any, 1)] {
        let mut tx = backend.begin().await.unwrap();
        *tx.staged() = staged;
        tx.commit().await.unwrap();
    }
    // A name that somebody else gave may have been used.
    let named = Commit { attempt: Ids::default().next(), ..append("s", ExpectedVersion::Any, 1) };
    let error = backend.commit(named).await.unwrap_err();
    assert!(error.to_string().contains("was given up"), "{error}");
    assert_eq!(backend.head().await.unwrap(), Position(2));
}

#[tokio::test]
async fn thousands_are_forgotten_in_parts() {
    let (_database, backend) = open().await;
    let many = "insert into es.outcomes select 'k/' || es.made(overlay(gen_random_uuid()::text placing '00000000-0000-7' from 1 for 15)) || i,
                    '\\x00000000000000000000000000000007', 's', 0, 0, 0, 'no' from generate_series(1, 5000) i";
    sqlx::raw_sql(many).execute(&backend.db()).await.unwrap();
    assert_eq!(backend.forget(days_ago(5)).await.unwrap().keys, 5_000);
    assert_eq!(backend.forget(days_ago(5)).await.unwrap().keys, 0);
}

#[tokio::test]
async fn what_may_still_be_asked_for_is_not_forgotten() {
    let (_database, backend) = open().await;
    let error = backend.forget(SystemClock.now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
}

/// The UUID in it is as old as the instance that sends the command.
#[tokio::test]
async fn a_command_of_an_instance_that_began_long_ago_is_not_refused() {
    let (_database, backend) = open().await;
    let id = Ids::default().at(days_ago(10));
    let (sent, not_yet) = (format!("process/{id}/1/0"), format!("process/{id}/9/0"));
    under(&backend, &sent).await.unwrap();
    assert_eq!(backend.forget(days_ago(5)).await.unwrap().keys, 0);
    under(&backend, &not_yet).await.unwrap();
    let error = under(&backend, &sent).await.unwrap_err();
    assert!(matches!(error, CommitError::Repeated { .. }), "{error}");
}

#[tokio::test]
async fn whoever_was_broken_off_goes_on_where_it_was() {
    let (_database, backend) = open().await;
    let old = "select es.made(overlay(gen_random_uuid()::text placing '00000000-0000-7' from 1 for 15))";
    let outcome = "'\\x00000000000000000000000000000007', 's', 0, 0, 0, 'no'";
    let insert = async |sql: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&backend.db()).await.unwrap();
    };
    insert(format!("insert into es.outcomes select 'a' || i, {outcome} from generate_series(1, 3000) i"))
        .await;
    insert(format!(
        "insert into es.outcomes select 'b/' || ({old}) || i, {outcome} from generate_series(1, 200) i"
    ))
    .await;
    // One that is broken off after its first statement.
    let begun = format!(
        "select es.forget(timestamptz 'epoch' + {} * interval '1 second'); select es.forget_keys('', 2000)",
        days_ago(5).as_second()
    );
    insert(begun).await;
    insert(format!("insert into es.outcomes select 'a/' || ({old}), {outcome}")).await;
    assert_eq!(
        backend.forget(days_ago(5)).await.unwrap().keys,
        200,
        "what it has seen it does not look at again"
    );
    assert_eq!(backend.forget(days_ago(5)).await.unwrap().keys, 1, "the next time it begins anew");
    // With a later time it looks at all, wherever it was.
    insert("select es.forget_keys('a', 2000)".to_owned()).await;
    insert(format!("insert into es.outcomes select 'a/' || ({old}), {outcome}")).await;
    assert_eq!(backend.forget(days_ago(4)).await.unwrap().keys, 1);
}
