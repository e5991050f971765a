//! Building some rows of a keyed view anew, while the others go on.
//!
//! A person writes which keys; the owner of each folds the log for them, up to where its range is, and replaces the rows
//! in the commit that takes the request away. Other keys of the range wait meanwhile, readers do not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::build::Build;
use super::{Processor, parked, rows};
use crate::ErrorKind;
use crate::limits::MAX_PAGE;
use crate::store::{Commit, CommitError, Position, RowStore, RowWrite, StoreError};

/// The table of one row for each build that somebody has asked something of: its revision counts.
pub(crate) const ASKED: &str = "asked";

/// A key whose row is to be built anew.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) key: String,
    rev: u64,
    /// Why it could not be done.
    pub(crate) failed: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl Asked {
    fn write(&self, build: &Build, row: Option<&Stored>) -> RowWrite {
        let row = row.map(|stored| serde_json::to_vec(stored).expect("a text serializes").into());
        RowWrite { table: build.afresh(), key: self.key.clone(), rev: self.rev, row }
    }

    pub(crate) fn done(&self, build: &Build) -> RowWrite {
        self.write(build, None)
    }

    pub(crate) fn fail(&self, build: &Build, error: &str) -> RowWrite {
        self.write(build, Some(&Stored { failed: Some(error.to_owned()) }))
    }
}

/// What was asked for in a build.
pub(crate) async fn asked(store: &dyn RowStore, build: &Build) -> Result<Vec<Asked>, StoreError> {
    let table = build.afresh();
    let all = rows::whole(store, &table).await?;
    let asked = |row: &crate::store::StoredRow| {
        let Stored { failed } = rows::decode(&table, row)?;
        Ok(Asked { key: row.key.clone(), rev: row.rev, failed })
    };
    all.iter().map(asked).collect()
}

impl Processor {
    /// Builds the rows of some keys of a view anew from the log, and waits until that is done. Readers see the old row,
    /// then the new one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if this is no keyed view, if a key is parked (retry or discard it), or if a handler cannot
    /// take in an event of it: then its row is as it was. [`StoreError::Transient`] if it is not done within `limit`; the
    /// request stands.
    pub async fn rebuild_keys(&self, keys: &[String], limit: Duration) -> Result<(), StoreError> {
        if !self.runner.traits().folds {
            let what =
                format!("{} is no keyed view: its rows cannot be told apart, rebuild all of it", self.name());
            return Err(StoreError::misuse(what));
        }
        let (backend, build) = (&*self.ground.backend, self.current().await?);
        let known = asked(backend, &build).await?;
        let mut requests = Vec::with_capacity(keys.len());
        for key in keys.iter().collect::<BTreeSet<_>>() {
            if parked::one(backend, &build, key).await?.is_some() {
                let what = format!(
                    "{key:?} is parked in {build}: retry or discard it, then there is nothing to rebuild"
                );
                return Err(StoreError::misuse(what));
            }
            let known = known.iter().find(|asked| asked.key == *key);
            if known.is_none_or(|asked| asked.failed.is_some()) {
                let asked = Asked { key: key.clone(), rev: known.map_or(0, |asked| asked.rev), failed: None };
                requests.push(asked.write(&build, Some(&Stored { failed: None })));
            }
        }
        match rows::write(backend, requests).await {
            Ok(()) => {}
            Err(CommitError::Store(error)) => return Err(error),
            // Fenced, too: somebody else asks for some of them at this very moment.
            Err(other) => return Err(StoreError::transient("asking for rows to be built anew", other)),
        }
        self.nudge_owners(&build).await;
        let done = async {
            let mut pause = Duration::from_millis(5);
            loop {
                self.desk.nudge.send_modify(|n| *n += 1);
                tokio::time::sleep(pause).await;
                match asked(backend, &build).await {
                    Ok(left) => {
                        let mut own = left.iter().filter(|asked| keys.contains(&asked.key)).peekable();
                        if own.peek().is_none() {
                            return Ok(());
                        }
                        if let Some(Asked { key, failed: Some(error), .. }) = own.find(|a| a.failed.is_some())
                        {
                            return Err(StoreError::misuse(format!(
                                "row {key:?} of {build} is as it was: {error}"
                            )));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Transient => {}
                    Err(error) => return Err(error),
                }
                pause = (pause * 2).min(Duration::from_millis(500));
            }
        };
        let late = |_| {
            let why = format!("not all rows of {build} were built anew within {limit:?}; the request stands");
            StoreError::transient("building rows anew", std::io::Error::other(why))
        };
        tokio::time::timeout(limit, done).await.map_err(late)?
    }

    /// The same for every key that an event of a tenant touched. Gives how many there were.
    ///
    /// # Errors
    ///
    /// As [`Self::rebuild_keys`], and [`StoreError::Misuse`] if an event of the tenant cannot be decoded.
    pub async fn rebuild_tenant(&self, tenant: &str, limit: Duration) -> Result<usize, StoreError> {
        let backend = &*self.ground.backend;
        let (filter, head) = (self.runner.filter(), backend.head().await?);
        let (mut keys, mut after) = (BTreeSet::new(), Position(0));
        while after < head {
            let page = backend.read(&filter, after, MAX_PAGE).await?;
            for event in page.events.iter().filter(|event| event.metadata.tenant.as_deref() == Some(tenant)) {
                let of_event = self.runner.keys(event);
                keys.extend(of_event.map_err(|e| {
                    StoreError::misuse(format!(
                        "event at {} of tenant {tenant}: {}",
                        event.place(),
                        crate::chain(&*e)
                    ))
                })?);
            }
            after = page.through;
        }
        let keys: Vec<String> = keys.into_iter().collect();
        for some in keys.chunks(1_000) {
            self.rebuild_keys(some, limit).await?;
        }
        Ok(keys.len())
    }

    /// Makes owners on other nodes look, at their next look at the others.
    pub(super) async fn nudge_owners(&self, build: &Build) {
        let backend = &*self.ground.backend;
        let key = build.to_string();
        let Ok(known) = rows::one(backend, ASKED, &key).await else { return };
        let table: Arc<str> = ASKED.into();
        let rev = known.map_or(0, |row| row.rev);
        let row = RowWrite { table, key, rev, row: Some("{}".into()) };
        // If somebody else is faster, they look as well.
        drop(backend.commit(Commit { rows: vec![row], ..Commit::default() }).await);
    }
}
