//! The tables of SQL projections, generation by generation.
//!
//! Which tables a schema makes is seen in the catalogue after it ran, so a projection names nothing but its DDL. The
//! first generation is made where its user's search path puts it; each later one in a schema of its own, with the same
//! DDL. Queries find the tables of the current generation by their search path ([`Tx`], [`crate::Db`]).

mod compare;
mod generation_schema;
mod make;

use es_core::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Transaction as _};
use sqlx::Row as _;

pub(crate) use self::compare::compare;
use self::make::make;
use crate::schema::{SchemaName, quoted, sql};
use crate::{Tx, error};

/// What `projections` says about one generation.
#[derive(Clone, Debug)]
struct Installed {
    version: i32,
    generation: i32,
    current: bool,
    /// The schema that was made for it.
    place: Option<String>,
    /// The DDL that made its tables.
    ddl: String,
    /// What the DDL made, as JSON.
    objects: String,
}

/// A transaction in which nobody else makes, drops or switches tables of projections.
#[derive(Debug)]
pub(crate) struct Work<'w> {
    tx: Tx,
    schema: &'w SchemaName,
    tables: &'w Tables,
    generation: Generation,
    installed: Vec<Installed>,
}

impl<'w> Work<'w> {
    /// Two processes at once: one waits.
    pub(crate) async fn begin(
        mut tx: Tx,
        schema: &'w SchemaName,
        tables: &'w Tables,
        generation: Generation,
    ) -> Result<Self, StoreError> {
        let failed = |e| error::store("looking at the generations of a projection", e);
        let lock = "select pg_advisory_xact_lock($1 # hashtextextended('projections', 0))";
        sqlx::query(lock).bind(schema.gate()).execute(&mut *tx).await.map_err(failed)?;
        let known = schema.fill(
            "select version, generation, current, place, schema, objects::text from {es}.projections where name = $1",
        );
        let rows = sqlx::query(sql(known)).bind(tables.name).fetch_all(&mut *tx).await.map_err(failed)?;
        let read = |row: &sqlx::postgres::PgRow| Installed {
            version: row.get_unchecked(0),
            generation: row.get_unchecked(1),
            current: row.get_unchecked(2),
            place: row.get_unchecked(3),
            ddl: row.get_unchecked(4),
            objects: row.get_unchecked(5),
        };
        let installed = rows.iter().map(read).collect();
        Ok(Self { tx, schema, tables, generation, installed })
    }

    fn version(&self) -> i32 {
        self.tables.version.cast_signed()
    }

    /// The generation that this is about, if it is there.
    fn this(&self) -> Option<Installed> {
        let generation = self.generation.cast_signed();
        let mut all = self.installed.iter();
        all.find(|one| one.version == self.version() && one.generation == generation).cloned()
    }

    /// Makes the tables, if they are not there. With the first generation, other versions go.
    pub(crate) async fn install(mut self) -> Result<(), StoreError> {
        let failed = |e| error::store("installing a projection", e);
        let (mine, others): (Vec<_>, Vec<_>) =
            self.installed.clone().into_iter().partition(|one| one.version == self.version());
        if mine.iter().any(|one| one.ddl != self.tables.schema) {
            return Err(self.changed());
        }
        let first = self.generation == 1;
        let there = self.this().is_some();
        if there && (others.is_empty() || !first) {
            return self.tx.rollback().await;
        }
        if first {
            for other in others {
                self.remove(&other).await.map_err(failed)?;
            }
            let leftovers = self.schema.fill("select {es}.delete_other_versions($1, $2)");
            let query = sqlx::query(sql(leftovers)).bind(self.tables.name).bind(self.version());
            query.execute(&mut *self.tx).await.map_err(failed)?;
        }
        if !there {
            self.add().await?;
        }
        match self.tx.commit().await {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
            Err(other) => Err(StoreError::transient("installing a projection", other)),
        }
    }

    /// Makes the tables anew, deletes the rows, and applies the commit.
    pub(crate) async fn clear(mut self, commit: Commit) -> Result<Committed, CommitError> {
        let failed = |e| error::store("emptying a projection", e);
        match self.this() {
            None => self.add().await?,
            Some(this) => {
                self.drop_objects(&this).await.map_err(failed)?;
                let objects =
                    make(&mut self.tx, self.schema, self.tables, self.generation, this.place.as_deref())
                        .await?;
                let note = "update {es}.projections set schema = $4, objects = $5::jsonb
                            where (name, version, generation) = ($1, $2, $3)";
                let query = self.about(note).bind(self.tables.schema).bind(objects);
                query.execute(&mut *self.tx).await.map_err(failed)?;
            }
        }
        self.tx.clear_rows(self.tables.rows(self.generation));
        self.end(commit).await
    }

