//! Reads of keyed views: a row, or all of them as a stream.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use futures::future::Either;
use futures::{Stream, TryStreamExt, stream};

use crate::projection::fold;
use crate::projection::live::{self, Live};
use crate::projection::{View, tables_of};
use crate::store::{CURRENT, RowStore, StoreError, StoredRow, is_full};
use crate::{AggregateId, BoxError};

/// Typed reads of keyed views; provided by the app, so a query asks for `&Views`.
#[derive(Clone)]
pub struct Views {
    store: Arc<dyn RowStore>,
    live: Option<Live>,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Views")
    }
}

/// Rows read at once by a scan.
const PAGE: usize = 1_000;

impl Views {
    #[cfg(feature = "testing")]
    pub(crate) fn new(store: Arc<dyn RowStore>) -> Self {
        Self { store, live: None }
    }

    pub(crate) const fn with_live(store: Arc<dyn RowStore>, live: Live) -> Self {
        Self { store, live: Some(live) }
    }

    /// The row of one key. Of a live view: every event of the view is read for it.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or the row does not fit the type: then the view needs a new version.
    pub async fn get<V: View>(&self, key: &V::Key) -> Result<Option<V>, BoxError> {
        if let Some(log) = self.live.as_ref().and_then(Live::log_of::<V>) {
            return live::row(&*log, key).await;
        }
        let mut rows = self.store.rows(&tables_of::<V>().stored_name(), &[key.to_string()]).await?;
        rows.pop().flatten().map_or(Ok(None), |row| fold::decode(&row.key, &row.data))
    }

    /// Every row in the order of the keys' texts, handed to `each` one by one; memory stays flat, except for a live view.
    ///
    /// # Errors
    ///
    /// As the items of [`Self::stream`].
    pub async fn for_each<V: View>(&self, mut each: impl FnMut(V::Key, V) + Send) -> Result<(), BoxError> {
        let mut rows = pin!(self.stream::<V>());
        while let Some((key, row)) = rows.try_next().await? {
            each(key, row);
        }
        Ok(())
    }

    /// Every row in the order of the keys' texts. A page is read when the one before it is used up, so memory stays flat
    /// and whoever stops early reads no more. It borrows nothing: a query may give it back, as
    /// [`Rows`](crate::query::Rows).
    ///
    /// Of a live view, the log is folded first, and all rows are in memory.
    ///
    /// A row that changes meanwhile comes as it was or as it is. All rows are of one generation, also while the view is
    /// rebuilt beside it.
    ///
    /// An item is an error, and the last one, if the store cannot be read, if a row or key does not fit its type, or if
    /// what is read was taken away after a rebuild ([`StoreError::Transient`]): then ask again.
    pub fn stream<V: View>(&self) -> impl Stream<Item = Result<(V::Key, V), BoxError>> + Send + use<V> {
        if let Some(log) = self.live.as_ref().and_then(Live::log_of::<V>) {
            let all =
                async move { live::all::<V>(&*log).await.map(|all| stream::iter(all.into_iter().map(Ok))) };
            return Either::Left(stream::once(all).try_flatten());
        }
        let scan = Scan { store: self.store.clone(), name: tables_of::<V>().stored_name(), at: None };
        let pages = stream::try_unfold(scan, |mut scan| async move {
            let page = scan.page().await?;
            Ok::<_, BoxError>((!page.is_empty()).then_some((page, scan)))
        });
        let rows = pages
            .map_ok(|page| stream::iter(page.into_iter().filter_map(|row| typed::<V>(&row).transpose())));
        Either::Right(rows.try_flatten())
    }
}

fn typed<V: View>(row: &StoredRow) -> Result<Option<(V::Key, V)>, BoxError> {
    let name = || tables_of::<V>().stored_name();
    let key =
        V::Key::parse(&row.key).ok_or_else(|| format!("{:?} is not a key of view {}", row.key, name()))?;
    Ok(fold::decode(&row.key, &row.data)?.map(|value| (key, value)))
}

/// A walk through the rows of the generation that was current when it began.
struct Scan {
    store: Arc<dyn RowStore>,
    name: String,
    at: Option<Place>,
}

enum Place {
    /// Read up to a key of a table.
    After { table: String, key: String },
    /// A page was not full: it was the last.
    End,
}

impl Scan {
    /// The next rows; none at the end.
    async fn page(&mut self) -> Result<Vec<StoredRow>, StoreError> {
        let (table, page) = match self.at.take() {
            None => self.first().await?,
            Some(Place::End) => return Ok(Vec::new()),
            Some(Place::After { table, key }) => {
                let page = self.store.scan(&table, Some(&key), PAGE).await?;
                if page.is_empty() {
                    self.still_there(&table).await?;
                }
                (table, page)
            }
        };
        self.at = Some(match page.last() {
            Some(last) if is_full(&page, PAGE) => Place::After { table, key: last.key.clone() },
            _ => Place::End,
        });
        Ok(page)
    }

    /// The first rows of the table that the name stands for.
    async fn first(&self) -> Result<(String, Vec<StoredRow>), StoreError> {
        loop {
            let table = self.current().await?;
            let page = self.store.scan(&table, None, PAGE).await?;
            // It may be empty because it went in between: then there is another one by now.
            if !page.is_empty() || self.current().await? == table {
                return Ok((table, page));
            }
        }
    }

    /// The end of a table looks like a table that was taken away.
    async fn still_there(&self, table: &str) -> Result<(), StoreError> {
        if self.current().await? == table || !self.store.scan(table, None, 1).await?.is_empty() {
            return Ok(());
        }
        let why = format!("{table} was taken away after a rebuild while it was read: ask again");
        Err(StoreError::transient("reading a view", std::io::Error::other(why)))
    }

    /// The table that the name stands for now.
    async fn current(&self) -> Result<String, StoreError> {
        let found = self.store.rows(CURRENT, std::slice::from_ref(&self.name)).await?.pop().flatten();
        Ok(found.map_or_else(|| self.name.clone(), |row| String::from_utf8_lossy(&row.data).into_owned()))
    }
}
