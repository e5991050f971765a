//! Doing what was asked for.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::time::Duration;

use es_core::processor::ProcessorError;
use es_core::store::{Position, StoreError, StreamId, Version};
use es_core::{ErrorKind, chain};
use es_postgres::{Finding, Migration, PgBackend, PgOptions, Stats};
use serde_json::{Value, json};

use crate::arguments::{Arguments, Command};
use crate::processor;

/// Why it could not be done.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) kind: ErrorKind,
    pub(crate) words: String,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { kind: error.kind(), words: chain(&error) }
    }
}

impl From<ProcessorError> for Failed {
    fn from(error: ProcessorError) -> Self {
        Self { kind: error.kind(), words: chain(&error) }
    }
}

impl Failed {
    /// For programs.
    pub(crate) fn json(&self) -> String {
        let kind = format!("{:?}", self.kind).to_lowercase();
        format!("{}\n", json!({ "good": false, "error": self.words, "kind": kind }))
    }
}

/// What is printed, and whether all is well.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) data: String,
    pub(crate) words: String,
    pub(crate) good: bool,
    /// The same for programs: a name for what was asked for, and what it is.
    fields: Value,
}

impl Answer {
    /// For people, and for programs.
    pub(crate) fn data(data: String, fields: Value) -> Self {
        Self { data, words: String::new(), good: true, fields }
    }

    pub(crate) fn words(words: impl Into<String>) -> Self {
        Self::data(String::new(), json!({})).with_words(words)
    }

    /// All of it in one line.
    pub(crate) fn json(&self) -> String {
        let mut all = json!({ "good": self.good });
        let fields = self.fields.as_object().into_iter().flatten();
        fields.for_each(|(name, value)| all[name] = value.clone());
        if !self.words.is_empty() {
            all["words"] = self.words.trim_end().into();
        }
        format!("{all}\n")
    }

    pub(crate) fn with_words(mut self, words: impl Into<String>) -> Self {
        self.words = format!("{}\n", words.into());
        self
    }

