//! The plain names of a projection's tables, for readers that are not apps: views that show one generation.
//!
//! The store does not read through them. A view that is replaced is locked, which waits for transactions that have read
//! it; the tables below are not.

use std::io;

use es_core::store::StoreError;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::generation_schema;
use super::work::{Installed, Work};
use crate::error;

/// What `published` says about a projection.
#[derive(Clone, Debug)]
pub(super) struct PlainNames {
    /// The version that has them.
    pub(super) version: u32,
    /// The schema that they are in, once it is known.
    base: Option<String>,
    /// None while the tables have the names themselves.
    pub(super) views: Vec<View>,
}

/// `["view", name, table]`, the latter two as SQL names them.
pub(super) type View = [String; 3];

impl PlainNames {
    pub(super) fn read(row: &PgRow) -> Self {
        Self {
            version: row.get_unchecked::<i32, _>(0).cast_unsigned(),
            base: row.get_unchecked(1),
            views: parse(row.get_unchecked(2)),
        }
    }
}

/// JSON that this crate wrote.
fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Vec<T> {
    serde_json::from_str(json).expect("as it was written")
}

impl Work<'_> {
    /// Gives the plain names to a version; [`Self::name_tables`] makes them.
    pub(super) async fn give_names(&mut self, version: u32) -> Result<(), StoreError> {
        let give = "insert into {es}.published (name, version) values ($1, $2)
                    on conflict (name) do update set version = excluded.version";
        let query = self.about(give).bind(version.cast_signed());
        query.execute(&mut *self.tx).await.map_err(|e| error::store(NAMING, e)).map(drop)
    }

    /// Has the plain names mean the current generation of the version that has them.
    pub(super) async fn name_tables(&mut self) -> Result<(), StoreError> {
        self.look().await.map_err(|e| error::store(NAMING, e))?;
        let Some(plain) = self.plain.clone() else { return Ok(()) };
        let mut all = self.installed.clone().into_iter();
        let Some(current) = all.find(|one| one.current && one.version == plain.version) else {
            return Ok(());
        };
        let wanted = self.views_of(&current).await?;
        if wanted == plain.views {
            return Ok(());
        }
        for one in self.installed.clone() {
            if one.place.is_none() && has_one_of(&one, &wanted) {
                self.move_away(one).await?;
            }
        }
        self.check_free(&wanted).await?;
        self.show(&wanted).await
    }

    /// The views by which a generation has the plain names; none if its tables have them.
    pub(super) async fn views_of(&mut self, one: &Installed) -> Result<Vec<View>, StoreError> {
        let Some(place) = one.place.as_deref() else { return Ok(Vec::new()) };
        let failed = |e| error::store(NAMING, e);
        let Some(base) = self.base().await.map_err(failed)? else { return Ok(Vec::new()) };
        let views = "select coalesce(jsonb_agg(jsonb_build_array(
                         'view', format('%I.%I', $2, c.relname), format('%I.%I', $3, c.relname)) order by c.relname), '[]')::text
                     from jsonb_array_elements($1::jsonb) o
                     join pg_class c on c.oid = to_regclass(case when o ->> 0 not in ('routine', 'type', 'sequence') then o ->> 1 end)";
        let query = sqlx::query_scalar::<_, String>(views).bind(&one.objects).bind(base).bind(place);
        Ok(parse(&query.fetch_one(&mut *self.tx).await.map_err(failed)?))
    }

    /// The schema of the plain names: where the search path puts a table.
    async fn base(&mut self) -> Result<Option<String>, sqlx::Error> {
        if let Some(base) = self.plain.as_ref().and_then(|plain| plain.base.clone()) {
            return Ok(Some(base));
        }
        sqlx::query("set local search_path to default").execute(&mut *self.tx).await?;
        let base: Option<String> =
            sqlx::query_scalar("select current_schema()::text").fetch_one(&mut *self.tx).await?;
        let note = "update {es}.published set base = $2 where name = $1";
        self.about(note).bind(base.clone()).execute(&mut *self.tx).await?;
        Ok(base)
    }

    /// Refuses plain names that another relation has.
    pub(super) async fn check_free(&mut self, views: &[View]) -> Result<(), StoreError> {
        let taken = "select string_agg(n, ', ') from unnest($2::text[]) n
                     where to_regclass(n) is not null
                     and not exists (select from {es}.published u cross join jsonb_array_elements(u.views) v
                                     where u.name = $1 and v ->> 1 = n)
                     and not exists (select from {es}.projections p cross join jsonb_array_elements(p.objects) o
                                     where p.name = $1 and p.place is null and o ->> 1 = n)";
        if views.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = views.iter().map(|[_, name, _]| name.clone()).collect();
        let row = self.about(taken).bind(names).fetch_one(&mut *self.tx).await;
        let Some(taken) = row.map_err(|e| error::store(NAMING, e))?.get_unchecked::<Option<String>, _>(0)
        else {
            return Ok(());
        };
        Err(StoreError::misuse(format!(
            "projection {} cannot have {taken}: what it names is there already, and belongs to somebody else (was the \
             projection renamed? then drop the old tables)",
            self.name
        )))
    }

    /// Has the plain names be these views.
    pub(super) async fn show(&mut self, views: &[View]) -> Result<(), StoreError> {
        self.be_brief().await?;
        if !views.is_empty() {
            self.check_account().await?;
        }
        let views = serde_json::to_string(views).expect("strings serialize");
        match self.about("select {es}.show($1, $2::jsonb)").bind(views).execute(&mut *self.tx).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let shown = self.plain.iter().flat_map(|plain| &plain.views);
                let shown = shown.map(|[_, name, _]| name.clone()).collect();
                Err(self.in_the_way(NAMING, error, shown).await)
            }
        }
    }

    /// Refuses an account that may not make views where the plain names are.
    async fn check_account(&mut self) -> Result<(), StoreError> {
        let lacks = "select quote_ident(p.base), quote_ident(current_user) from {es}.published p
                     where p.name = $1 and not has_schema_privilege(p.base, 'create')";
        let lacking =
            self.about(lacks).fetch_optional(&mut *self.tx).await.map_err(|e| error::store(NAMING, e))?;
        let Some(row) = lacking else { return Ok(()) };
        let (base, account): (String, String) = (row.get_unchecked(0), row.get_unchecked(1));
        Err(StoreError::misuse(format!(
            "the plain names of the tables of projection {} are views in schema {base}, and the account may not make \
             them: run `grant create on schema {base} to {account}`",
            self.name
        )))
    }

    /// Moves a generation whose tables have the plain names themselves into a schema of its own; the names are views then.
    async fn move_away(&mut self, one: Installed) -> Result<(), StoreError> {
        self.be_brief().await?;
        let build = (one.version, one.generation);
        let place = generation_schema::make(&mut self.tx, self.schema, self.name, build).await?;
        let moving = "update {es}.projections set place = $4, objects = {es}.move_objects(objects, $4)
                      where (name, version, generation) = ($1, $2, $3) returning objects::text";
        let moved = self.about_one(moving, &one).bind(place.clone()).fetch_one(&mut *self.tx).await;
        let objects = match moved {
            Ok(row) => row.get_unchecked(0),
            Err(error) => return Err(self.in_the_way(NAMING, error, one.relations()).await),
        };
        // Shown for a moment, so that grants on the tables become grants on their names.
        let moved = Installed { place: Some(place), objects, ..one };
        let views = self.views_of(&moved).await?;
        self.show(&views).await
    }

    /// Readers queue behind a lock that is waited for, so it is not waited for long.
    pub(super) async fn be_brief(&mut self) -> Result<(), StoreError> {
        let brief = "select set_config('lock_timeout', '2s', true)
                     where current_setting('lock_timeout')::interval not between '1ms' and '2s'";
        sqlx::query(brief).execute(&mut *self.tx).await.map_err(|e| error::store(NAMING, e)).map(drop)
    }

    /// What a failed statement means that was to lock these relations. If it did not get a lock in time, it says who has
    /// it. The transaction has failed, and with it its own locks have gone.
    pub(super) async fn in_the_way(
        &self,
        what: &'static str,
        failed: sqlx::Error,
        relations: Vec<String>,
    ) -> StoreError {
        // Not in time, or a deadlock.
        if !matches!(error::code(&failed), Some("55P03" | "40P01")) {
            return error::store(what, failed);
        }
        let who = "select coalesce(string_agg(distinct format('%s (process %s, relation %s)',
                              coalesce(nullif(a.application_name, ''), a.usename, a.backend_type), l.pid, n), ', '), 'another transaction')
                   from unnest($1::text[]) n join pg_locks l on l.relation = to_regclass(n)
                   join pg_stat_activity a on a.pid = l.pid
                   where l.granted and l.database = (select d.oid from pg_database d where d.datname = current_database())";
        let found =
            self.backend.0.shared.readers.rows(what, || sqlx::query(who).bind(relations.clone())).await;
        let Some(row) = found.ok().and_then(|mut rows| rows.pop()) else { return error::store(what, failed) };
        let who: String = row.get_unchecked(0);
        let text = format!(
            "{who} is in the way of a change to the tables of projection {}: end its transaction, or try again later ({failed})",
            self.name
        );
        StoreError::transient(what, io::Error::other(text))
    }
}

impl Installed {
    /// What of it is locked by statements, as SQL names it.
    pub(super) fn relations(&self) -> Vec<String> {
        let made = parse::<[String; 2]>(&self.objects).into_iter();
        made.filter(|[kind, _]| kind != "routine" && kind != "type").map(|[_, name]| name).collect()
    }
}

/// Whether a generation's own tables have one of these names.
fn has_one_of(one: &Installed, views: &[View]) -> bool {
    one.relations().iter().any(|made| views.iter().any(|[_, name, _]| name == made))
}

const NAMING: &str = "naming the tables of a projection";
