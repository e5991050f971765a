//! Doing what was asked for.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::time::Duration;

use es_core::clock::Timestamp;
use es_core::processor::ProcessorError;
use es_core::store::{EventStore as _, Position, StoreError, StreamId, Version};
use es_core::{ErrorKind, chain};
use es_postgres::{Adopt, Finding, Migration, PgBackend, PgOptions, Stats};
use serde_json::{Value, json};

use crate::arguments::{Arguments, Command};
use crate::{processor, rebuild};

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
        Command::Verify { after } => {
            let violations = connect(options()?).await?.verify_after(Position(*after)).await?;
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
        Command::Archive { upto, dry_run: true, unloadable } => {
            plan_archive(&connect(options()?).await?, Position(*upto), *unloadable).await?
        }
        Command::Archive { upto, dry_run: false, unloadable } => {
            let backend = connect(options()?).await?;
            archive(&backend, Position(*upto), *unloadable, &arguments.schema).await?
        }
        Command::Attach { table } => {
            let name = table.strip_prefix(&format!("{}.", arguments.schema)).unwrap_or(table);
            connect(options()?).await?.attach_archive(name).await?;
            Answer::words(format!("{table} is in the log again"))
        }
        Command::Redact { stream, version, dry_run: true, .. } => {
            let stream = StreamId::new(stream.as_str()).map_err(StoreError::from)?;
            let needs = connect(options()?).await?.redaction_needs(&stream, Version(*version)).await?;
            let good = needs.is_none();
            let fields = json!({ "needs": needs });
            Answer::data(needs.map(|why| format!("{why}\n")).unwrap_or_default(), fields).good_if(good)
        }
        Command::Redact { stream, version, data, needed, .. } => {
            let (stream, version) =
                (StreamId::new(stream.as_str()).map_err(StoreError::from)?, Version(*version));
            let data = match data {
                Some(text) => text.clone().into_bytes(),
                None => input()?,
            };
            let backend = connect(options()?).await?;
            if *needed {
                backend.redact_needed(&stream, version, data.into()).await?;
            } else {
                backend.redact(&stream, version, data.into()).await?;
            }
            Answer::words(format!("replaced the payload of {stream} at {version}"))
        }
        Command::Forget { days } => {
            let age = Duration::from_secs(u64::from(*days) * 24 * 3_600);
            let backend = connect(options()?).await?;
            let before = backend.now().await?.checked_sub(age).unwrap_or(Timestamp::MIN);
            let forgotten = backend.forget(before).await?;
            let words = format!(
                "forgot {} outcomes of keys and {} fences of attempts",
                forgotten.keys, forgotten.attempts
            );
            let fields = json!({ "keys": forgotten.keys, "attempts": forgotten.attempts });
            Answer::data(String::new(), fields).with_words(words)
        }
        Command::Adopt { cloned } => {
            let how = if *cloned { Adopt::Cloned } else { Adopt::Restored };
            let generation = options()?.adopt(how).await?;
            let fields = json!({ "generation": generation.to_string() });
            Answer::data(format!("{generation}\n"), fields)
                .with_words("this is the new generation of the store")
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
        Command::Rebuild { .. }
        | Command::Progress { .. }
        | Command::Report { .. }
        | Command::Switch { .. }
        | Command::RollBack { .. }
        | Command::Abort { .. }
        | Command::DropPrevious { .. }
        | Command::RebuildKeys { .. } => {
            let backend = connect(options()?).await?;
            return Box::pin(rebuild::run(backend, &arguments)).await;
        }
    })
}

async fn plan_archive(backend: &PgBackend, upto: Position, unloadable: bool) -> Result<Answer, StoreError> {
    let plan = backend.plan_archive(upto).await?;
    let also = plan.unloadable.iter().filter(|_| !unloadable);
    let lines: Vec<String> = plan.in_the_way.iter().chain(also).map(|line| format!("{line}\n")).collect();
    let words = match plan.upto.0 {
        0 => "no whole partition lies there: nothing would be archived".to_owned(),
        edge => format!("partitions up to {edge} would be archived"),
    };
    let good = lines.is_empty();
    let fields = json!({ "upto": plan.upto.0, "in_the_way": plan.in_the_way, "unloadable": plan.unloadable });
    Ok(Answer::data(lines.concat(), fields).with_words(words).good_if(good))
}

async fn archive(
    backend: &PgBackend,
    upto: Position,
    unloadable: bool,
    schema: &str,
) -> Result<Answer, StoreError> {
    let tables = match unloadable {
        true => backend.archive_unloadable(upto).await?,
        false => backend.archive(upto).await?,
    };
    let words = match tables.len() {
        0 => "no whole partition lies there: nothing was archived",
        _ => "archived: dump these tables, then drop them",
    };
    let names: Vec<String> = tables.iter().map(|table| format!("{schema}.{table}")).collect();
    let lines = names.iter().map(|name| format!("{name}\n")).collect();
    Ok(Answer::data(lines, json!({ "tables": names })).with_words(words))
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
    line("store", stats.store.to_string(), single());
    line("generation", stats.generation.to_string(), single());
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
