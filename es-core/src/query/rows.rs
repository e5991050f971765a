//! Answers that are too large for memory.

use futures::stream::BoxStream;

use crate::BoxError;

/// An answer row by row: what a query returns that is too large for memory. The caller takes as much as it wants; what
/// it has not asked for is not read.
///
/// It outlives the call, so it owns what it reads from: [`Views::stream`](crate::Views::stream) borrows nothing, and the
/// handle of a SQL backend is cheap to clone.
///
/// ```
/// use es_core::prelude::*;
/// use es_core::query::Rows;
/// use futures::{StreamExt, TryStreamExt};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Opened { owner: String }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "account")]
/// # enum AccountEvent { Opened(Opened) }
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Balance { amount: u64 }
///
/// #[view(name = "balance", key = String)]
/// impl Balance {
///     # #[on(by = owner)]
///     fn opened(&mut self, _: &Opened) {}
/// }
///
/// struct Above(u64);
/// struct Balances;
///
/// #[queries]
/// impl Balances {
///     fn above(&self, q: Above, views: &Views) -> Rows<(String, u64)> {
///         let rows = views.stream::<Balance>().map_ok(|(account, row)| (account, row.amount));
///         rows.try_filter(move |(_, amount)| std::future::ready(*amount > q.0)).boxed()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let app = App::on(es_core::memory::MemoryBackend::new()).view::<Balance>().queries(Balances).start().await?;
/// let mut rows = app.query(Above(100)).await?;
/// while let Some((account, amount)) = rows.try_next().await? {
///     println!("{account}: {amount}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// On a SQL backend through its `Db`, in pages too: no connection is held while the caller thinks.
///
/// ```text
/// fn all(&self, _: All, db: &Db) -> Rows<(String, i64)> {
///     let page = |(db, after): (Db, String)| async move {
///         let sql = "select account, amount from balances where account > $1 order by account limit 1000";
///         let page: Vec<(String, i64)> = sqlx::query_as(sql).bind(after).fetch_all(&db).await?;
///         let next = page.last().map(|(account, _)| (db, account.clone()));
///         Ok(next.map(|next| (page, next)))
///     };
///     let pages = stream::try_unfold((db.clone(), String::new()), page);
///     pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
/// }
/// ```
pub type Rows<T> = BoxStream<'static, Result<T, BoxError>>;
