//! Pools of 32 connections, of either version of the driver, that do not ask "are you there" each time.

const CONNECTIONS: u32 = 32;

pub async fn pool(url: &str) -> anyhow::Result<sqlx::PgPool> {
    let options = sqlx::postgres::PgPoolOptions::new().max_connections(CONNECTIONS);
    Ok(options.test_before_acquire(false).connect(url).await?)
}

pub fn options_08() -> sqlx_08::postgres::PgPoolOptions {
    sqlx_08::postgres::PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false)
}

pub async fn pool_08(url: &str) -> anyhow::Result<sqlx_08::PgPool> {
    Ok(options_08().connect(url).await?)
}
