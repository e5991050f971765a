//! An answer that does not fit in memory: rows, as many as the caller wants.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::query::Rows;
use futures::{StreamExt as _, TryStreamExt as _};
use tour::domain::{AccountId, Deposit, Open};

use super::view::Balance;

/// Every account with more than this.
struct Above(i64);

struct Statements;

#[queries]
impl Statements {
    /// Borrows nothing, so it outlives the call. A page of rows is read when the one before it is used up.
    fn above(&self, q: Above, views: &Views) -> Rows<(AccountId, i64)> {
        let rows = views.stream::<Balance>().map_ok(|(account, row)| (account, row.amount));
        rows.try_filter(move |(_, amount)| std::future::ready(*amount > q.0)).boxed()
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).view::<Balance>().queries(Statements).start().await?;
    for (name, amount) in [("ada", 10), ("bob", 20), ("cid", 30)] {
        let id = AccountId::from(name);
        app.send(&id, Open { owner: name.to_owned() }).await?;
        app.send(&id, Deposit { amount }).await?;
    }
    app.settle(Duration::from_secs(5)).await?;

    // In the order of the keys, and no further than it is asked for.
    let mut rows = app.query(Above(15)).await?;
    let first = rows.try_next().await.map_err(anyhow::Error::from_boxed)?;
    assert_eq!(first, Some((AccountId::from("bob"), 20)));
    drop(rows);

    let all: Vec<_> = app.query(Above(0)).await?.try_collect().await.map_err(anyhow::Error::from_boxed)?;
    assert_eq!(all.len(), 3);
    crate::say(format!("{first:?} is the first of those above 15"));
    Ok(())
}
