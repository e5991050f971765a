//! Making, emptying, switching and dropping the tables of projections.

use es_core::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Transaction as _};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::generation_schema;
use super::make::{NotMade, make};
use super::plain_names::PlainNames;
use crate::schema::{SchemaName, quoted, sql};
use crate::{PgBackend, Tx, error};

/// What `projections` says about one generation.
#[derive(Clone, Debug)]
pub(super) struct Installed {
    pub(super) version: u32,
    pub(super) generation: Generation,
    pub(super) current: bool,
    /// The schema that was made for it; none if its tables have the plain names themselves.
    pub(super) place: Option<String>,
    /// The DDL that made its tables.
    pub(super) ddl: String,
    /// What the DDL made, as JSON.
    pub(super) objects: String,
}

/// A transaction in which no other process makes, drops, switches or names tables of projections.
#[derive(Debug)]
pub(crate) struct Work<'w> {
    pub(super) backend: &'w PgBackend,
    pub(super) schema: &'w SchemaName,
    pub(super) tx: Tx,
    /// The projection.
    pub(super) name: &'w str,
    pub(super) installed: Vec<Installed>,
    /// The plain names of its tables, if a version has them.
    pub(super) plain: Option<PlainNames>,
}

/// Where the tables of a first generation are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// In a schema of their own, if the account may make one.
    Schema,
    /// Where the search path puts them.
    SearchPath,
}

/// Makes the tables of a generation, if they are not there; or only tries whether they can be made, and undoes it.
pub(crate) async fn install(
    backend: &PgBackend,
    tables: &Tables,
    generation: Generation,
    keeps: bool,
) -> Result<(), StoreError> {
    // Mostly they are there: then nobody waits for a removal that takes long.
    if is_installed(backend, tables, generation).await? {
        return Ok(());
    }
    let mut home = Home::Schema;
    loop {
        let work = Work::begin(backend, tables.name).await?;
        match work.install(tables, generation, home, keeps).await {
            // A DDL that says where its tables are can have one generation.
            Err(NotMade::Beyond(_)) if home == Home::Schema => home = Home::SearchPath,
            outcome => return outcome.map_err(StoreError::from),
        }
    }
}

async fn is_installed(
    backend: &PgBackend,
    tables: &Tables,
    generation: Generation,
) -> Result<bool, StoreError> {
    let there = "select from {es}.projections where (name, version, generation, schema) = ($1, $2, $3, $4)";
    let there = backend.0.options.schema.fill(there);
    let query = || {
        let query = sqlx::query(sql(there.clone())).bind(tables.name).bind(tables.version.cast_signed());
        query.bind(generation.cast_signed()).bind(tables.schema)
    };
    let rows = backend.0.shared.readers.rows("looking at the generations of a projection", query).await?;
    Ok(!rows.is_empty())
}

impl<'w> Work<'w> {
    /// Two processes at once: one waits.
    pub(crate) async fn begin(backend: &'w PgBackend, name: &'w str) -> Result<Self, StoreError> {
        let failed = |e| error::store("looking at the generations of a projection", e);
        let mut tx = Tx::begin(&backend.0).await?;
        let lock = "select pg_advisory_xact_lock($1 # hashtextextended('projections', 0))";
        let schema = &backend.0.options.schema;
        sqlx::query(lock).bind(schema.gate()).execute(&mut *tx).await.map_err(failed)?;
        let mut work = Self { backend, schema, tx, name, installed: Vec::new(), plain: None };
        work.look().await.map_err(failed)?;
        Ok(work)
    }

    /// Reads what is there now.
    pub(super) async fn look(&mut self) -> Result<(), sqlx::Error> {
        let known = "select version, generation, current, place, schema, objects::text from {es}.projections where name = $1";
        let rows = self.about(known).fetch_all(&mut *self.tx).await?;
        let read = |row: &PgRow| Installed {
            version: row.get_unchecked::<i32, _>(0).cast_unsigned(),
            generation: row.get_unchecked::<i32, _>(1).cast_unsigned(),
            current: row.get_unchecked(2),
            place: row.get_unchecked(3),
            ddl: row.get_unchecked(4),
            objects: row.get_unchecked(5),
        };
        self.installed = rows.iter().map(read).collect();
        let known = "select version, base, views::text from {es}.published where name = $1";
        let row = self.about(known).fetch_optional(&mut *self.tx).await?;
        self.plain = row.as_ref().map(PlainNames::read);
        Ok(())
    }

