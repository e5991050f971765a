//! The instances that are in memory, and what becomes of them: events, answers and timers in, rows out.
//!
//! No IO: who uses it puts in what is stored, beforehand. So a session and the fixture of a test do the same.

mod apply;
mod early;
mod event;
mod input;
mod lagging;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use es_core::store::Row;
use uuid::Uuid;

pub(crate) use self::apply::{apply, definition_of};
pub(crate) use self::early::Waiting;
use crate::definition::Definition;
use crate::instance::Instance;
use crate::next::Association;
use crate::process::AfterEnd;
use crate::rows::{Noted, Sending};

/// Instances in memory.
#[derive(Debug)]
pub(crate) struct Book {
    /// The newest first: it is the one that starts instances.
    definitions: Vec<Definition>,
    kept: HashMap<String, Kept>,
    /// Of the instances that are kept.
    by_association: HashMap<Association, BTreeSet<String>>,
    /// What waits for the flush.
    touched: BTreeSet<String>,
    /// Bytes of the instances that are kept, and of those that wait for the flush.
    kept_bytes: usize,
    touched_bytes: usize,
    inputs: Vec<(String, Uuid, u64, Noted)>,
    sends: Vec<Sending>,
    early: BTreeMap<String, Vec<Waiting>>,
    /// How many events wait for an instance beside those: they are stored, and not read before it may start.
    waiting: HashMap<String, usize>,
    /// Instances that have inputs to take in, and code for it; and whose turn it was last.
    lagging: BTreeSet<String>,
    turn: String,
    /// Inputs that something else is done in the place of.
    marked: Vec<Row<Noted>>,
    /// Rows of timers and associations, and bytes of associations, inputs and commands, that wait for the flush, about.
    beside: usize,
    bytes: usize,
    /// Rows of events that waited, and wait no more.
    gone: Vec<(String, u64)>,
}

/// Operators are told: nothing else says so by itself.
fn tell_parked(process: &str, instance: &str, error: &str) {
    tracing::error!(process, instance, error, "an instance is parked: it waits for an operator");
}

/// An instance, as it is stored and as it is now: one and the same, until something comes to it.
#[derive(Debug, Default)]
struct Kept {
    rev: u64,
    stored: Option<Arc<Instance>>,
    now: Option<Arc<Instance>>,
    /// Bytes of it, when they were last counted.
    bytes: usize,
}

impl Kept {
    /// As it is now, to be changed.
    fn changing(&mut self) -> Option<&mut Instance> {
        self.now.as_mut().map(Arc::make_mut)
    }
}

impl Book {
    /// Of a process, by its definitions, the newest first.
    pub(crate) fn new(definitions: Vec<Definition>) -> Self {
        Self {
            definitions,
            kept: HashMap::new(),
            by_association: HashMap::new(),
            touched: BTreeSet::new(),
            kept_bytes: 0,
            touched_bytes: 0,
            inputs: Vec::new(),
            sends: Vec::new(),
            early: BTreeMap::new(),
            waiting: HashMap::new(),
            lagging: BTreeSet::new(),
            turn: String::new(),
            marked: Vec::new(),
            beside: 0,
            bytes: 0,
            gone: Vec::new(),
        }
    }

    pub(crate) fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// The name of the process.
    pub(crate) fn process(&self) -> &'static str {
        self.definitions[0].name()
    }

    /// Whether a key may have another instance once one has ended.
    pub(crate) fn begins_again(&self) -> bool {
        self.definitions[0].after_end() == AfterEnd::Again
    }

    /// Whether an instance is kept, or is known not to be there.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.kept.contains_key(key)
    }

    /// Puts in what is stored.
    pub(crate) fn put(&mut self, key: &str, stored: Option<(u64, Instance)>) {
        let (rev, stored) = stored.map_or((0, None), |(rev, instance)| (rev, Some(Arc::new(instance))));
        for association in stored.iter().flat_map(|instance| &instance.associations) {
            self.by_association.entry(association.clone()).or_default().insert(key.to_owned());
        }
        let bytes = stored.as_deref().map_or(0, Instance::bytes);
        self.kept_bytes += bytes;
        self.kept.insert(key.to_owned(), Kept { rev, now: stored.clone(), stored, bytes });
    }

    pub(crate) fn now(&self, key: &str) -> Option<&Instance> {
        self.kept.get(key)?.now.as_deref()
    }

    /// All instances that are kept.
    #[cfg(feature = "testing")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &Instance> {
        self.kept.values().filter_map(|kept| kept.now.as_deref())
    }
}
