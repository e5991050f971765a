//! Which generations there are: the rows of `es_projections`, and which version has the plain names: `es_published`.

use es_core::store::{Generation, StoreError, Tables};
use sqlx::{Row as _, SqliteConnection};

use crate::error;

/// A table or view that a projection made: its kind and its plain name.
pub(super) type Object = (String, String);

/// One generation of one version of a projection.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) version: u32,
    pub(super) generation: Generation,
    /// Whether queries of its version read it.
    pub(super) current: bool,
    /// Whether its tables have their plain names: it is current, and its version is published.
    pub(super) plain: bool,
    pub(super) schema: String,
    pub(super) objects: Vec<Object>,
    /// What is behind the names of its tables while they are not plain.
    pub(super) suffix: String,
}

impl Build {
    /// The plain names of its tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &str> + Clone {
        self.objects.iter().filter(|(kind, _)| kind == "table").map(|(_, name)| name.as_str())
    }

    pub(super) fn has_views(&self) -> bool {
        self.objects.iter().any(|(kind, _)| kind == "view")
    }

    /// What a table with this plain name is called in the file.
    pub(super) fn stored(&self, name: &str) -> String {
        if self.plain { name.to_owned() } else { self.own(name) }
    }

    /// What it is called while the plain name is another's.
    pub(super) fn own(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }
}

/// Every generation of every version of a projection.
#[derive(Debug)]
pub(super) struct Builds {
    /// The version that has the plain names.
    pub(super) published: Option<u32>,
    pub(super) all: Vec<Build>,
}

impl Builds {
    pub(super) async fn read(conn: &mut SqliteConnection, name: &str) -> Result<Self, StoreError> {
        let failed = |e| error::store("reading the generations of a projection", e);
        let sql = "select version from es_published where name = ?";
        let published =
            sqlx::query_scalar(sql).bind(name).fetch_optional(&mut *conn).await.map_err(failed)?;
        let sql = "select version, generation, current, schema, objects, suffix from es_projections
                   where name = ?";
        let rows = sqlx::query(sql).bind(name).fetch_all(conn).await.map_err(failed)?;
        let build = |row: &sqlx::sqlite::SqliteRow| {
            let objects = serde_json::from_str(row.get_unchecked(4)).map_err(|e| StoreError::Corrupt {
                what: format!("es_projections has no list of objects for projection {name}: {e}"),
            })?;
            let (version, generation, current) =
                (row.get_unchecked(0), row.get_unchecked(1), row.get_unchecked(2));
            // A program of before names its own like this, and does not say so.
            let known = Some(row.get_unchecked(5)).filter(|suffix: &String| !suffix.is_empty());
            let suffix = known.unwrap_or_else(|| format!("~{generation}"));
            Ok(Build {
                version,
                generation,
                current,
                plain: current && published == Some(version),
                schema: row.get_unchecked(3),
                objects,
                suffix,
            })
        };
        Ok(Self { published, all: rows.iter().map(build).collect::<Result<_, StoreError>>()? })
    }

    pub(super) fn of_version(&self, version: u32) -> impl Iterator<Item = &Build> {
        self.all.iter().filter(move |build| build.version == version)
    }

    /// The generation that queries of a version read.
    pub(super) fn current(&self, version: u32) -> Option<&Build> {
        self.of_version(version).find(|build| build.current)
    }

    /// The one whose tables have the plain names.
    pub(super) fn plain(&self) -> Option<&Build> {
        self.all.iter().find(|build| build.plain)
    }

    pub(super) fn get(&self, version: u32, generation: Generation) -> Option<&Build> {
        self.of_version(version).find(|build| build.generation == generation)
    }

    /// The generation of this number.
    pub(super) fn find(&self, tables: &Tables, generation: Generation) -> Result<&Build, StoreError> {
        self.get(tables.version, generation).ok_or_else(|| {
            let name = tables.stored_name();
            StoreError::misuse(format!(
                "generation {generation} of {name} is not installed: install it first"
            ))
        })
    }
}

/// What is behind the names of a new generation's tables. Files of before have `~` and the generation alone.
pub(super) fn suffix(version: u32, generation: Generation) -> String {
    format!("~{version}.{generation}")
}

pub(super) async fn insert(
    conn: &mut SqliteConnection,
    tables: &Tables,
    build: &Build,
) -> Result<(), StoreError> {
    let failed = |e| error::store("installing a projection", e);
    let sql = "insert into es_projections (name, version, generation, current, schema, objects, suffix)
               values (?, ?, ?, ?, ?, ?, ?)";
    let objects = serde_json::to_string(&build.objects).expect("strings serialize");
    let query = sqlx::query(sql).bind(tables.name).bind(build.version).bind(build.generation);
    let query = query.bind(build.current).bind(tables.schema).bind(objects).bind(&build.suffix);
    query.execute(&mut *conn).await.map_err(failed)?;
    // The first version has the plain names.
    let sql = "insert or ignore into es_published (name, version) values (?, ?)";
    sqlx::query(sql).bind(tables.name).bind(build.version).execute(&mut *conn).await.map_err(failed)?;
    changed(conn).await.map_err(failed)
}

pub(super) async fn delete(
    conn: &mut SqliteConnection,
    name: &str,
    build: &Build,
) -> Result<(), sqlx::Error> {
    let sql = "delete from es_projections where name = ? and version = ? and generation = ?";
    let query = sqlx::query(sql).bind(name).bind(build.version).bind(build.generation);
    query.execute(&mut *conn).await?;
    changed(conn).await
}

/// Queries of the version read this generation from now on.
pub(super) async fn make_current(
    conn: &mut SqliteConnection,
    tables: &Tables,
    to: Generation,
) -> Result<(), sqlx::Error> {
    // In two steps, since only one may be current at any time.
    for sql in [
        "update es_projections set current = 0 where name = ? and version = ? and generation <> ?",
        "update es_projections set current = 1 where name = ? and version = ? and generation = ?",
    ] {
        sqlx::query(sql).bind(tables.name).bind(tables.version).bind(to).execute(&mut *conn).await?;
    }
    changed(conn).await
}

/// Notes which version has the plain names.
pub(super) async fn publish(
    conn: &mut SqliteConnection,
    name: &str,
    version: Option<u32>,
) -> Result<(), sqlx::Error> {
    let query = match version {
        Some(version) => {
            let sql = "insert into es_published (name, version) values (?1, ?2)
                       on conflict (name) do update set version = excluded.version";
            sqlx::query(sql).bind(name).bind(version)
        }
        None => sqlx::query("delete from es_published where name = ?").bind(name),
    };
    query.execute(&mut *conn).await?;
    changed(conn).await
}

/// Names mean other tables: connections of apps look again.
async fn changed(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("update es_names set changed = changed + 1").execute(conn).await?;
    Ok(())
}
