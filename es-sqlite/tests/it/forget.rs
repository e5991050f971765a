//! What a store forgets with time, and what it refuses from then on.

use es_core::ErrorKind;
use es_core::clock::{Clock as _, SystemClock, Timestamp};
use es_core::id::Ids;
use es_core::store::{
    Attempt, Commit, CommitError, Committed, EventStore as _, IdempotencyKey, Outcome, OutcomeMark, Position,
    Resolution, StreamId, Version,
};
use es_sqlite::SqliteBackend;

use crate::files::commit;

const DAY: i64 = 24 * 3_600;

fn days_ago(days: i64) -> Timestamp {
    Timestamp::from_second(SystemClock.now().as_second() - days * DAY).unwrap()
}

fn key_of(days: i64) -> String {
    format!("pay/{}/once", Ids::default().at(days_ago(days)))
}

async fn under(backend: &SqliteBackend, key: &str) -> Result<Committed, CommitError> {
    let (version, position) = (Version(0), Position(0));
    let outcome = Outcome {
        fingerprint: 7,
        stream: StreamId::new("s").unwrap(),
        version,
        position,
        events: 0,
        refusal: Some("no".into()),
    };
    let mark = OutcomeMark { key: IdempotencyKey::new(key).unwrap(), outcome };
    backend.commit(Commit { outcomes: vec![mark], ..commit("s") }).await
}

#[tokio::test]
async fn a_key_that_is_older_than_what_is_remembered_is_refused_and_not_run() {
    let backend = SqliteBackend::open(":memory:").await.unwrap();
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
    let backend = SqliteBackend::open(":memory:").await.unwrap();
    let ids = Ids::default();
    let (old, young) = (ids.at(days_ago(10)), ids.at(days_ago(1)));
    let given_up = |id| Commit { attempt: id, ..commit("s") };
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
    backend.commit(commit("s")).await.unwrap();
    assert_eq!(backend.head().await.unwrap(), Position(1));
}

#[tokio::test]
async fn what_may_still_be_asked_for_is_not_forgotten() {
    let backend = SqliteBackend::open(":memory:").await.unwrap();
    let error = backend.forget(SystemClock.now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
}
