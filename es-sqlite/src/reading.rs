//! The connections that read, and the gate that each of them passes when it is taken.

use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{SqliteConnection, SqlitePool};
use tokio::sync::watch;

use crate::projection::Seen;

/// How pools of reading connections are made.
#[derive(Debug)]
pub(crate) struct Reading {
    connect: SqliteConnectOptions,
    connections: u32,
    pub(crate) gate: Gate,
}

/// Reads begin behind it. It is closed for a moment when all of them have to end: see [`wal`](crate::wal).
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

/// Opens the gate when it is dropped.
#[derive(Debug)]
pub(crate) struct Closed<'g>(&'g Gate);

impl Gate {
    pub(crate) fn close(&self) -> Closed<'_> {
        self.0.send_replace(false);
        Closed(self)
    }

    async fn pass(&self) {
        if !*self.0.borrow() {
            // The sender is there: it is this one.
            drop(self.0.subscribe().wait_for(|open| *open).await);
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(true);
    }
}

impl Reading {
    pub(crate) fn new(connect: SqliteConnectOptions, connections: u32) -> Self {
        let connect = connect.create_if_missing(false).pragma("query_only", "on");
        // KiB: there are several of them, and what they miss is in the operating system's cache.
        let connect = connect.pragma("cache_size", "-2048");
        Self { connect, connections, gate: Gate(Arc::new(watch::Sender::new(true))) }
    }

    /// Connections to which names mean what is in the file.
    pub(crate) fn pool(&self) -> SqlitePool {
        self.behind_the_gate(self.options())
    }

    /// Connections to which names mean the tables of an app's own versions, looked up when one is taken.
    pub(crate) fn pool_that_looks(&self, seen: Seen) -> SqlitePool {
        let gate = self.gate.clone();
        let options = self.set_up_by(seen.clone()).before_acquire(move |conn: &mut SqliteConnection, _| {
            let (gate, seen) = (gate.clone(), seen.clone());
            Box::pin(async move {
                gate.pass().await;
                seen.look(conn).await?;
                Ok(true)
            })
        });
        options.connect_lazy_with(self.connect.clone())
    }

    /// The same without the look, for reads that look for themselves in a transaction, which is ended afterwards.
    pub(crate) fn pool_for_reads(&self, seen: Seen) -> SqlitePool {
        let options = self.set_up_by(seen).after_release(|conn: &mut SqliteConnection, _| {
            Box::pin(async move { Ok(sqlx::query("rollback").execute(conn).await.is_ok()) })
        });
        self.behind_the_gate(options)
    }

    fn behind_the_gate(&self, options: SqlitePoolOptions) -> SqlitePool {
        let gate = self.gate.clone();
        let options = options.before_acquire(move |_, _| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.pass().await;
                Ok(true)
            })
        });
        options.connect_lazy_with(self.connect.clone())
    }

    fn set_up_by(&self, seen: Seen) -> SqlitePoolOptions {
        self.options().after_connect(move |conn: &mut SqliteConnection, _| {
            let seen = seen.clone();
            Box::pin(async move { seen.open(conn).await })
        })
    }

    fn options(&self) -> SqlitePoolOptions {
        SqlitePoolOptions::new().max_connections(self.connections).test_before_acquire(false) // a local file does not go away, and every ping is a thread switch
    }
}
