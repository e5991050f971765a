//! The warehouse: a database of its own, with guard rows beside the stock.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use es_sqlite::{GuardedTx, SqliteGuarded};
use sagas::saga::{OrRetry as _, StepError};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{SqliteConnection, SqlitePool};

use crate::money::Cents;
use crate::order::wanted::{self, Item};

const TABLES: &str = "
    create table if not exists stock (
        disc text primary key, cents integer not null, bought integer not null,
        copies integer not null check (copies >= 0)
    ) strict;
    create table if not exists reserved (
        placed text not null, disc text not null, copies integer not null, primary key (placed, disc)
    ) strict;";

/// One connection: there is one writer at a time, and the others wait in a queue.
pub(crate) async fn pool(file: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(20));
    SqlitePoolOptions::new().max_connections(1).connect_with(options).await
}

/// Opens it.
pub(crate) async fn open(file: &Path) -> anyhow::Result<SqliteGuarded> {
    let pool = pool(file).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    let stock = SqliteGuarded::new(pool);
    stock.install().await?;
    Ok(stock)
}

/// Buys what these orders want, or most of it. What was bought before stays as it is.
pub(crate) async fn fill(stock: &SqliteGuarded, orders: u32) -> Result<(), sqlx::Error> {
    let mut tx = stock.pool().begin_with("begin immediate").await?;
    for (disc, cents) in wanted::discs(orders) {
        let buy =
            "insert into stock (disc, cents, bought, copies) values (?1, ?2, ?3, ?3) on conflict do nothing";
        sqlx::query(buy).bind(disc).bind(cents).bind(wanted::COPIES).execute(&mut *tx).await?;
    }
    tx.commit().await
}

/// Takes all of the items, and says what they cost. One that is not there is a refusal, which takes the others back.
pub(crate) async fn reserve(
    tx: &mut GuardedTx,
    order: &str,
    items: &[Item],
) -> Result<Cents, StepError<String>> {
    let mut cost = 0;
    for Item { disc, copies } in items {
        let take = "update stock set copies = copies - ?2 where disc = ?1 and copies >= ?2 returning cents";
        let take = sqlx::query_scalar::<_, i64>(take).bind(disc).bind(copies);
        let Some(cents) = take.fetch_optional(&mut **tx).await.or_retry()? else {
            return Err(StepError::Refused(format!("{disc} is sold out")));
        };
        let note = "insert into reserved (placed, disc, copies) values (?1, ?2, ?3)";
        sqlx::query(note).bind(order).bind(disc).bind(copies).execute(&mut **tx).await.or_retry()?;
        cost += cents * i64::from(*copies);
    }
    Ok(Cents(cost))
}

/// Gives back all that was taken for an order.
pub(crate) async fn release(tx: &mut SqliteConnection, order: &str) -> Result<(), sqlx::Error> {
    let give = "update stock set copies = stock.copies + reserved.copies from reserved
        where reserved.disc = stock.disc and reserved.placed = ?1";
    sqlx::query(give).bind(order).execute(&mut *tx).await?;
    sqlx::query("delete from reserved where placed = ?1").bind(order).execute(tx).await?;
    Ok(())
}

/// What is taken for each order, by the key of its saga.
pub(crate) async fn taken(stock: &SqliteGuarded) -> Result<BTreeMap<String, Vec<Item>>, sqlx::Error> {
    let all = "select placed, disc, copies from reserved order by placed, disc";
    let rows: Vec<(String, String, u32)> = sqlx::query_as(all).fetch_all(stock.pool()).await?;
    let mut taken = BTreeMap::<String, Vec<Item>>::new();
    for (order, disc, copies) in rows {
        taken.entry(order).or_default().push(Item { disc, copies });
    }
    Ok(taken)
}

/// The first disc of which something is missing, or too much there.
pub(crate) async fn first_wrong(stock: &SqliteGuarded) -> Result<Option<String>, sqlx::Error> {
    let wrong = "select disc from stock where bought - copies !=
        (select coalesce(sum(copies), 0) from reserved where reserved.disc = stock.disc) order by disc";
    sqlx::query_scalar(wrong).fetch_optional(stock.pool()).await
}
