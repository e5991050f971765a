//! What is only said, not refused: caught from the log.

use es_core::App;
use es_core::memory::MemoryBackend;
use es_core::store::{EventId, Snapshot, SnapshotStore, StreamId, Version};
use es_core::testing::Log;
use es_core::testing::conformance::domain::{Account, Open};
use es_core::testing::conformance::readside::{Balance, RenamedBalance, Welcome};

/// B33
#[tokio::test]
async fn a_renamed_projection_is_noticed_at_start() {
    let ((warnings, _guard), store) = (Log::catch(), MemoryBackend::new());
    let app = App::on(store.clone()).view::<Balance>().start().await.unwrap();
    app.send(&"a".to_owned(), Open { owner: "ada".to_owned() }).await.unwrap();
    app.settle(std::time::Duration::from_secs(60)).await.unwrap();
    let again = App::on(store.clone()).view::<Balance>().start().await.unwrap();
    assert_eq!(warnings.take(), [""; 0], "the same name");
    let renamed = App::on(store).view::<RenamedBalance>().start().await.unwrap();
    let said = warnings.take().join("\n");
    assert!(
        said.contains("saldo/1") && said.contains("balance/1") && said.contains("was it renamed?"),
        "{said}"
    );
    drop((again, renamed));
}

/// P10
#[tokio::test]
async fn a_renamed_reactor_is_told_how_much_it_leaves_out() {
    let ((warnings, _guard), store) = (Log::catch(), MemoryBackend::new());
    let app = App::on(store.clone()).view::<Balance>().start().await.unwrap();
    for account in ["a", "b", "c"] {
        app.send(&account.to_owned(), Open { owner: "ada".to_owned() }).await.unwrap();
    }
    app.settle(std::time::Duration::from_secs(60)).await.unwrap();
    let renamed = App::on(store).reactor(Welcome::default()).start().await.unwrap();
    let said = warnings.take().join("\n");
    assert!(
        said.contains("events that it wants lie before its start") && said.contains("was it renamed?"),
        "{said}"
    );
    drop((app, renamed));
}

/// N2
#[tokio::test]
async fn a_snapshot_that_is_ignored_is_warned_about() {
    let ((warnings, _guard), store) = (Log::catch(), MemoryBackend::new());
    let app = App::on(store.clone()).start().await.unwrap();
    app.send(&"a".to_owned(), Open { owner: "ada".to_owned() }).await.unwrap();
    let (stream, event) = (StreamId::new("account-a").unwrap(), EventId::from_u128(1));
    store
        .put_snapshot(Snapshot { stream, version: Version(1), event, schema: 1, data: "{}".into() })
        .await
        .unwrap();
    App::on(store).start().await.unwrap().load::<Account>(&"a".to_owned()).await.unwrap();
    let said = warnings.take().join("\n");
    assert!(said.contains("snapshot ignored, full replay") && said.contains("account-a"), "{said}");
}