    pub(crate) fn good_if(mut self, good: bool) -> Self {
        self.good = good;
        self
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<Answer, Failed> {
    let options = || options(&arguments);
    Ok(match &arguments.command {
        Command::Migrate { print: true, .. } => {
            let script = script(&es_postgres::migrations(&arguments.schema)?, &arguments.schema);
            Answer::data(script.clone(), json!({ "sql": script }))
        }
        Command::Migrate { dry_run: true, .. } => {
            let pending = options()?.pending().await?;
            listed(&pending).with_words(count(&pending, "to run")).good_if(pending.is_empty())
        }
        Command::Migrate { .. } => {
            let ran = options()?.migrate().await?;
            listed(&ran).with_words(count(&ran, "run"))
        }
        Command::Roles { .. } => {
            let script = es_postgres::roles(&arguments.schema)?;
            Answer::data(script.clone(), json!({ "sql": script }))
        }
        Command::Check => {
            let findings = options()?.check().await?;
            let good = findings.iter().all(|finding| finding.problems.is_empty() || finding.harmless);
            let fields = findings.iter().map(|finding| {
                json!({ "rule": finding.rule, "problems": finding.problems, "harmless": finding.harmless })
            });
            let fields = json!({ "findings": fields.collect::<Vec<_>>() });
            Answer::data(findings.iter().map(finding).collect(), fields).good_if(good)
        }
        Command::Verify => {
            let violations = connect(options()?).await?.verify().await?;
            let words = match violations.len() {
                0 => "the store keeps its promises".to_owned(),
                n => format!("{n} violations"),
            };
            let lines = violations.iter().map(|line| format!("{line}\n")).collect();
            let fields = json!({ "violations": violations });
            Answer::data(lines, fields).with_words(words).good_if(violations.is_empty())
        }
        Command::Partition { size } => {
            connect(options()?).await?.partition(*size).await?;
            Answer::words(format!("further partitions take {size} positions each"))
        }
        Command::Archive { upto } => {
            let tables = connect(options()?).await?.archive(Position(*upto)).await?;
            let words = match tables.len() {
                0 => "no whole partition lies there: nothing was archived",
                _ => "archived: dump these tables, then drop them",
            };
            let names: Vec<String> =
                tables.iter().map(|table| format!("{}.{table}", arguments.schema)).collect();
            let lines = names.iter().map(|name| format!("{name}\n")).collect();
            Answer::data(lines, json!({ "tables": names })).with_words(words)
        }
        Command::Redact { stream, version, data } => {
            let stream = StreamId::new(stream.as_str()).map_err(StoreError::from)?;
            let data = match data {
                Some(text) => text.clone().into_bytes(),
                None => input()?,
            };
            connect(options()?).await?.redact(&stream, Version(*version), data.into()).await?;
            Answer::words(format!("replaced the payload of {stream} at v{version}"))
        }
        Command::Stats => {
            let found = connect(options()?).await?.stats().await?;
            Answer::data(stats(&found), json!({ "stats": numbers(&found) }))
        }
        Command::Builds { .. }
        | Command::Parked { .. }
        | Command::Retry { .. }
        | Command::Discard { .. }
        | Command::Pause { .. }
        | Command::Resume { .. } => {
            return processor::run(connect(options()?).await?, &arguments.command).await;
        }
    })
}

fn options(arguments: &Arguments) -> Result<PgOptions, StoreError> {
    let missing = || StoreError::misuse("which database? Give `--database URL`, or set DATABASE_URL");
    let url = arguments.database.as_deref().filter(|url| !url.is_empty()).ok_or_else(missing)?;
    // Nobody waits for this but a person, and what it reads may be long.
    let options = PgOptions::new(url)?.with_statement_timeout(Duration::ZERO);
    Ok(options.with_schema(&arguments.schema)?.with_migrate(false).with_notify(false))
}

async fn connect(options: PgOptions) -> Result<PgBackend, StoreError> {
    PgBackend::connect_with(options).await
}

fn input() -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let read = io::stdin().read_to_end(&mut bytes);
    read.map_err(|error| StoreError::misuse(format!("the new payload cannot be read: {error}")))?;
    Ok(bytes)
}

/// All steps in one transaction, with the note that they have run.
fn script(steps: &[Migration], schema: &str) -> String {
    // Even `create schema if not exists` asks for the privilege to make one.
    let mut sql = format!(
        "begin;\ndo $$ begin\n    if to_regnamespace('\"{schema}\"') is null then\n        create schema \"{schema}\";\n    \
         end if;\nend $$;\n"
    );
    for step in steps {
        write!(sql, "\n-- {:04} {}\n\n{}", step.number, step.name, step.sql).expect("writing to a string");
    }
    let last = steps.last().map_or(0, |step| step.number);
    write!(
        sql,
        "\ninsert into \"{schema}\".store (identity, schema) values (gen_random_uuid(), {last});\ncommit;\n"
    )
    .expect("writing to a string");
    sql
}

fn listed(steps: &[Migration]) -> Answer {
    let lines = steps.iter().map(|step| format!("{:04} {}\n", step.number, step.name)).collect();
    let fields = steps.iter().map(|step| json!({ "number": step.number, "name": step.name }));
    Answer::data(lines, json!({ "migrations": fields.collect::<Vec<_>>() }))
}

fn numbers(stats: &Stats) -> Value {
    let Stats { head, archived, streams, partition, tables, checkpoints, unreadable, .. } = stats;
    let tables = tables.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
    let checkpoints = checkpoints.iter().map(|(name, position)| {
        json!({ "name": name, "position": position.0, "behind": head.0.saturating_sub(position.0) })
    });
    json!({
        "head": head.0,
        "archived": archived.0,
        "events": stats.events(),
        "streams": streams,
        "partition_size": partition,
        "tables": tables.collect::<Vec<_>>(),
        "checkpoints": checkpoints.collect::<Vec<_>>(),
        "unreadable": unreadable,
    })
}

fn count(steps: &[Migration], what: &str) -> String {
    match steps.len() {
        0 => "the schema is up to date".to_owned(),
        1 => format!("1 migration {what}"),
        n => format!("{n} migrations {what}"),
    }
}

fn finding(finding: &Finding) -> String {
    let mark = match (finding.problems.is_empty(), finding.harmless) {
        (true, _) => "ok     ",
        (false, true) => "warning",
        (false, false) => "problem",
    };
    let mut lines = format!("{mark}  {}\n", finding.rule);
    for problem in &finding.problems {
        writeln!(lines, "         {problem}").expect("writing to a string");
    }
    lines
}

fn stats(stats: &Stats) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, value: String, more: String| {
        writeln!(lines, "{}", format!("{name:<40} {value:>20} {more:>12}").trim_end())
            .expect("writing to a string");
    };
    let single = String::new;
    line("head", stats.head.0.to_string(), single());
    line("archived", stats.archived.0.to_string(), single());
    line("events", stats.events().to_string(), single());
    line("streams", stats.streams.to_string(), single());
    let partition = stats.partition.map_or_else(|| "none".to_owned(), |size| size.to_string());
    line("partition size", partition, single());
    line("\ntable", "bytes".to_owned(), single());
    for (name, bytes) in &stats.tables {
        line(name, bytes.to_string(), single());
    }
    line("\ncheckpoint", "position".to_owned(), "behind".to_owned());
    for (name, position) in &stats.checkpoints {
        let behind = stats.head.0.saturating_sub(position.0);
        line(name, position.0.to_string(), behind.to_string());
    }
    for name in &stats.unreadable {
        line(name, "cannot be read".to_owned(), single());
    }
    lines
}
