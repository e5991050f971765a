//! Which generations there are: the rows of `es_projections`.

use es_core::store::{Generation, StoreError, Tables};
use sqlx::{Row as _, SqliteConnection};

use super::names;
use crate::error;

/// A table or view that a projection made: its kind and its plain name.
pub(super) type Object = (String, String);

/// One generation of one version of a projection.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) name: String,
    pub(super) version: i64,
    pub(super) generation: Generation,
    /// Whether its tables have their plain names.
    pub(super) current: bool,
    pub(super) schema: String,
    pub(super) objects: Vec<Object>,
}

impl Build {
    /// The plain names of its tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &str> + Clone {
        self.objects.iter().filter(|(kind, _)| kind == "table").map(|(_, name)| name.as_str())
    }

    /// What a table with this plain name is called in the file.
    pub(super) fn stored(&self, name: &str) -> String {
        if self.current { name.to_owned() } else { names::beside(name, self.generation) }
    }
}

/// Every generation of every version.
pub(super) async fn read(conn: &mut SqliteConnection, name: &str) -> Result<Vec<Build>, StoreError> {
    let sql = "select version, generation, current, schema, objects from es_projections where name = ?";
    let rows = sqlx::query(sql).bind(name).fetch_all(conn).await;
    let rows = rows.map_err(|e| error::store("reading the generations of a projection", e))?;
    let build = |row: &sqlx::sqlite::SqliteRow| {
        let objects = serde_json::from_str(row.get_unchecked(4)).map_err(|e| StoreError::Corrupt {
            what: format!("es_projections has no list of objects for projection {name}: {e}"),
        })?;
        Ok(Build {
            name: name.to_owned(),
            version: row.get_unchecked(0),
            generation: row.get_unchecked(1),
            current: row.get_unchecked(2),
            schema: row.get_unchecked(3),
            objects,
        })
    };
    rows.iter().map(build).collect()
}

/// Every generation of this version.
pub(super) async fn of_version(
    conn: &mut SqliteConnection,
    tables: &Tables,
) -> Result<Vec<Build>, StoreError> {
    let mut builds = read(conn, tables.name).await?;
    builds.retain(|build| build.version == i64::from(tables.version));
    Ok(builds)
}

/// The generation of this number.
pub(super) fn find<'b>(
    builds: &'b [Build],
    tables: &Tables,
    generation: Generation,
) -> Result<&'b Build, StoreError> {
    builds.iter().find(|build| build.generation == generation).ok_or_else(|| {
        let name = tables.stored_name();
        StoreError::misuse(format!("generation {generation} of {name} is not installed: install it first"))
    })
}

pub(super) async fn insert(
    conn: &mut SqliteConnection,
    tables: &Tables,
    generation: Generation,
    current: bool,
    objects: &[Object],
) -> Result<(), StoreError> {
    let sql = "insert into es_projections (name, version, generation, current, schema, objects)
               values (?, ?, ?, ?, ?, ?)";
    let objects = serde_json::to_string(objects).expect("strings serialize");
    let query = sqlx::query(sql).bind(tables.name).bind(tables.version).bind(generation).bind(current);
    let inserted = query.bind(tables.schema).bind(objects).execute(conn).await;
    inserted.map_err(|e| error::store("installing a projection", e))?;
    Ok(())
}

pub(super) async fn delete(conn: &mut SqliteConnection, build: &Build) -> Result<(), sqlx::Error> {
    let sql = "delete from es_projections where name = ? and version = ? and generation = ?";
    let query = sqlx::query(sql).bind(&build.name).bind(build.version).bind(build.generation);
    query.execute(conn).await?;
    Ok(())
}
