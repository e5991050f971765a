//! Whose fault it is that a message was not taken: I5.

use std::io;
use std::time::Duration;

use es_core::Backend as _;
use es_core::prelude::*;
use es_core::store::{CommitError, StoreError};
use es_core::{DecideError, LoadError, QueryError};
use sagas::message::inbox::{InboxError, Lane, Outcome};
use serde::{Deserialize, Serialize};

use super::Subject;
use super::desk::{Desk, lane, mail, operated, order, sent, take, until_answered};
use super::ground::Ground;
use super::inbox::until_gone;

/// An event of ledgers that this program does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Audited {}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "ledger")]
pub(crate) enum NewerEvent {
    Audited(Audited),
}

/// What a store that is away gives.
fn away() -> StoreError {
    StoreError::transient("reading", io::Error::other("the line is dead"))
}

/// I5
pub(super) async fn an_error_of_the_store_is_known_however_it_is_wrapped<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    let errors: [fn() -> BoxError; 5] = [
        || LoadError::from(away()).into(),
        || DecideError::<io::Error>::from(away()).into(),
        || DecideError::<io::Error>::from(CommitError::from(away())).into(),
        || QueryError::NotReady { query: "q", what: "a view".to_owned() }.into(),
        || QueryError::TimedOut { query: "q", handler: "h", limit: Duration::ZERO }.into(),
    ];
    for (n, error) in (1..).zip(errors) {
        let message = order("a", n);
        desk.orders.fail_with(&message.id, Some(error));
        while desk.orders.calls(&message.id) < 3 {
            let busy = inbox.take(&message).await;
            assert!(matches!(busy, Err(InboxError::Busy(_) | InboxError::Store(_))), "{n}: {busy:?}");
        }
        desk.orders.fail_with(&message.id, None);
        assert_eq!(take::<S>(&inbox, &message).await, Outcome::Taken);
    }
    assert_eq!(until_answered(async || inbox.parked(None, 10).await).await, []);
}

/// I5
pub(super) async fn what_only_a_newer_program_can_read_is_left_to_it<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    let ground = Ground::on(subject, desk.backend.clone(), desk.clock.clone());
    ground.tell_to("ledger-a", vec![NewerEvent::Audited(Audited {})]).await;
    ground.tell_to("ledger-mail", vec![NewerEvent::Audited(Audited {})]).await;
    for message in [order("a", 1), mail("m1")] {
        while desk.orders.calls(&message.id) < 3 {
            let busy = inbox.take(&message).await;
            assert!(matches!(busy, Err(InboxError::Busy(_) | InboxError::Store(_))), "{busy:?}");
        }
        // It may run beside this one. If it does not, the sender need not wait with all others.
        for _ in 0..2 {
            let newer = sent::<S>(&inbox, &message).await;
            assert!(matches!(newer, Err(InboxError::Newer(_))), "{newer:?}");
        }
    }
    assert_eq!(until_answered(async || inbox.parked(None, 10).await).await, []);
    assert_eq!(take::<S>(&inbox, &order("b", 1)).await, Outcome::Taken);
}

/// I5
pub(super) async fn a_version_that_has_passed_parks_its_message<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    desk.orders.stale(&["a2"]);
    assert_eq!(take::<S>(&inbox, &order("a", 1)).await, Outcome::Taken);
    assert_eq!(take::<S>(&inbox, &order("a", 2)).await, Outcome::Parked { waiting: 1 });
    let shown = until_answered(async || inbox.show(&lane("a"), 1).await).await.unwrap();
    assert!(shown.parked.error.contains("others were faster"), "{shown:?}");
}

/// I5
pub(super) async fn a_line_that_is_lost_to_something_else_parks_its_message<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    let errors: [fn() -> BoxError; 3] = [
        || io::Error::new(io::ErrorKind::UnexpectedEof, "the file is cut off").into(),
        || Wrapped(io::ErrorKind::ConnectionRefused.into()).into(),
        || Wrapped(io::ErrorKind::TimedOut.into()).into(),
    ];
    for (key, error) in ["a", "b", "mail"].into_iter().zip(errors) {
        let message = if key == "mail" { mail("m1") } else { order(key, 1) };
        desk.orders.fail_with(&message.id, Some(error));
        assert_eq!(take::<S>(&inbox, &message).await, Outcome::Parked { waiting: 1 }, "{key}");
        // An operator is told why, at once.
        let lane = if key == "mail" { Lane::of_message("/mails", "m1") } else { lane(key) };
        let retry = operated(async || inbox.retry(&lane, "ada", "and now?").await).await.unwrap();
        assert!(retry.done == 0 && retry.error.is_some(), "{retry:?}");
        desk.orders.fail_with(&message.id, None);
        until_gone(&inbox, &lane).await;
        assert_eq!(desk.entered(key).await, [message.id]);
    }
    // If it was the store's, nothing is parked.
    let message = order("a", 2);
    desk.orders.fail_with(&message.id, Some(|| Wrapped(io::ErrorKind::BrokenPipe.into()).into()));
    if desk.backend.is_transient(&Wrapped(io::ErrorKind::BrokenPipe.into())) {
        while desk.orders.calls(&message.id) < 5 {
            assert!(inbox.take(&message).await.is_err());
        }
        desk.orders.fail_with(&message.id, None);
        assert_eq!(take::<S>(&inbox, &message).await, Outcome::Taken);
    }
}

/// What a client of something else makes of it.
#[derive(Debug, thiserror::Error)]
#[error("the bank could not be asked")]
struct Wrapped(#[source] io::Error);
