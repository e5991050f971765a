//! Looking at a store: what is wrong with where it lives, what migrations it lacks, how large it is.

use es_core::store::{CheckpointOf, Position, StoreError, checkpoint_of};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::row::number;
use crate::schema::{self, Migration};
use crate::{PgBackend, PgOptions, check, connect};

const STATS: &str = include_str!("../sql/stats.sql");
const SIZES: &str = include_str!("../sql/sizes.sql");
const CHECKPOINTS: &str = "select key, data from rows where tbl = 'checkpoints' order by key";

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What should be so.
    pub rule: &'static str,
    /// What is not so, and what to do; nothing if all is well.
    pub problems: Vec<String>,
    /// Whether a store can be used all the same.
    pub harmless: bool,
}

/// How large a store is, and how far its processors are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The identity of the store: [`EventStore::identity`](es_core::store::EventStore::identity).
    pub store: Uuid,
    /// Its generation: another one once it was [adopted](crate::PgOptions::adopt).
    pub generation: Uuid,
    /// The position of the last event.
    pub head: Position,
    /// The last position that was archived; 0 if none was.
    pub archived: Position,
    /// How many streams there are, archived ones and all.
    pub streams: u64,
    /// Positions of each further partition, if the log has partitions.
    pub partition: Option<u64>,
    /// The tables of the store with their indexes, and what they take, in bytes.
    pub tables: Vec<(String, u64)>,
    /// Where processors are, the last one first.
    pub checkpoints: Vec<(String, Position)>,
    /// Places of processors that cannot be read.
    pub unreadable: Vec<String>,
}

impl Stats {
    /// How many events are in the log.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.head.0 - self.archived.0
    }
}

impl PgOptions {
    /// What connecting looks at, one by one: the server, its settings, the schema, the account.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database cannot be reached at all.
    pub async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        let mut conn = self.connection().await?;
        let finding = |rule, problems| Finding { rule, problems, harmless: false };
        let server = check::Server::look(&mut conn).await?;
        let off =
            |setting: &&str| format!("{setting} is off: a crash can take events that were acknowledged");
        let lossy = server.off.iter().map(off).collect();
        let mut findings = vec![
            finding("the server and the database can hold a store", server.problems()),
            Finding { rule: "what is acknowledged is on the disk", problems: lossy, harmless: true },
        ];
        let missing = match schema::pending(&mut conn, &self.schema).await {
            Ok(steps) => {
                steps.iter().map(|s| format!("migration {} ({}) has not run", s.number, s.name)).collect()
            }
            Err(newer) => vec![newer.to_string()],
        };
        let migrated = missing.is_empty();
        findings.push(finding("the schema is up to date", missing));
        if migrated {
            let lacking = check::lacking(&mut conn, &self.schema).await?;
            let is_known = lacking.is_empty();
            findings.push(finding("the account may do what an application does", lacking));
            if is_known {
                let problems = check::locks(&mut conn, &self.schema).await?.into_iter().collect();
                let rule = "the server has room for the locks on all partitions";
                findings.push(Finding { rule, problems, harmless: true });
            }
        }
        Ok(findings)
    }

    /// The migrations that the database lacks, in order; [`Self::migrate`] runs them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database cannot be read, or its schema is from a newer program.
    pub async fn pending(&self) -> Result<Vec<Migration>, StoreError> {
        schema::pending(&mut self.connection().await?, &self.schema).await
    }

    /// Brings the schema up to date, in one transaction, and gives the migrations that ran. Needs the account that owns
    /// the schema, or may make one.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing has changed.
    pub async fn migrate(&self) -> Result<Vec<Migration>, StoreError> {
        let mut conn = self.connection().await?;
        check::Server::look(&mut conn).await?.refuse()?;
        let steps = schema::pending(&mut conn, &self.schema).await?;
        schema::prepare(&mut conn, &self.schema, true).await?;
        Ok(steps)
    }

    async fn connection(&self) -> Result<PgConnection, StoreError> {
        connect::first(&self.for_store()).await
    }
}

impl PgBackend {
    /// How large the store is, and how far its processors are. Counts the streams, and reads no events.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let read =
            |sql| self.0.shared.readers.rows("reading the size of the store", move || sqlx::query(sql));
        let (all, sizes, checkpoints) = (read(STATS).await?, read(SIZES).await?, read(CHECKPOINTS).await?);
        let missing = || StoreError::Corrupt { what: "the table `store` is empty".to_owned() };
        let row = all.first().ok_or_else(missing)?;
        let whole = |row: &sqlx::postgres::PgRow, column: usize| number(row.get_unchecked(column));
        let (mut places, mut unreadable) = (Vec::new(), Vec::new());
        for row in &checkpoints {
            let name: String = row.get_unchecked(0);
            match checkpoint_of(row.get_unchecked(1)) {
                Some(CheckpointOf::Nobody) => {}
                Some(CheckpointOf::Range(position)) => places.push((name, position)),
                None => unreadable.push(name),
            }
        }
        places.sort_by(|(a, at), (b, bt)| (at, a).cmp(&(bt, b)));
        Ok(Stats {
            store: row.get_unchecked(4),
            generation: row.get_unchecked(5),
            head: Position(whole(row, 0)),
            archived: Position(whole(row, 1)),
            streams: whole(row, 2),
            partition: row.get_unchecked::<Option<i64>, _>(3).map(number),
            tables: sizes.iter().map(|row| (row.get_unchecked(0), whole(row, 1))).collect(),
            checkpoints: places,
            unreadable,
        })
    }
}
