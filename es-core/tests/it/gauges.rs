//! What the gauges of a node say is so, also of what has gone, is kept, or is paused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::processor::{ProcessorState, RebuildOptions};
use es_core::testing::conformance::domain::{Deposited, Donate};
use es_core::{App, BoxError};
use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde::{Deserialize, Serialize};

const LIMIT: Duration = Duration::from_secs(60);
const ACCOUNTS: [&str; 3] = ["ada", "bea", "cy"];

/// Whether the handler of the view fails.
static POISONED: AtomicBool = AtomicBool::new(true);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Paid(i64);

#[es_core::view(name = "paid", key = String)]
impl Paid {
    fn paid(&mut self, payment: &Deposited) -> Result<(), BoxError> {
        if POISONED.load(Ordering::SeqCst) {
            return Err("poisoned".into());
        }
        self.0 += payment.amount;
        Ok(())
    }
}

/// The gauges by their names and labels.
#[derive(Clone, Debug, Default)]
struct Gauges(Arc<Mutex<BTreeMap<String, f64>>>);

struct Series(Gauges, String);

impl GaugeFn for Series {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        self.0.0.lock().unwrap().insert(self.1.clone(), value);
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let labels: Vec<&str> =
            key.labels().filter(|label| label.key() != "processor").map(|label| label.value()).collect();
        Gauge::from_arc(Arc::new(Series(self.clone(), format!("{} {}", key.name(), labels.join(" ")))))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Gauges {
    /// Of one that there is: its last value.
    fn of(&self, series: &str) -> Option<f64> {
        self.0.lock().unwrap().get(series).copied()
    }

    /// How many sequences are parked in a build.
    fn parked(&self, generation: u32, role: &str) -> Option<f64> {
        self.of(&format!("es_processor_parked {generation} {role}"))
    }

    /// Those of a name that are not 0.
    fn raised(&self, name: &str) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(key, n)| key.starts_with(name) && **n > 0.0).map(|(key, _)| key.clone()).collect()
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        let wait = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, wait).await.is_ok(), "it never came to that: {self:?}");
    }
}

async fn start(store: &MemoryBackend) -> App {
    let brief = Duration::from_millis(1);
    let app = App::on(store.clone()).view::<Paid>().processor_retries(0, brief, brief);
    app.lease(Duration::from_millis(200)).start().await.unwrap()
}

/// P26
#[test]
fn gauges_say_what_is_so_of_what_has_gone_is_kept_or_is_paused() {
    let gauges = Gauges::default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&gauges, || runtime.block_on(operated(&gauges)));
}

async fn operated(gauges: &Gauges) {
    let store = MemoryBackend::new();
    let app = start(&store).await;
    for account in ACCOUNTS {
        app.send(&account.to_owned(), Donate { amount: 1 }).await.unwrap();
    }
    app.settle(LIMIT).await.unwrap();
    gauges.until(|| gauges.parked(1, "current") == Some(3.0)).await;
    assert_eq!(gauges.raised("es_node_looked_timestamp_seconds").len(), 1);

    let is_paused = |app: &App| matches!(app.processors()[0].status().state, ProcessorState::Paused { .. });
    app.processors()[0].pause().await.unwrap();
    gauges.until(|| is_paused(&app)).await;
    assert_eq!((gauges.parked(1, "current"), app.processors()[0].status().parked), (Some(3.0), 3));
    assert!(app.shutdown(LIMIT).await);
    assert_eq!(gauges.raised("es_"), ["es_processor_position 1 current"], "nobody runs it here");
    let app = start(&store).await;
    gauges.until(|| is_paused(&app)).await;
    assert_eq!(gauges.parked(1, "current"), Some(3.0), "it was counted");
    app.processors()[0].resume().await.unwrap();
    gauges.until(|| app.processors()[0].status().state == ProcessorState::Running).await;

    // It halts at the first event.
    let rebuild = app.rebuild_online::<Paid>(RebuildOptions::default()).await.unwrap();
    gauges.until(|| gauges.of("es_processor_lag 2 building") == Some(3.0)).await;
    rebuild.abort().await.unwrap();
    gauges.until(|| gauges.raised("es_processor_lag").is_empty()).await;

    POISONED.store(false, Ordering::SeqCst);
    let rebuild = app.rebuild_online::<Paid>(RebuildOptions::default()).await.unwrap();
    rebuild.caught_up(LIMIT).await.unwrap();
    rebuild.switch().await.unwrap();
    gauges.until(|| gauges.parked(3, "current") == Some(0.0)).await;
    assert_eq!(gauges.parked(1, "current"), Some(0.0), "queries read another one");
    gauges.until(|| gauges.parked(1, "previous") == Some(3.0)).await;
    assert!(app.processors()[0].drop_previous().await.unwrap());
    gauges.until(|| gauges.raised("es_processor_parked").is_empty()).await;
    assert!(app.shutdown(LIMIT).await);
}
