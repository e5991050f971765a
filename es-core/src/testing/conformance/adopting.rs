//! A store that was restored or cloned says so: E38.

use std::sync::Arc;

use super::data::{append, event, exact, id, new_id};
use super::redacting::{numbers, put};
use super::{Operated, next};
use crate::ErrorKind;
use crate::store::{Adopt, Commit, CommitError, EventFilter, EventStore, Position, RowWrite, Subscription};

/// E38
pub async fn who_lives_through_a_restore_goes_on_from_what_is_there<S: Operated>(subject: S) {
    let store = subject.open().await;
    put(&store, "s", numbers(1)).await;
    let living = subject.again(&store).await;
    let mut log = Subscription::new(Arc::new(living.clone()), EventFilter::all(), Position(0));
    next(&mut log).await;
    let write = |rev| RowWrite { table: "v/1".into(), key: "k".to_owned(), rev, row: Some("{}".into()) };
    let rows = |rev| Commit { rows: vec![write(rev)], attempt: new_id(), ..Commit::default() };
    living.commit(rows(0)).await.expect("nobody else writes it");

    let (known, before) = (living.history(), S::generation(&store).await);
    let adopted = subject.adopt(&store, Adopt::Restored).await;
    assert_ne!(adopted, before);
    // It was read in the history before, and would be written over what may be another row.
    let refused = living.commit(rows(1)).await.expect_err("it is of another history");
    assert!(matches!(refused, CommitError::OtherHistory), "{refused}");
    living.commit(rows(1)).await.expect("by then it was read again");
    // An append proves itself.
    let proven = append(&id("s"), exact(1), vec![event("noted")]);
    living.commit(proven).await.expect("the stream is where it was");
    assert_eq!(next(&mut log).await.position, Some(Position(2)));
    assert_eq!(living.history(), known + 1);
    assert_eq!((store.identity(), S::generation(&store).await), (living.identity(), adopted));
}

/// E38
pub async fn a_clone_is_another_store<S: Operated>(subject: S) {
    let store = subject.open().await;
    put(&store, "s", numbers(1)).await;
    let mut log = Subscription::new(Arc::new(store.clone()), EventFilter::all(), Position(0));
    next(&mut log).await;
    subject.adopt(&store, Adopt::Cloned).await;
    // No program takes it for the one that it was started on.
    let error =
        store.commit(append(&id("s"), exact(1), vec![event("noted")])).await.expect_err("another store");
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    assert!(error.to_string().contains("start it again"), "{error}");
    let clone = subject.again(&store).await;
    assert_ne!(clone.identity(), store.identity());
    let error = log.bookmark().expect("it has read").check(&clone).await.expect_err("of the other store");
    assert!(error.to_string().contains("is of another store"), "{error}");
    put(&clone, "s", numbers(1)).await;
    assert_eq!(S::verify_after(&clone, Position(0)).await.expect("it is read"), [""; 0]);
}
