//! Metrics, caught as they are given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// Keeps every metric: what counters have come to, the last value of gauges, how often a histogram was given one, and the sum. Clones share
/// it. `metrics::with_local_recorder(&numbers, ..)` catches those of a thread.
#[derive(Clone, Debug, Default)]
pub struct Numbers(Arc<Mutex<Caught>>);

/// By series.
#[derive(Debug, Default)]
struct Caught {
    values: BTreeMap<String, f64>,
    /// Of histograms.
    sums: BTreeMap<String, f64>,
}

impl Numbers {
    /// What a series has come to, as `name label=value label=value`, labels in their order; 0 if there is none.
    #[must_use]
    pub fn of(&self, series: &str) -> f64 {
        self.all().values.get(series).copied().unwrap_or_default()
    }

    /// What the values of a histogram come to together; 0 if there is none.
    #[must_use]
    pub fn sum(&self, series: &str) -> f64 {
        self.all().sums.get(series).copied().unwrap_or_default()
    }

    /// The series whose names begin like this, with their values.
    #[must_use]
    pub fn like(&self, beginning: &str) -> Vec<(String, f64)> {
        let all = self.all();
        let like = all.values.iter().filter(|(name, _)| name.starts_with(beginning));
        like.map(|(name, value)| (name.clone(), *value)).collect()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Caught> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn series(&self, key: &Key) -> Arc<Series> {
        let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
        let name = key.name().to_owned() + &labels.collect::<String>();
        self.all().values.entry(name.clone()).or_default();
        Arc::new(Series(self.clone(), name))
    }
}

struct Series(Numbers, String);

impl Series {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.0.all().values.entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Series {
    #[expect(clippy::cast_precision_loss, reason = "a test counts to less")]
    fn increment(&self, value: u64) {
        self.change(|n| *n += value as f64);
    }

    #[expect(clippy::cast_precision_loss, reason = "a test counts to less")]
    fn absolute(&self, value: u64) {
        self.change(|n| *n = value as f64);
    }
}

impl GaugeFn for Series {
    fn increment(&self, value: f64) {
        self.change(|n| *n += value);
    }

    fn decrement(&self, value: f64) {
        self.change(|n| *n -= value);
    }

    fn set(&self, value: f64) {
        self.change(|n| *n = value);
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        self.change(|n| *n += 1.0);
        *self.0.all().sums.entry(self.1.clone()).or_default() += value;
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.series(key))
    }
}
