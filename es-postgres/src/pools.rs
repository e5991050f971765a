//! Connections of the user's own. What they see of the tables of projections is looked up each time that one is taken.

use std::sync::{Arc, Mutex, PoisonError};

use es_core::store::Tables;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{PgPool, SqlStr};

use crate::args::quote;
use crate::connect;
use crate::db::{Limits, Stale};
use crate::history::Histories;
use crate::sessions::Sessions;
use crate::{Db, PgOptions, schema};

#[derive(Debug)]
pub(crate) struct Pools {
    /// For transactions: plain names mean the published versions.
    pub(crate) sessions: Arc<Sessions>,
    /// For queries outside of apps: likewise.
    users: PgPool,
    pub(crate) stale: Stale,
    histories: Arc<Histories>,
    /// For queries of apps, by their own versions: those come first.
    apps: Mutex<Vec<(Vec<Version>, PgPool)>>,
}

/// A projection's name, and a version of it.
type Version = (&'static str, u32);

impl Pools {
    pub(crate) fn new(options: &PgOptions, histories: Arc<Histories>) -> Self {
        let stale = Stale::default();
        let sessions = Sessions::new(options, stale.clone(), histories.clone());
        let users = pool(options, &stale, &histories, &[]);
        Self { sessions, users, stale, histories, apps: Mutex::default() }
    }

    /// What queries of an app with these projections read through. Apps with the same versions share connections.
    pub(crate) fn db(&self, options: &PgOptions, own: &[Tables]) -> Db {
        let with_tables = own.iter().filter(|tables| !tables.schema.trim().is_empty());
        let mut own: Vec<Version> = with_tables.map(|tables| (tables.name, tables.version)).collect();
        if own.is_empty() {
            return Db::new(self.users.clone(), self.stale.clone(), Limits::of(options));
        }
        own.sort_unstable();
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let known = apps.iter().find(|(versions, _)| *versions == own);
        let pool = known.map(|(_, pool)| pool.clone()).unwrap_or_else(|| {
            let pool = pool(options, &self.stale, &self.histories, &own);
            apps.push((own, pool.clone()));
            pool
        });
        Db::new(pool, self.stale.clone(), Limits::of(options))
    }
}

/// Connections that see these versions, and of other projections what is published.
fn pool(options: &PgOptions, stale: &Stale, histories: &Arc<Histories>, own: &[Version]) -> PgPool {
    let names: Vec<_> = own.iter().map(|(name, _)| quote(name)).collect();
    let versions: Vec<_> = own.iter().map(|(_, version)| version.cast_signed().to_string()).collect();
    let function = options.schema.fill("{es}.follow");
    let statement = format!(
        "select {function}(array[{}]::text[], array[{}]::integer[])",
        names.join(", "),
        versions.join(", ")
    );
    let statement = schema::sql(statement);
    let (first, met, known, meeting) =
        (statement.clone(), stale.clone(), histories.clone(), histories.clone());
    let pool = PgPoolOptions::new()
        .max_connections(options.connections)
        .acquire_timeout(options.query_wait)
        // The search path is asked for instead: that tells as well whether the connection is alive.
        .test_before_acquire(false)
        .before_acquire(move |conn, meta| {
            // One that leads to a history that is gone may still answer.
            let usable = !met.has_met(meta.age) && !known.has_changed_within(meta.age);
            let statement = statement.clone();
            Box::pin(async move { Ok(usable && follow(conn, statement).await.is_ok()) })
        })
        .after_connect(move |conn, _| {
            let (first, histories) = (first.clone(), meeting.clone());
            Box::pin(async move {
                histories.meet(conn).await?;
                follow(conn, first).await
            })
        })
        .after_release(|conn, _| {
            // Behind the back of its user, whose future may have been dropped within a transaction.
            Box::pin(async move { Ok(connect::clean(conn).await.is_ok()) })
        });
    options.for_users().pool(pool)
}

/// Lets a connection see the generations that are current now.
async fn follow(conn: &mut PgConnection, statement: SqlStr) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(conn).await.map(drop)
}
