//! The table that a rebuild fills, for the peers on the older driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx_08::{PgConnection, PgPool};

pub const TABLE: &str =
    "create table if not exists balances (account text primary key, balance bigint not null)";

/// Counts what handlers took in.
#[derive(Clone, Default)]
pub struct Taken(Arc<AtomicU64>);

impl Taken {
    pub fn add(&self, events: usize) {
        self.0.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub fn all(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Until as many are taken in; the caller bounds how long.
    pub async fn reach(&self, all: u64) {
        while self.all() < all {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

pub async fn empty(pool: &PgPool) -> anyhow::Result<()> {
    sqlx_08::raw_sql("truncate balances").execute(pool).await?;
    Ok(())
}

pub async fn credit(conn: &mut PgConnection, account: &str, amount: i64) -> sqlx_08::Result<()> {
    let upsert = "insert into balances values ($1, $2)
                  on conflict (account) do update set balance = balances.balance + excluded.balance";
    sqlx_08::query(upsert).bind(account).bind(amount).execute(conn).await.map(drop)
}
