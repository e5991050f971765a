//! Whether a projection equals a plain fold of the log, while other processes append to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use es_core::prelude::*;
use es_core::processor::Processor;
use es_core::store::{StoreError, read_all};

use crate::Report;

/// A row of a table of SQL: its key, and two numbers.
pub type Row = (String, i64, i64);

/// The log up to a position, and what was compared with it. Rows that may have changed after that position are left out.
#[derive(Debug)]
pub struct Check<'a> {
    app: &'a App,
    through: Position,
    log: Vec<RecordedEvent>,
    rows: BTreeMap<String, usize>,
    left_out: usize,
}

impl<'a> Check<'a> {
    /// Of the whole log: waits until all processors are as far.
    pub(crate) async fn of_all(app: &'a App, limit: Duration) -> anyhow::Result<Self> {
        let check = Self::up_to(app, app.store().head().await?).await?;
        for processor in app.processors() {
            let waited = processor.wait_for(check.through, limit).await;
            waited.with_context(|| format!("{:?}", processor.status()))?;
        }
        Ok(check)
    }

    /// Of the log up to a position.
    pub(crate) async fn up_to(app: &'a App, through: Position) -> anyhow::Result<Self> {
        let mut log = read_all(app.store(), &EventFilter::all(), Position(0)).await?.events;
        log.retain(|event| event.place() <= through);
        Ok(Self { app, through, log, rows: BTreeMap::new(), left_out: 0 })
    }

    pub(crate) fn report(self) -> Report {
        Report::Checked { rows: self.rows, left_out: self.left_out }
    }

    /// Compares a view.
    ///
    /// # Errors
    ///
    /// How it differs.
    pub async fn view<V: View>(&mut self) -> anyhow::Result<()> {
        self.view_but_for::<V>(|_| false).await
    }

    /// Compares a view, except for the accounts that have such events: for their rows are another program's matter.
    ///
    /// # Errors
    ///
    /// How it differs.
    pub async fn view_but_for<V: View>(
        &mut self,
        others: impl Fn(&RecordedEvent) -> bool,
    ) -> anyhow::Result<()> {
        let rows = patient(async || rows::<V>(self.app).await).await?;
        let later = self.later().await?;
        let mut changed = BTreeSet::new();
        for event in &later {
            match V::changes(event) {
                Ok(changes) => changed.extend(changes.iter().map(|change| change.key())),
                // Of a newer program; this one has rows of accounts only.
                Err(_) => changed.extend(account(event)),
            }
        }
        changed.extend(self.log.iter().chain(&later).filter(|event| others(event)).filter_map(account));
        let folded = fold::<V>(&self.log)?;
        self.compare(format!("{}/{}", V::NAME, V::VERSION), folded, rows, &changed)
    }

    /// Compares a table: what a query reads of it, and what events make of its rows.
    ///
    /// # Errors
    ///
    /// How it differs.
    pub async fn table(
        &mut self,
        name: &str,
        query: &'static str,
        fold: impl Fn(&mut BTreeMap<String, (i64, i64)>, &RecordedEvent) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let rows = patient(async || table(self.app, query).await).await?;
        let later = self.later().await?;
        let (mut folded, mut changed) = (BTreeMap::new(), BTreeMap::new());
        self.log.iter().try_for_each(|event| fold(&mut folded, event))?;
        for event in &later {
            if fold(&mut changed, event).is_err() {
                changed.entry(event.stream.to_string()).or_default();
            }
        }
        let changed = changed.into_keys().collect();
        let text = |(key, numbers): (String, (i64, i64))| (key, format!("{numbers:?}"));
        let rows = rows.into_iter().map(|(key, one, other)| text((key, (one, other)))).collect();
        self.compare(name.to_owned(), folded.into_iter().map(text).collect(), rows, &changed)
    }

    /// What was appended since; read after the rows, so that no row is newer.
    async fn later(&self) -> Result<Vec<RecordedEvent>, StoreError> {
        Ok(read_all(self.app.store(), &EventFilter::all(), self.through).await?.events)
    }

    fn compare(
        &mut self,
        name: String,
        mut folded: BTreeMap<String, String>,
        mut rows: BTreeMap<String, String>,
        changed: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        folded.retain(|key, _| !changed.contains(key));
        rows.retain(|key, _| !changed.contains(key));
        let keys: BTreeSet<&String> = folded.keys().chain(rows.keys()).collect();
        let differ = keys.iter().filter(|key| folded.get(**key) != rows.get(**key));
        let differ: Vec<String> = differ
            .map(|key| format!("{key}: the fold is {:?}, the row {:?}", folded.get(*key), rows.get(*key)))
            .collect();
        let of_it = self.app.processors().iter().find(|processor| processor.name() == name);
        ensure!(
            differ.is_empty(),
            "{name} differs from a plain fold up to {} in {} of {} rows: {}; {:?}",
            self.through,
            differ.len(),
            keys.len(),
            differ[..differ.len().min(3)].join("; "),
            of_it.map(Processor::builds)
        );
        self.left_out += changed.len();
        self.rows.insert(name, keys.len());
        Ok(())
    }
}

fn account(event: &RecordedEvent) -> Option<String> {
    event.stream.as_str().split_once('-').map(|(_, account)| account.to_owned())
}

/// Event after event, as the law of a view says.
fn fold<V: View>(log: &[RecordedEvent]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut rows = BTreeMap::<String, V>::new();
    for event in log {
        for change in V::changes(event).map_err(plain)? {
            let key = change.key();
            if let Some(row) = change.apply(rows.remove(&key)).map_err(plain)? {
                rows.insert(key, row);
            }
        }
    }
    rows.into_iter().map(|(key, row)| Ok((key, serde_json::to_string(&row)?))).collect()
}

async fn rows<V: View>(app: &App) -> Result<BTreeMap<String, String>, BoxError> {
    let mut rows = BTreeMap::new();
    let views: &Views = app.services().get()?;
    let text = |row| serde_json::to_string(&row).unwrap_or_else(|error| error.to_string());
    views.for_each::<V>(|key, row| drop(rows.insert(key.to_string(), text(row)))).await?;
    Ok(rows)
}

async fn table(app: &App, query: &'static str) -> Result<Vec<Row>, BoxError> {
    Ok(match app.services().get::<es_postgres::Db>() {
        Ok(db) => sqlx::query_as(query).fetch_all(db).await?,
        Err(_) => sqlx::query_as(query).fetch_all(app.services().get::<es_sqlite::Db>()?).await?,
    })
}

/// What is read may be taken away in a switch, and the store may be busy: then it is read again.
async fn patient<T>(mut read: impl AsyncFnMut() -> Result<T, BoxError>) -> anyhow::Result<T> {
    let mut tries = 0;
    loop {
        match read().await {
            Ok(read) => return Ok(read),
            Err(error) if tries >= 20 => return Err(plain(error)),
            Err(_) => tries += 1,
        }
    }
}

fn plain(error: BoxError) -> anyhow::Error {
    anyhow::Error::from_boxed(error)
}
