//! The gauges of a processor's builds.

use std::collections::{BTreeMap, BTreeSet};

use crate::processor::parked;
use crate::processor::status::ProcessorStatus;
use crate::state::{Build, Generations};
use crate::store::{Generation, Position, RowStore, StoreError};

/// The gauges of a processor's builds. A series cannot be taken back: of what has gone, or is something else to those who read,
/// nothing is behind or parked.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// What each build is to those who read.
    roles: BTreeMap<Generation, &'static str>,
    /// How many sequences are parked in builds that are paused, and at which revisions of their shares they were counted.
    parked: BTreeMap<Generation, (Vec<u64>, usize)>,
}

impl Gauges {
    /// These builds are there from now on.
    pub(super) fn follow(&mut self, processor: &str, generations: &Generations) {
        let role = |generation| match generation {
            _ if generation == generations.current => "current",
            _ if Some(generation) == generations.previous => "previous",
            _ => "building",
        };
        let roles = generations.all().into_iter().map(|generation| (generation, role(generation)));
        self.become_now(processor, roles.collect());
    }

    /// The node does not run the processor any more.
    pub(super) fn end(&mut self, processor: &str) {
        self.become_now(processor, BTreeMap::new());
    }

    fn become_now(&mut self, processor: &str, roles: BTreeMap<Generation, &'static str>) {
        for (generation, role) in std::mem::replace(&mut self.roles, roles) {
            if self.roles.get(&generation) != Some(&role) {
                let build = Build { processor: processor.into(), generation };
                set("es_processor_lag", &build, role, 0);
                set("es_processor_parked", &build, role, 0);
            }
        }
        self.parked.retain(|generation, _| self.roles.contains_key(generation));
    }

    /// Shows where a build is.
    pub(super) fn show(&self, build: &Build, status: &ProcessorStatus, head: Position) {
        let Some(role) = self.roles.get(&build.generation) else { return };
        set("es_processor_position", build, role, status.position.0);
        set("es_processor_lag", build, role, head.0.saturating_sub(status.position.0));
        set("es_processor_parked", build, role, status.parked as u64);
    }

    /// How many sequences are parked in a build that no node works on, whose shares have these revisions. They are counted
    /// again only once those have changed.
    pub(super) async fn parked(
        &mut self,
        store: &dyn RowStore,
        build: &Build,
        revisions: Vec<u64>,
    ) -> Result<usize, StoreError> {
        if let Some((counted_at, parked)) = self.parked.get(&build.generation)
            && *counted_at == revisions
        {
            return Ok(*parked);
        }
        let parked = parked::count(store, build, &BTreeSet::new()).await?;
        self.parked.insert(build.generation, (revisions, parked));
        Ok(parked)
    }
}

fn set(name: &'static str, build: &Build, role: &'static str, value: u64) {
    let (processor, generation) = (build.processor.clone(), build.generation.to_string());
    #[expect(clippy::cast_precision_loss, reason = "a gauge for people")]
    let value = value as f64;
    metrics::gauge!(name, "processor" => processor, "generation" => generation, "role" => role).set(value);
}
