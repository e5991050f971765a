//! Other versions of a projection: what is there, and how an operator removes one.

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::cluster;
use crate::processor::worker::{noted, remove_version, stored_version, stored_versions, versioned};
use crate::processor::{Processor, ProcessorError};
use crate::state::InlineSet;
use crate::store::StoreError;

/// A version of a projection that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionStatus {
    /// Its number.
    pub version: u32,
    /// The live nodes that run it.
    pub nodes: Vec<Uuid>,
    /// Since when no live node has been seen that runs it. After
    /// [`keep_versions`](crate::processor::ProcessorOptions::keep_versions) it goes.
    pub unseen_since: Option<Timestamp>,
    /// Whether it has the plain names of its tables: what readers see that are no apps.
    pub published: bool,
}

impl Processor {
    /// The versions of the projection that the store has, in order, its own among them; none for a reactor.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be read.
    pub async fn versions(&self) -> Result<Vec<VersionStatus>, ProcessorError> {
        let Some(tables) = self.runner.keeps().tables() else { return Ok(Vec::new()) };
        let backend = &*self.node.backend;
        let alive = cluster::alive(backend).await?;
        let noted = noted(backend, tables.name).await?.value;
        let mut all = Vec::new();
        for version in stored_versions(backend, tables.name).await? {
            let name = format!("{}/{version}", tables.name);
            let runs = alive.iter().filter(|(_, node)| node.runs.contains(&name));
            let unseen = noted.unseen.get(&version);
            all.push(VersionStatus {
                version,
                nodes: runs.map(|(node, _)| *node).collect(),
                unseen_since: unseen.and_then(|since| Timestamp::from_microsecond(*since).ok()),
                published: noted.published == version,
            });
        }
        Ok(all)
    }

    /// Removes another version of the projection, with its rows and tables. Says whether there was one. A program of that
    /// version that starts later builds it again from the log.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::RunBy`] while a live node runs it; [`ProcessorError::Inline`] if commits write it;
    /// [`ProcessorError::InUse`] for the version that this app runs; [`ProcessorError::Store`].
    ///
    /// # Cancellation
    ///
    /// If its future is dropped, the version is there whole, has gone, or is on its way out, which a node that runs another
    /// version goes on with: call it again.
    pub async fn drop_version(&self, version: u32) -> Result<bool, ProcessorError> {
        let Some((projection, own)) = versioned(self.name()) else { return Ok(false) };
        let (backend, name) = (&*self.node.backend, format!("{projection}/{version}"));
        if version == own {
            return Err(ProcessorError::InUse { build: self.current().await? });
        }
        if InlineSet::read(backend).await?.names.contains(&name) {
            return Err(ProcessorError::Inline { processor: name });
        }
        // Read before it is looked who is alive: a node that starts after that changes it.
        let noted = noted(backend, projection).await?;
        let alive = cluster::alive(backend).await?;
        if let Some((node, _)) = alive.iter().find(|(_, record)| record.runs.contains(&name)) {
            return Err(ProcessorError::RunBy { version: name, node: *node });
        }
        let known = stored_version(backend, &name).await?.is_some();
        if noted.value.published == version {
            // They are not to go to one that has not caught up.
            return Err(self.not_ready());
        }
        if known && !remove_version(backend, projection, version, noted).await? {
            let moving = std::io::Error::other("something of it has just changed: try again");
            return Err(StoreError::transient("removing a version", moving).into());
        }
        self.cluster.wake();
        Ok(known)
    }
}
