//! Rebuilding some rows of a keyed view, while the others are kept up to date.
//!
//! An operator writes which keys; the owner of each folds the log for them, up to where its range is, and replaces the
//! rows in the commit that takes the request away: some keys at a time. Other keys of the range wait for one round,
//! readers for none.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::limits::MAX_PAGE;
use crate::processor::kinds::runner::Keeps;
use crate::processor::parked::{self, Asker, Asking};
use crate::processor::{Desk, Processor, ProcessorError};
use crate::state::{Afresh, Generations, KeptAs, afresh};
use crate::store::{Backend, Position, Row, StoreError};

impl Processor {
    /// Rebuilds the rows of some keys of a view from the log, and waits until that is done. Readers see the old row, then
    /// the new one.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotRebuildable`] if this is no keyed view; [`ProcessorError::Parked`] if a key is parked;
    /// [`ProcessorError::RowFailed`] if a handler cannot handle an event of a key: then its row is as it was, and the others
    /// are rebuilt nevertheless; [`ProcessorError::Switched`] if queries were switched to another build meanwhile;
    /// [`ProcessorError::SetBack`] if it was reset: its rows come again from the log; [`ProcessorError::TimedOut`] if it is not done within `limit`: the request stands.
    pub async fn rebuild_keys(&self, keys: &[String], limit: Duration) -> Result<(), ProcessorError> {
        if !matches!(self.runner.keeps(), Keeps::Rows(_)) {
            return Err(no_view(self.name()));
        }
        Asking(self).rebuild_keys(keys, limit).await
    }

    /// The same for every key that an event of a tenant touched. Gives how many there were.
    ///
    /// # Errors
    ///
    /// As [`Self::rebuild_keys`], and [`StoreError::Corrupt`] if an event of the tenant cannot be decoded.
    pub async fn rebuild_tenant(&self, tenant: &str, limit: Duration) -> Result<usize, ProcessorError> {
        let backend = &*self.node.backend;
        let (filter, head) = (self.runner.filter(), backend.head().await?);
        let (mut keys, mut after) = (BTreeSet::new(), Position(0));
        while after < head {
            let page = backend.read(&filter, after, MAX_PAGE).await?;
            for event in page.events.iter().filter(|event| event.metadata.tenant.as_deref() == Some(tenant)) {
                let of_event = self.runner.keys(event).map_err(|error| StoreError::Corrupt {
                    what: format!("event at {} of tenant {tenant}: {}", event.place(), crate::chain(&*error)),
                })?;
                keys.extend(of_event);
            }
            after = page.through;
        }
        let keys: Vec<String> = keys.into_iter().collect();
        for some in keys.chunks(1_000) {
            self.rebuild_keys(some, limit).await?;
        }
        Ok(keys.len())
    }
}

impl<B: Backend> Desk<B> {
    /// As [`Processor::rebuild_keys`].
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn rebuild_keys(&self, keys: &[String], limit: Duration) -> Result<(), ProcessorError> {
        let known = Generations::read(&*self.backend, &self.name).await?;
        if known.and_then(|known| known.value.kept_as) != Some(KeptAs::Rows) {
            return Err(no_view(&self.name));
        }
        Asking(self).rebuild_keys(keys, limit).await
    }
}

fn no_view(processor: &str) -> ProcessorError {
    let why = "is no keyed view: its rows cannot be told apart, rebuild all of it";
    ProcessorError::NotRebuildable { processor: processor.to_owned(), why }
}

impl<A: Asker> Asking<'_, A> {
    async fn rebuild_keys(&self, keys: &[String], limit: Duration) -> Result<(), ProcessorError> {
        let (backend, of) = (self.0.backend(), self.asked_of().await?);
        let build = of.build.clone();
        let (table, keys) = (afresh(&build), keys.iter().collect::<BTreeSet<_>>());
        // What was asked of other keys is not looked at: it may be of another version, or damaged.
        let own = async || -> Result<Vec<Row<Afresh>>, StoreError> {
            let stored = table.stored(backend).await?.into_iter();
            stored.filter(|row| keys.contains(&row.key)).map(|row| table.decode(row)).collect()
        };
        let known = own().await?;
        let mut requests = Vec::with_capacity(keys.len());
        for &key in &keys {
            if parked::one(backend, &build, key).await?.is_some() {
                return Err(ProcessorError::Parked { build, key: key.clone() });
            }
            let known = known.iter().find(|row| row.key == *key);
            if known.is_none_or(|row| row.value.failed.is_some()) {
                let rev = known.map_or(0, |row| row.rev);
                requests.push(table.put(&Row { key: key.clone(), rev, value: Afresh::default() })?);
            }
        }
        if let Some(at) = parked::ask(backend, &build, requests).await? {
            return Err(ProcessorError::Asked { build, key: at.key });
        }
        self.0.wake();
        let what = format!("rebuilding {} rows of {build}", keys.len());
        self.until(what, limit, || async {
            let left = own().await?;
            self.is_as_it_was(&of).await?;
            if left.is_empty() {
                return Ok(Some(()));
            }
            match left.into_iter().find_map(|row| Some((row.key, row.value.failed?))) {
                Some((key, error)) => Err(ProcessorError::RowFailed { build: build.clone(), key, error }),
                None => Ok(None),
            }
        })
        .await
    }
}
