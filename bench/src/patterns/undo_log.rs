//! An update in a call whose database can undo it by itself, and what is less than that.

use std::ops::DerefMut;

use anyhow::{bail, ensure};
use es_core::guard::{Confirming, Guard, GuardKey, Guarded, GuardedDatabase};
use es_core::id::Ids;
use es_postgres::{PgGuarded, PgUndoLog};
use sqlx::PgConnection;

use super::ground::{Done, Ground};

const TABLE: &str = "create table items (id bigint primary key, left_over bigint not null)";
const FILL: &str = "insert into items select n, 100 from generate_series(0, $1 - 1) n";
const UPDATE: &str = "update items set left_over = left_over - 1 where id >= $1 and id < $2";

/// In a call of a table that is tracked, so many rows of it.
pub async fn noted<const ROWS: u64>(ground: Ground) -> anyhow::Result<Done> {
    let log = tracked::<ROWS>(&ground).await?;
    let done = ground.timed(|n| calls::<_, ROWS>(log.clone(), n, false)).await?;
    let undecided = log.undecided().await?;
    ensure!(undecided.len() as u64 == ground.load.all(), "{} calls are undecided", undecided.len());
    ensure!(undecided.iter().all(|call| call.rows.unsigned_abs() == ROWS), "{:?}", undecided.first());
    is_done::<ROWS>(&ground).await?;
    Ok(done)
}

/// The same, and then that is confirmed.
pub async fn confirmed<const ROWS: u64>(ground: Ground) -> anyhow::Result<Done> {
    let log = tracked::<ROWS>(&ground).await?;
    let done = ground.timed(|n| calls::<_, ROWS>(log.clone(), n, true)).await?;
    let undecided = log.undecided().await?;
    ensure!(undecided.is_empty(), "{} calls are undecided", undecided.len());
    ground.has(&ground.left, "select count(*) from es_guard.guards where state = 'confirmed'").await?;
    is_done::<ROWS>(&ground).await?;
    Ok(done)
}

/// In a call of a database with guard rows alone: what an undo log adds to.
pub async fn guarded<const ROWS: u64>(ground: Ground) -> anyhow::Result<Done> {
    fill::<ROWS>(&ground).await?;
    let database = PgGuarded::new(ground.left.clone());
    database.install().await?;
    let done = ground.timed(|n| calls::<_, ROWS>(database.clone(), n, false)).await?;
    is_done::<ROWS>(&ground).await?;
    Ok(done)
}

/// A statement, and nothing else.
pub async fn bare<const ROWS: u64>(ground: Ground) -> anyhow::Result<Done> {
    fill::<ROWS>(&ground).await?;
    let each = |n| {
        let pool = ground.left.clone();
        async move { update::<ROWS>(&mut *pool.acquire().await?, n).await }
    };
    let done = ground.timed(each).await?;
    is_done::<ROWS>(&ground).await?;
    Ok(done)
}

async fn tracked<const ROWS: u64>(ground: &Ground) -> anyhow::Result<PgUndoLog> {
    fill::<ROWS>(ground).await?;
    let log = PgUndoLog::new(ground.left.clone());
    log.install().await?;
    log.track(&["public.items"]).await?;
    Ok(log)
}

/// Each call has rows of its own.
async fn fill<const ROWS: u64>(ground: &Ground) -> anyhow::Result<()> {
    sqlx::raw_sql(TABLE).execute(&ground.left).await?;
    let rows = i64::try_from(ground.load.all() * ROWS)?;
    sqlx::query(FILL).bind(rows).execute(&ground.left).await?;
    sqlx::raw_sql("analyze items").execute(&ground.left).await?;
    Ok(())
}

async fn update<const ROWS: u64>(conn: &mut PgConnection, n: u64) -> anyhow::Result<()> {
    let (from, to) = (i64::try_from(n * ROWS)?, i64::try_from((n + 1) * ROWS)?);
    let done = sqlx::query(UPDATE).bind(from).bind(to).execute(conn).await?;
    ensure!(done.rows_affected() == ROWS, "{} rows", done.rows_affected());
    Ok(())
}

async fn calls<D, const ROWS: u64>(database: D, n: u64, confirms: bool) -> anyhow::Result<()>
where
    D: GuardedDatabase,
    D::Tx: DerefMut<Target = PgConnection>,
{
    let call = Guard::new(&database, GuardKey::new(Ids::default().next(), "work/take")?, 0);
    let Guarded::Run(mut tx) = call.forward().await? else { bail!("it has run before") };
    update::<ROWS>(&mut tx, n).await?;
    call.done(tx, "null".to_owned()).await?;
    if confirms {
        let Confirming::Run(tx, output) = call.confirm().await? else { bail!("it was confirmed before") };
        call.confirmed(tx, output).await?;
    }
    Ok(())
}

/// Makes sure that each row was changed once.
async fn is_done<const ROWS: u64>(ground: &Ground) -> anyhow::Result<()> {
    let changed = sqlx::query_scalar("select count(*) from items where left_over = 99");
    let changed: i64 = changed.fetch_one(&ground.left).await?;
    ensure!(changed.unsigned_abs() == ground.load.all() * ROWS, "{changed} rows were changed");
    Ok(())
}
