//! The gate of a store, held by somebody else.

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::raw::connect;

/// Another session that holds it, until it is let go or dropped.
pub struct Gate(PgConnection);

impl Gate {
    pub async fn hold(url: &str) -> anyhow::Result<Self> {
        let mut conn = connect(url).await?;
        conn.execute(AssertSqlSafe(format!("select pg_advisory_lock({})", Self::key()?))).await?;
        Ok(Self(conn))
    }

    pub async fn release(self) -> anyhow::Result<()> {
        Ok(self.0.close().await?)
    }

    /// As the functions of the schema have it.
    pub fn key() -> anyhow::Result<i64> {
        let steps = es_postgres::migrations("es")?;
        let mut calls =
            steps.iter().flat_map(|step| step.sql.split("perform pg_advisory_xact_lock(").skip(1));
        calls
            .find_map(|rest| rest.split(')').next()?.parse().ok())
            .context("no function of the schema takes the gate")
    }
}