    /// A generation of a version, if it is there.
    fn find(&self, tables: &Tables, generation: Generation) -> Option<Installed> {
        let mut all = self.installed.iter();
        all.find(|one| (one.version, one.generation) == (tables.version, generation)).cloned()
    }

    async fn install(
        mut self,
        tables: &Tables,
        generation: Generation,
        home: Home,
        keeps: bool,
    ) -> Result<(), NotMade> {
        if self.installed.iter().any(|one| one.version == tables.version && one.ddl != tables.schema) {
            return Err(changed(tables).into());
        }
        if self.find(tables, generation).is_some() {
            return Ok(self.tx.rollback().await?);
        }
        self.add(tables, generation, home).await?;
        if !keeps {
            return Ok(self.tx.rollback().await?);
        }
        match self.tx.commit().await {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(other) => Err(StoreError::transient("installing a projection", other).into()),
        }
    }

    /// Recreates the tables, deletes the rows, and applies the commit.
    pub(crate) async fn clear(
        mut self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        let failed = |e| error::store("emptying a projection", e);
        match self.find(tables, generation) {
            None => self.add(tables, generation, Home::Schema).await.map_err(StoreError::from)?,
            Some(this) => {
                if self.is_shown(&this) {
                    self.show(&[]).await?;
                }
                self.drop_objects(&this).await.map_err(failed)?;
                let place = this.place.as_deref();
                let made = make(&mut self.tx, self.schema, tables, generation, place).await;
                let objects = made.map_err(StoreError::from)?;
                let note = "update {es}.projections set schema = $4, objects = $5::jsonb
                            where (name, version, generation) = ($1, $2, $3)";
                let query = self.about_one(note, &this).bind(tables.schema).bind(objects);
                query.execute(&mut *self.tx).await.map_err(failed)?;
                self.name_tables().await?;
            }
        }
        self.tx.clear_rows(tables.rows(generation));
        self.end(commit).await
    }

    /// Drops the tables, deletes the rows, and applies the commit.
    pub(crate) async fn uninstall(
        mut self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        if let Some(this) = self.find(tables, generation) {
            if this.current {
                let what = format!(
                    "generation {generation} of {} is the one that queries read: switch to another one first",
                    tables.stored_name()
                );
                return Err(StoreError::misuse(what).into());
            }
            // Views that a program of before has left behind would be in the way.
            if this.place.is_some() {
                self.name_tables().await?;
            }
            self.remove(&this).await?;
            self.name_tables().await?;
        }
        self.tx.clear_rows(tables.rows(generation));
        self.end(commit).await
    }

    /// Makes this generation the one that queries of its version read, and applies the commit.
    pub(crate) async fn switch(
        mut self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        let failed = |e| error::store("switching a projection", e);
        let Some(this) = self.find(tables, to) else {
            let what =
                format!("generation {to} of {} is not installed: install it first", tables.stored_name());
            return Err(StoreError::misuse(what).into());
        };
        // One after the other: there is never more than one.
        for change in [
            "update {es}.projections set current = false
             where (name, version) = ($1, $2) and current and generation <> $3",
            "update {es}.projections set current = true
             where (name, version, generation) = ($1, $2, $3) and not current",
        ] {
            self.about_one(change, &this).execute(&mut *self.tx).await.map_err(failed)?;
        }
        self.name_tables().await?;
        self.end(commit).await
    }

    /// Gives the plain names to a version, and applies the commit.
    pub(crate) async fn publish(mut self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
        if !self.installed.iter().any(|one| one.current && one.version == tables.version) {
            let what = format!("{} is not installed: install it first", tables.stored_name());
            return Err(StoreError::misuse(what).into());
        }
        self.give_names(tables.version).await?;
        self.name_tables().await?;
        self.end(commit).await
    }

    /// Drops all generations of a version, deletes their rows, and applies the commit.
    pub(crate) async fn remove_version(
        mut self,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        let failed = |e| error::store("removing a version of a projection", e);
        let (gone, left): (Vec<_>, Vec<_>) =
            self.installed.clone().into_iter().partition(|one| one.version == version);
        // Tables that have the plain names themselves are in the way of new views. The others are shown by views, which go
        // before them.
        let (shown, in_the_way): (Vec<_>, Vec<_>) = gone.into_iter().partition(|one| one.place.is_some());
        for one in in_the_way {
            self.remove(&one).await?;
        }
        if self.plain.as_ref().is_some_and(|plain| plain.version == version) {
            match left.iter().filter(|one| one.current).map(|one| one.version).max() {
                Some(next) => {
                    self.give_names(next).await?;
                    self.name_tables().await?;
                }
                None => {
                    self.show(&[]).await?;
                    let forget = "delete from {es}.published where name = $1";
                    self.about(forget).execute(&mut *self.tx).await.map_err(failed)?;
                }
            }
        }
        for one in shown {
            self.remove(&one).await?;
        }
        self.tx.clear_rows(format!("{}/{version}~", self.name));
        self.end(commit).await
    }

