//! Events, outcomes and snapshots.

use es_core::event::Tag;
use es_core::store::{EventFilter, EventStore as _, Position, SnapshotStore as _, StreamId, Version};

use super::domain::{Account, Balance, Mails, Opened, Paid, Refused, wiring};
use super::{copy, pay};

#[tokio::test]
async fn the_log_of_the_first_version_is_read_and_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let store = copy(&folder).await;
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    assert_eq!(store.head().await.unwrap(), Position(20));
    let of_ada = EventFilter::of::<Opened>().tagged(&Tag::new("owner", "ada").unwrap());
    let page = store.read(&of_ada, Position(0), 10).await.unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.events[0].payload::<Opened>().unwrap().unwrap().owner, "ada");
    let ada = StreamId::new("account-ada").unwrap();
    let last = &store.stream(&ada, Version(4), 10).await.unwrap()[0];
    assert_eq!(last.payload::<Paid>().unwrap().unwrap().amount, 4);
    assert_eq!((last.place(), last.metadata.tenant.as_deref()), (Position(20), Some("north")));
    let before = &store.stream(&ada, Version(3), 1).await.unwrap()[0];
    assert_eq!(before.metadata.actor.as_deref(), Some("teller 7"));
    assert_eq!(store.position_at(last.recorded_at).await.unwrap(), Position(16));
    let snapshot = store.snapshot(&ada).await.unwrap().unwrap();
    assert_eq!((snapshot.version, &snapshot.data[..]), (Version(3), &br#"{"owner":"ada","balance":3}"#[..]));

    let app = wiring(&store, &Mails::default()).looks_on().start().await.unwrap();
    let ada = "ada".to_owned();
    let account = app.load::<Account>(&ada).await.unwrap().unwrap();
    assert_eq!((&*account.owner, account.balance), ("ada", 10));
    let again = app.send(&ada, pay(4)).idempotency_key("four").await.unwrap();
    assert!(again.repeated);
    assert_eq!((again.position, again.version), (Position(20), Version(5)));
    let refused = app.send(&ada, pay(1_001)).idempotency_key("too much").await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refused::TooMuch { limit: 1_000 }));
    let done = app.send(&ada, pay(5)).await.unwrap();
    assert_eq!((done.position, done.version), (Position(21), Version(6)));
    assert_eq!(app.view::<Balance>(&ada).await.unwrap(), Some(Balance { amount: 15 }));
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}
