//! What a node sees of its processors, at one look: read once for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::context::NodeContext;
use super::coordinator::AGAIN;
use super::rename::follow;
use super::versions::versions_of;
use crate::cluster::{Cluster, View};
use crate::slices::Slices;
use crate::state::{
    Build, CodeRecord, Control, Generations, InlineSet, Versions, asked, codes, control, generations,
    versions,
};
use crate::store::{Position, Row, StoreError, Table};

/// What a node sees.
#[derive(Debug)]
pub(crate) struct Sight {
    pub(crate) view: Arc<View>,
    pub(crate) head: Position,
    /// A row that cannot be read stops its processor, and no other.
    generations: BTreeMap<String, Result<Row<Generations>, StoreError>>,
    control: BTreeMap<String, Result<Row<Control>, StoreError>>,
    codes: BTreeMap<String, Result<Row<CodeRecord>, StoreError>>,
    noted: BTreeMap<String, Result<Row<Versions>, StoreError>>,
    /// What commits write; nothing if that cannot be read.
    pub(super) inline: InlineSet,
    /// How often something was asked of a build.
    asked: BTreeMap<String, u64>,
}

impl Sight {
    /// Which builds a processor has.
    pub(crate) fn generations(&self, processor: &str) -> Result<Generations, StoreError> {
        let row = self.generations.get(processor).cloned().transpose()?;
        Ok(row.map(|row| row.value).filter(|known| !known.goes()).unwrap_or_default())
    }

    /// Whether its version has gone or goes. Of one that runs, it was removed while no node with it was seen.
    pub(crate) fn is_removed(&self, processor: &str) -> bool {
        self.generations.get(processor).is_some_and(|row| row.as_ref().is_ok_and(|row| row.value.goes()))
    }

    /// The versions of a projection that are stored, those that go among them.
    pub(crate) fn versions<'s>(&'s self, projection: &'s str) -> impl Iterator<Item = u32> + use<'s> {
        let is_there =
            |row: &Result<Row<Generations>, StoreError>| row.as_ref().is_ok_and(|row| !row.value.retired);
        let stored =
            self.generations.iter().filter(move |(_, row)| is_there(row)).map(|(name, _)| name.as_str());
        versions_of(stored, projection)
    }

    /// The versions of projections that have gone, by their stored names.
    fn gone(&self) -> BTreeSet<String> {
        let rows = self.generations.iter();
        let gone = rows.filter(|(_, row)| row.as_ref().is_ok_and(|row| row.value.retired));
        gone.map(|(name, _)| name.clone()).collect()
    }

    /// What is noted of the versions of a projection.
    pub(crate) fn noted(&self, projection: &str) -> Result<Row<Versions>, StoreError> {
        let row = self.noted.get(projection).cloned().transpose()?;
        Ok(row.unwrap_or_else(|| Row::new(projection, Versions::default())))
    }

    /// What an operator asked of it.
    pub(crate) fn control(&self, processor: &str) -> Result<Control, StoreError> {
        Ok(self.control.get(processor).cloned().transpose()?.map(|row| row.value).unwrap_or_default())
    }

    /// The code that makes a build, if that is known.
    pub(crate) fn code(&self, build: &str) -> Result<Option<CodeRecord>, StoreError> {
        let row = self.codes.get(build).cloned().transpose()?;
        Ok(row.map(|row| row.value).filter(|code| code.known().is_some()))
    }

    /// The name that a processor has now, if another program has given it one.
    pub(crate) fn renamed(&self, processor: &str) -> Option<&str> {
        follow(processor, |name| self.code_of(name)?.renamed.as_deref())
    }

    /// Whether a node that runs a processor under a name is believed to be on its way.
    pub(crate) fn starts(&self, processor: &str) -> bool {
        self.code_of(processor).is_some_and(|code| code.until > self.view.now)
    }

    fn code_of(&self, processor: &str) -> Option<&CodeRecord> {
        Some(&self.codes.get(&Build::first(processor).to_string())?.as_ref().ok()?.value)
    }

    pub(crate) fn asked(&self, build: &str) -> u64 {
        self.asked.get(build).copied().unwrap_or_default()
    }
}

/// Looks at the rows of processors each time the node has looked at the others, and as soon as an operator asks for
/// something.
pub(crate) struct Observer {
    node: NodeContext,
    cluster: Arc<Cluster>,
    sights: watch::Sender<Option<Arc<Sight>>>,
}

impl Observer {
    pub(crate) fn new(
        node: NodeContext,
        cluster: Arc<Cluster>,
        sights: watch::Sender<Option<Arc<Sight>>>,
    ) -> Self {
        Self { node, cluster, sights }
    }

    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut views = self.cluster.views();
        let backend = &self.node.backend;
        let mut touched = [control().name(), generations().name(), asked().name(), codes().name()]
            .map(|table| backend.watch_rows(table, Slices::ALL));
        let [controls, builds, requests, makers] = &mut touched;
        let mut failed = false;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN), if failed => {}
                changed = views.changed() => if changed.is_err() { return },
                Ok(()) = controls.changed() => {}
                Ok(()) = builds.changed() => {}
                Ok(()) = requests.changed() => {}
                Ok(()) = makers.changed() => {}
            }
            [&mut *controls, &mut *builds, &mut *requests, &mut *makers]
                .into_iter()
                .for_each(watch::Receiver::mark_unchanged);
            let Some(view) = views.borrow_and_update().clone() else { continue };
            let looked = self.look(view).await;
            failed = looked.is_err();
            match looked {
                Ok(sight) => {
                    self.cluster.leave_out(sight.gone());
                    self.sights.send_replace(Some(Arc::new(sight)));
                }
                Err(error) => {
                    tracing::debug!(
                        error = crate::chain(&error),
                        "the rows of processors cannot be read now"
                    );
                }
            }
        }
    }

    async fn look(&self, view: Arc<View>) -> Result<Sight, StoreError> {
        let backend = &*self.node.backend;
        // After the shares: none is further than the log.
        let head = backend.head().await?;
        let asked = asked().stored(backend).await?.into_iter().map(|row| (row.key, row.rev)).collect();
        let (generations, control) = (self.each(&generations()).await?, self.each(&control()).await?);
        let codes = self.each(&codes()).await?;
        let noted = self.each(&versions()).await?;
        let inline = match InlineSet::read(backend).await {
            Err(StoreError::Corrupt { .. }) => InlineSet::default(),
            read => read?,
        };
        Ok(Sight { view, head, generations, control, codes, noted, inline, asked })
    }

    async fn each<T: serde::de::DeserializeOwned>(
        &self,
        table: &Table<T>,
    ) -> Result<BTreeMap<String, Result<Row<T>, StoreError>>, StoreError> {
        let rows = table.stored(&*self.node.backend).await?;
        Ok(rows.into_iter().map(|row| (row.key.clone(), table.decode(row))).collect())
    }
}
