//! What is only said, not refused: caught from the log.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use es_core::App;
use es_core::memory::MemoryBackend;
use es_core::store::{EventId, Snapshot, SnapshotStore, StreamId, Version};
use es_core::testing::conformance::domain::{Account, Open};
use es_core::testing::conformance::readside::{Balance, RenamedBalance};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps the text of every warning.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

/// B33
#[tokio::test]
async fn a_renamed_projection_is_noticed_at_start() {
    let (warnings, store) = (Warnings::default(), MemoryBackend::new());
    let _guard = tracing::subscriber::set_default(warnings.clone());
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

/// N2
#[tokio::test]
async fn a_snapshot_that_is_ignored_is_warned_about() {
    let (warnings, store) = (Warnings::default(), MemoryBackend::new());
    let _guard = tracing::subscriber::set_default(warnings.clone());
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