    /// Drops the tables, deletes the rows, and applies the commit.
    pub(crate) async fn uninstall(mut self, commit: Commit) -> Result<Committed, CommitError> {
        let failed = |e| error::store("dropping a generation of a projection", e);
        if let Some(this) = self.this() {
            if this.current {
                let what = format!(
                    "generation {} of {} is the one that queries read: switch to another one first",
                    self.generation,
                    self.tables.stored_name()
                );
                return Err(StoreError::misuse(what).into());
            }
            // Whoever reads these tables still is waited for, but not long: others wait behind this.
            let brief = "select set_config('lock_timeout', '2s', true)
                         where current_setting('lock_timeout')::interval not between '1ms' and '2s'";
            sqlx::query(brief).execute(&mut *self.tx).await.map_err(failed)?;
            self.remove(&this).await.map_err(failed)?;
        }
        self.tx.clear_rows(self.tables.rows(self.generation));
        self.end(commit).await
    }

    /// Makes this generation the one that queries read, and applies the commit.
    pub(crate) async fn switch(mut self, commit: Commit) -> Result<Committed, CommitError> {
        let failed = |e| error::store("switching a projection", e);
        if self.this().is_none() {
            let (generation, name) = (self.generation, self.tables.stored_name());
            let what = format!("generation {generation} of {name} is not installed: install it first");
            return Err(StoreError::misuse(what).into());
        }
        // One after the other: there is never more than one.
        for change in [
            "update {es}.projections set current = false
             where (name, version) = ($1, $2) and current and generation <> $3",
            "update {es}.projections set current = true
             where (name, version, generation) = ($1, $2, $3) and not current",
        ] {
            self.about(change).execute(&mut *self.tx).await.map_err(failed)?;
        }
        self.end(commit).await
    }

    async fn end(mut self, commit: Commit) -> Result<Committed, CommitError> {
        *self.tx.staged() = commit;
        self.tx.commit().await
    }

    /// Makes the tables of a generation that is not there.
    async fn add(&mut self) -> Result<(), StoreError> {
        let failed = |e| error::store("installing a projection", e);
        let without = self.generation == 1 || self.tables.schema.trim().is_empty();
        let place = match without {
            true => None,
            false => {
                Some(generation_schema::make(&mut self.tx, self.schema, self.tables, self.generation).await?)
            }
        };
        let objects = make(&mut self.tx, self.schema, self.tables, self.generation, place.as_deref()).await?;
        let mine = self.installed.iter().filter(|one| one.version == self.version());
        let current = self.generation == 1 && !mine.into_iter().any(|one| one.current);
        let note = "insert into {es}.projections (name, version, generation, current, place, schema, objects)
                    values ($1, $2, $3, $4, $5, $6, $7::jsonb)";
        let query = self.about(note).bind(current).bind(place).bind(self.tables.schema).bind(objects);
        query.execute(&mut *self.tx).await.map_err(failed).map(drop)
    }

    /// Drops a generation: what its DDL made, the schema that was made for it, and the note of it.
    async fn remove(&mut self, one: &Installed) -> Result<(), sqlx::Error> {
        self.drop_objects(one).await?;
        if let Some(place) = &one.place {
            // What else is in there belongs to somebody else: that is refused.
            let statement = format!("drop schema if exists {}", quoted(place));
            sqlx::raw_sql(sql(statement)).execute(&mut *self.tx).await?;
        }
        let forget =
            self.schema.fill("delete from {es}.projections where (name, version, generation) = ($1, $2, $3)");
        let query = sqlx::query(sql(forget)).bind(self.tables.name).bind(one.version).bind(one.generation);
        query.execute(&mut *self.tx).await.map(drop)
    }

    async fn drop_objects(&mut self, one: &Installed) -> Result<(), sqlx::Error> {
        let statement = self.schema.fill("select {es}.drop_objects($1::jsonb)");
        sqlx::query(sql(statement)).bind(&one.objects).execute(&mut *self.tx).await.map(drop)
    }

    /// A statement about this generation: `$1` to `$3`.
    fn about(&self, statement: &str) -> crate::readers::PgQuery {
        let query = sqlx::query(sql(self.schema.fill(statement)));
        query.bind(self.tables.name).bind(self.version()).bind(self.generation.cast_signed())
    }

    fn changed(&self) -> StoreError {
        let Tables { name, version, .. } = self.tables;
        StoreError::misuse(format!(
            "the schema of projection {name} is not the one that made the tables of its version {version}: \
             raise `version`, and it is built anew"
        ))
    }
}
