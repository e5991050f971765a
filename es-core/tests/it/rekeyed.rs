//! `#[view]` says by which rule it finds keys: a handler that changes is no other rule.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::processor::{Backfill, ProcessorOptions};
use es_core::testing::conformance::domain::{Deposited, Donate};
use es_core::{App, View};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ByAccount(u64);

#[es_core::view(name = "payments", key = String)]
impl ByAccount {
    fn paid(&mut self, _: &Deposited) {
        self.0 += 1;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct InTwos(u64);

#[es_core::view(name = "payments", key = String)]
impl InTwos {
    fn paid(&mut self, _: &Deposited) {
        self.0 += 2;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ByReference(u64);

#[es_core::view(name = "payments", key = String)]
impl ByReference {
    #[on(by = reference)]
    fn paid(&mut self, _: &Deposited) {
        self.0 += 2;
    }
}

async fn start<V: View>(store: &MemoryBackend) -> Result<App, String> {
    let options = ProcessorOptions::default().backfill(Backfill::Refuse);
    let app = App::on(store.clone()).view::<V>().processors(options).lease(Duration::from_millis(200));
    app.start().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn another_key_of_an_event_is_another_rule() {
    let store = MemoryBackend::new();
    let app = start::<ByAccount>(&store).await.unwrap();
    let done = app.send(&"ada".to_owned(), Donate { amount: 1 }).await.unwrap();
    app.wait_for::<ByAccount>(&done, Duration::from_secs(60)).await.unwrap();
    app.shutdown(Duration::from_secs(60)).await;
    let app = start::<InTwos>(&store).await.expect("other handlers, and the same keys");
    app.shutdown(Duration::from_secs(60)).await;
    let error = start::<ByReference>(&store).await.expect_err("its rows are under the accounts");
    assert!(error.contains("finds the rows of account.deposited by other keys now"), "{error}");
}
