//! Connections of an app: in there the names of its projections' tables mean those of its own versions.
//!
//! Where its version has the plain names, they mean that already. Else the connection has temporary views of these names,
//! which SQLite finds before the tables of the file. With each read, one look says whether what names mean has changed
//! since the connection was set up; for a query of the app's [`Db`](crate::Db) it is in the query's own snapshot.

use std::sync::Arc;

use es_core::store::Tables;
use sqlx::SqliteConnection;

use super::builds::{self, Build, Builds};
use crate::schema::{quoted, sql};

const LOOK: &str = "select (select changed from main.es_names) is (select changed from temp.es_seen)";
/// Begins a read: the transaction's snapshot is that of the look.
const BEGIN: &str =
    concat!("begin; ", "select (select changed from main.es_names) is (select changed from temp.es_seen)");
/// Temporary views count as writing. Nothing else runs on the connection meanwhile.
const OPEN: &str = "pragma query_only = off; pragma temp_store = memory;
    create table temp.es_seen (changed integer); pragma query_only = on";

/// The versions whose tables an app reads.
#[derive(Clone, Debug)]
pub(crate) struct Seen(Arc<[Tables]>);

impl Seen {
    /// `None` if none of them has tables of its own.
    pub(crate) fn new(own: &[Tables]) -> Option<Self> {
        let own: Arc<[Tables]> =
            own.iter().filter(|tables| !tables.schema.trim().is_empty()).copied().collect();
        (!own.is_empty()).then_some(Self(own))
    }

    /// Sets up a connection that has just been opened.
    pub(crate) async fn open(&self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(OPEN).execute(&mut *conn).await?;
        self.set_up(conn).await
    }

    /// Sets it up again if names have another meaning by now.
    pub(crate) async fn look(&self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if sqlx::query_scalar(LOOK).fetch_one(&mut *conn).await? { Ok(()) } else { self.set_up(conn).await }
    }

    /// Begins a transaction in which names mean the right tables.
    pub(crate) async fn begin(&self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        while !sqlx::query_scalar(BEGIN).fetch_one(&mut *conn).await? {
            sqlx::raw_sql("rollback").execute(&mut *conn).await?;
            self.set_up(conn).await?;
        }
        Ok(())
    }

    /// In one snapshot. The transaction writes to the temporary schema, and to no file. A connection on which that was
    /// dropped midway is not used again: the pool closes it.
    async fn set_up(&self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("pragma query_only = off; begin").execute(&mut *conn).await?;
        self.make_views(conn).await?;
        sqlx::raw_sql("commit; pragma query_only = on").execute(conn).await?;
        Ok(())
    }

    async fn make_views(&self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let old = "select name from temp.sqlite_schema where type = 'view'";
        let old: Vec<String> = sqlx::query_scalar(old).fetch_all(&mut *conn).await?;
        let mut text: String = old.iter().map(|name| format!("drop view temp.{};", quoted(name))).collect();
        for tables in &*self.0 {
            let builds = Builds::read(conn, tables.name).await.map_err(|e| sqlx::Error::Decode(e.into()))?;
            text.extend(views(tables, &builds));
        }
        text.push_str("delete from temp.es_seen; insert into temp.es_seen select changed from main.es_names");
        sqlx::raw_sql(sql(text)).execute(conn).await?;
        Ok(())
    }
}

/// What makes the views of one projection; nothing if its names mean the right tables without.
fn views(tables: &Tables, builds: &Builds) -> Vec<String> {
    if builds.published.is_none_or(|version| version == tables.version) {
        return Vec::new();
    }
    let view = |name: &str, of: &str| {
        let (name, of) = (quoted(name), quoted(of));
        format!("create view temp.{name} as select * from main.{of};")
    };
    let own = builds.current(tables.version);
    let mut views: Vec<String> =
        own.into_iter().flat_map(|own| own.tables().map(|name| view(name, &own.own(name)))).collect();
    // What only the other version has is not there: a table of no name says so.
    let missing = builds::suffix(tables.version, 0);
    let others = builds.plain().into_iter().flat_map(Build::tables);
    let others = others.filter(|name| !own.is_some_and(|own| own.tables().any(|ours| ours == *name)));
    views.extend(others.map(|name| view(name, &format!("{name}{missing}"))));
    views
}