    async fn end(mut self, commit: Commit) -> Result<Committed, CommitError> {
        // `be_brief` is for tables; rows are waited for as long as in any commit.
        let patient = sqlx::query("set local lock_timeout to default").execute(&mut *self.tx).await;
        patient.map_err(|e| error::store("committing a change of a projection", e))?;
        *self.tx.staged() = commit;
        self.tx.commit().await
    }

    /// Makes the tables of a generation that is not there.
    async fn add(&mut self, tables: &Tables, generation: Generation, home: Home) -> Result<(), NotMade> {
        let failed = |e| error::store("installing a projection", e);
        let first = generation == 1 && self.installed.is_empty();
        let without = tables.schema.trim().is_empty()
            || first && (home == Home::SearchPath || !generation_schema::may_make(&mut self.tx).await?);
        let place = match without {
            true => None,
            false => {
                let build = (tables.version, generation);
                Some(generation_schema::make(&mut self.tx, self.schema, self.name, build).await?)
            }
        };
        let objects = make(&mut self.tx, self.schema, tables, generation, place.as_deref()).await?;
        let mut mine = self.installed.iter().filter(|one| one.version == tables.version);
        let current = generation == 1 && !mine.any(|one| one.current);
        let one = Installed {
            version: tables.version,
            generation,
            current,
            place,
            ddl: tables.schema.to_owned(),
            objects,
        };
        let note = "insert into {es}.projections (name, version, generation, current, place, schema, objects)
                    values ($1, $2, $3, $4, $5, $6, $7::jsonb)";
        let query = self.about_one(note, &one).bind(current).bind(one.place.clone());
        let query = query.bind(tables.schema).bind(one.objects.clone());
        query.execute(&mut *self.tx).await.map_err(failed)?;
        if current && self.plain.is_none() {
            self.give_names(tables.version).await?;
        }
        let views = self.views_of(&one).await?;
        self.check_free(&views).await?;
        Ok(self.name_tables().await?)
    }

    /// Drops a generation: what its DDL made, the schema that was made for it, and the note of it.
    async fn remove(&mut self, one: &Installed) -> Result<(), StoreError> {
        self.be_brief().await?;
        let Err(error) = self.try_remove(one).await else { return Ok(()) };
        Err(self.in_the_way("dropping a generation of a projection", error, one.relations()).await)
    }

    async fn try_remove(&mut self, one: &Installed) -> Result<(), sqlx::Error> {
        self.drop_objects(one).await?;
        if let Some(place) = &one.place {
            // What else is in there belongs to somebody else: that is refused.
            let statement = format!("drop schema if exists {}", quoted(place));
            sqlx::raw_sql(sql(statement)).execute(&mut *self.tx).await?;
        }
        let forget = "delete from {es}.projections where (name, version, generation) = ($1, $2, $3)";
        self.about_one(forget, one).execute(&mut *self.tx).await.map(drop)
    }

    async fn drop_objects(&mut self, one: &Installed) -> Result<(), sqlx::Error> {
        let statement = self.schema.fill("select {es}.drop_objects($1::jsonb)");
        sqlx::query(sql(statement)).bind(&one.objects).execute(&mut *self.tx).await.map(drop)
    }

    /// A statement about this projection: `$1`.
    pub(super) fn about(&self, statement: &str) -> crate::readers::PgQuery {
        sqlx::query(sql(self.schema.fill(statement))).bind(self.name.to_owned())
    }

    /// A statement about a generation: `$1` to `$3`.
    pub(super) fn about_one(&self, statement: &str, one: &Installed) -> crate::readers::PgQuery {
        self.about(statement).bind(one.version.cast_signed()).bind(one.generation.cast_signed())
    }

    /// Whether the plain names are views of this generation.
    fn is_shown(&self, one: &Installed) -> bool {
        let mut plain = self.plain.iter();
        plain.any(|plain| one.current && plain.version == one.version && !plain.views.is_empty())
    }
}

fn changed(Tables { name, version, .. }: &Tables) -> StoreError {
    StoreError::misuse(format!(
        "the schema of projection {name} is not the one that made the tables of its version {version}: \
         raise `version`, and it is built from the log"
    ))
}
