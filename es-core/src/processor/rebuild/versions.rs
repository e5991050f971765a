//! Other versions of a projection: what is there, and how an operator removes one.

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::cluster;
use crate::processor::worker::{
    Names, noted, remove_version, stored_version, stored_versions, take_names_from, versioned,
};
use crate::processor::{Processor, ProcessorError};
use crate::state::{InlineSet, Versions};
use crate::store::{Row, StoreError};

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

    /// Removes another version of the projection, with its rows and tables. Says whether there was one. If it has the plain
    /// names of the tables, this version takes them over, as soon as it [is ready](Self::is_ready). A program of the removed
    /// version that starts later builds it again from the log.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::RunBy`] while a live node runs it; [`ProcessorError::Inline`] if commits write it;
    /// [`ProcessorError::InUse`] for the version that this app runs; [`ProcessorError::NotReady`] if it has the plain names,
    /// and this app's version has not caught up; [`ProcessorError::NamesHeld`] if they cannot be taken from it;
    /// [`ProcessorError::Store`].
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
        let mut noted = self.noted_unrun(projection, version).await?;
        let known = stored_version(backend, &name).await?.is_some();
        if known && noted.value.published == version && self.takes_names_from(version, noted.clone()).await? {
            // Somebody may have started it since.
            noted = self.noted_unrun(projection, version).await?;
            if noted.value.published == version {
                return Err(changed());
            }
        }
        if known && !remove_version(backend, projection, version, noted).await? {
            return Err(changed());
        }
        self.cluster.wake();
        Ok(known)
    }

    /// What is noted of the versions, if no live node runs this one. Whoever starts it later changes that row.
    async fn noted_unrun(&self, projection: &str, version: u32) -> Result<Row<Versions>, ProcessorError> {
        let backend = &*self.node.backend;
        // Read before it is looked who is alive: a node that starts after that changes it.
        let (noted, name) = (noted(backend, projection).await?, format!("{projection}/{version}"));
        let alive = cluster::alive(backend).await?;
        match alive.iter().find(|(_, record)| record.runs.contains(&name)) {
            Some((node, _)) => Err(ProcessorError::RunBy { version: name, node: *node }),
            None => Ok(noted),
        }
    }

    /// Takes the plain names from a version; `false` if they are taken as it goes.
    async fn takes_names_from(&self, version: u32, noted: Row<Versions>) -> Result<bool, ProcessorError> {
        let Some(tables) = self.runner.keeps().tables() else { return Ok(false) };
        // They are not to go to one that has not caught up.
        if !self.is_ready() {
            return Err(self.not_ready());
        }
        let why = match take_names_from(&*self.node.backend, version, &tables, noted).await? {
            Names::Taken => return Ok(true),
            Names::GoAlong => return Ok(false),
            Names::Inline => "commits write another version by these names: retire that first".to_owned(),
            Names::Held(why) => why,
        };
        Err(ProcessorError::NamesHeld { version: format!("{}/{version}", tables.name), why })
    }
}

fn changed() -> ProcessorError {
    let moving = std::io::Error::other("something of it has just changed: try again");
    StoreError::transient("removing a version", moving).into()
}
