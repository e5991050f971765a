//! The rebuild that somebody would write by hand: a page of events, one upsert, one checkpoint.

use std::collections::HashMap;

use sqlx::{Connection as _, PgConnection};

use super::raw::amount;

const PAGE: i64 = 1_000;

/// Fills `balances` from nothing, and tells how many events it took in.
pub async fn rebuild(conn: &mut PgConnection) -> anyhow::Result<u64> {
    sqlx::raw_sql("truncate balances, checkpoint; insert into checkpoint values (0)")
        .execute(&mut *conn)
        .await?;
    let (mut folded, mut position) = (0, 0);
    loop {
        let mut tx = conn.begin().await?;
        let page = "select position, stream, data from events where position > $1 order by position limit $2";
        let page: Vec<(i64, i64, Vec<u8>)> =
            sqlx::query_as(page).bind(position).bind(PAGE).fetch_all(&mut *tx).await?;
        let Some((last, ..)) = page.last() else { return Ok(folded) };
        position = *last;
        let mut balances = HashMap::<i64, i64>::new();
        for (_, stream, data) in &page {
            *balances.entry(*stream).or_default() += amount(data)?;
        }
        let (streams, sums): (Vec<i64>, Vec<i64>) = balances.into_iter().unzip();
        let upsert = "insert into balances select * from unnest($1::bigint[], $2::bigint[])
                      on conflict (stream) do update set balance = balances.balance + excluded.balance";
        sqlx::query(upsert).bind(streams).bind(sums).execute(&mut *tx).await?;
        sqlx::query("update checkpoint set position = $1").bind(position).execute(&mut *tx).await?;
        tx.commit().await?;
        folded += page.len() as u64;
    }
}
