//! Spans, caught as they are closed: what a trace of a request would show.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// A span that was begun.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaughtSpan {
    /// Its name.
    pub name: &'static str,
    /// The name of the span that it is in, if there is one.
    pub within: Option<&'static str>,
    /// Its fields, as text; those that were never recorded are not there.
    pub fields: BTreeMap<&'static str, String>,
}

impl CaughtSpan {
    /// A field, or nothing.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |text| text)
    }
}

/// Keeps every span up to the level `debug`. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Vec<CaughtSpan>>>);

thread_local! {
    /// The spans that this thread is in, by their numbers.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Trace {
    /// Catches what this thread does until the guard is dropped.
    #[must_use]
    pub fn catch() -> (Self, DefaultGuard) {
        // Of a subscriber that is alone, `tracing` remembers what the first thread said: see `Log`.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Trace::default()));
        LazyLock::force(&SECOND);
        let trace = Self::default();
        (trace.clone(), tracing::subscriber::set_default(trace))
    }

    /// The spans by this name since it began, in the order of their beginnings.
    #[must_use]
    pub fn of(&self, name: &str) -> Vec<CaughtSpan> {
        self.all().iter().filter(|span| span.name == name).cloned().collect()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<CaughtSpan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spans are numbered from 1, in the order of their beginnings.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1)
}

impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Also where it is only asked whether anybody listens.
        !metadata.is_event() && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(BTreeMap::new());
        span.record(&mut fields);
        let parent = match span.parent() {
            Some(id) => Some(id.into_u64()),
            None if span.is_root() => None,
            None => ENTERED.with_borrow(|entered| entered.last().copied()),
        };
        let mut all = self.all();
        let within = parent.and_then(|number| all.get(index(number))).map(|span| span.name);
        all.push(CaughtSpan { name: span.metadata().name(), within, fields: fields.0 });
        Id::from_u64(all.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Fields(BTreeMap::new());
        values.record(&mut fields);
        if let Some(span) = self.all().get_mut(index(id.into_u64())) {
            span.fields.append(&mut fields.0);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            if let Some(at) = entered.iter().rposition(|entered| *entered == id.into_u64()) {
                entered.remove(at);
            }
        });
    }
}

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _written = write!(text, "{value:?}");
        self.0.insert(field.name(), text);
    }
}
