//! One instance, for operators: what came to it, what it waits for, and who will wake it.

use std::fmt;

use es_core::Timestamp;
use es_core::command::NamedCommand;
use es_core::store::keys::behind;
use es_core::store::{Position, Span, StoreError, Table};
use serde::de::DeserializeOwned;

use crate::book::definition_of;
use crate::damaged::{Damaged, read};
use crate::instance::{Instance, ToSend};
use crate::operate::{InstanceStatus, Instances, Life};
use crate::process::RefusedCommand;
use crate::rows::{Input, Instead, Noted, Sending, of_instance, sent_from};
use crate::verb::{Answer, By, Verb};

/// Commands and requests of an instance that are shown.
const SHOWN: usize = 100;

/// An instance, and what it waits for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shown {
    /// The instance.
    pub status: InstanceStatus,
    /// The first 100 of its commands that were not answered, in the order in which they are sent.
    pub commands: Vec<OpenCommand>,
    /// The first 100 things that operators had done to it, or that were refused; without those of which the row cannot be
    /// read.
    pub requests: Vec<Asked>,
    /// What it waits for.
    pub waits: Vec<WaitsFor>,
}

/// A command that was not answered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OpenCommand {
    /// The input that it came from.
    pub input: u64,
    /// Its place among what that input led to.
    pub ordinal: u32,
    /// The command; `None` if its row cannot be read: the error says why.
    pub command: Option<NamedCommand>,
    /// Why it was not answered, once that is known.
    pub error: Option<String>,
    /// Since when it has been known.
    pub since: Option<Timestamp>,
    /// It is not sent again before an operator says so.
    pub held: bool,
}

/// What an operator asked for, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asked {
    /// What.
    pub verb: Verb,
    /// Who, and why.
    pub by: By,
    /// When.
    pub at: Timestamp,
    /// What became of it.
    pub answer: Answer,
}

/// An input of an instance.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InputShown {
    /// Its number.
    pub number: u64,
    /// When it came; `None` if its row cannot be read.
    pub at: Option<Timestamp>,
    /// What came.
    pub came: Came,
    /// The operator who made it.
    pub by: Option<By>,
    /// It was not taken in: an operator had it skipped, or the instance ended in its place.
    pub skipped: bool,
}

/// What came to an instance.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Came {
    /// An event.
    Event(Position),
    /// A command of it was refused.
    Refused(RefusedCommand),
    /// The time of a timer had come, or an operator had it fired.
    Timer(String),
    /// An operator wanted it.
    Verb(Verb),
    /// Its row cannot be read.
    Unreadable {
        /// Why.
        error: String,
    },
}

/// What an instance waits for: as text, with who will wake it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// An operator, or a newer program: something of it cannot be read.
    Repair {
        /// What.
        what: String,
        /// Why.
        error: String,
    },
    /// An operator: an input failed.
    Input {
        /// Its number.
        number: u64,
        /// Why.
        error: String,
    },
    /// An operator: a command failed for good.
    Command(OpenCommand),
    /// The answer to a command.
    Answer(OpenCommand),
    /// A program with its version of the process.
    Code {
        /// The version.
        version: u32,
    },
    /// The node that works on it: there are inputs for it to take in.
    Turn {
        /// How many.
        inputs: u64,
    },
    /// The time of a timer.
    Timer {
        /// Its name.
        name: String,
        /// When it comes.
        due: Timestamp,
    },
    /// An event.
    Event,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repair { what, error } => write!(
                f,
                "for an operator: {what} cannot be read ({error}); repair the row, or run the program that wrote it"
            ),
            Self::Input { number, error } => write!(
                f,
                "for an operator: input {number} failed ({error}); retry, skip input {number}, or end the instance"
            ),
            Self::Command(command) if command.command.is_none() => {
                write!(f, "for an operator: {command}; repair its row, and retry")
            }
            Self::Command(command) => {
                let skip = command.input;
                write!(
                    f,
                    "for an operator: {command} failed; retry sends it again under the same key, skip {skip} gives it up"
                )
            }
            Self::Answer(command) if command.error.is_some() => {
                let skip = command.input;
                write!(
                    f,
                    "for the answer to {command}: it is sent again until there is one; skip {skip} gives it up"
                )
            }
            Self::Answer(command) => {
                write!(f, "for the answer to {command}, which is sent until there is one")
            }
            Self::Code { version } => write!(f, "for a program that has version {version} of the process"),
            Self::Turn { inputs } => write!(f, "for the node that works on it: it takes in {inputs} inputs"),
            Self::Timer { name, due } => write!(f, "for timer {name:?}, which fires at {due}"),
            Self::Event => f.write_str("for an event with its key or one of its associations"),
        }
    }
}

impl fmt::Display for OpenCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            Some(NamedCommand { aggregate, id, name, .. }) => write!(f, "{name} of {aggregate} {id:?}")?,
            None => f.write_str("a command that cannot be read")?,
        }
        write!(f, ", from input {}", self.input)?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, " ({error})"))
    }
}

impl From<Sending> for OpenCommand {
    fn from(Sending { send, trouble, .. }: Sending) -> Self {
        let held = trouble.as_ref().is_some_and(|trouble| trouble.held);
        let (error, since) = trouble.map(|trouble| (trouble.error, trouble.since)).unzip();
        let ToSend { input, ordinal, command, .. } = send;
        Self { input, ordinal, command: Some(command), error, since, held }
    }
}

/// It is not sent before an operator has had its row repaired.
impl From<Damaged> for OpenCommand {
    fn from(Damaged { row, why, .. }: Damaged) -> Self {
        let (input, ordinal) = sent_from(&row);
        Self { input, ordinal, command: None, error: Some(why), since: None, held: true }
    }
}

impl InputShown {
    pub(crate) fn of(number: u64, noted: Result<Noted, Damaged>) -> Self {
        let noted = match noted {
            Ok(noted) => noted,
            Err(Damaged { why: error, .. }) => {
                let came = Came::Unreadable { error };
                return Self { number, at: None, came, by: None, skipped: false };
            }
        };
        let came = match noted.input {
            Input::Event { position, .. } => Came::Event(position),
            Input::Refused { command, why, .. } => Came::Refused(RefusedCommand { command, why }),
            Input::Timer { name, .. } => Came::Timer(name),
            Input::Verb(verb) => Came::Verb(verb),
        };
        let skipped = matches!(noted.instead, Some(Instead::Skip | Instead::End(_)));
        Self { number, at: Some(noted.at), came, by: noted.by, skipped }
    }
}

impl Instances {
    /// One of them with what it waits for, by the text of its key. One whose row cannot be read, and a command or a timer of
    /// which that is so, are shown as that. Its
    /// commands are read after it: one that was answered in between is open in the one and gone from the other.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn show(&self, key: &str) -> Result<Option<Shown>, StoreError> {
        let instance = match self.found(key).await? {
            None => return Ok(None),
            Some(Ok(instance)) => instance,
            Some(Err(Damaged { why: error, .. })) => {
                // What else is stored of it is found by its id.
                let status = InstanceStatus::unreadable(key.to_owned(), error.clone());
                let waits = vec![WaitsFor::Repair { what: "the instance".to_owned(), error }];
                return Ok(Some(Shown { status, commands: Vec::new(), requests: Vec::new(), waits }));
            }
        };
        let commands = self.beside(&self.tables.sends, &instance).await?;
        let shown = |command: Result<_, _>| command.map_or_else(OpenCommand::from, OpenCommand::from);
        let commands: Vec<OpenCommand> = commands.into_iter().map(shown).collect();
        let requests = self.beside(&self.tables.answered, &instance).await?;
        let requests = requests.into_iter().flatten().map(|row| {
            let (asked, answer) = (row.asked, row.answer);
            Asked { verb: asked.verb, by: asked.by, at: asked.at, answer }
        });
        let mut waits = self.waits(&instance, &commands);
        waits.splice(0..0, self.damaged_timers(&instance).await?);
        Ok(Some(Shown { status: instance.into(), commands, requests: requests.collect(), waits }))
    }

    /// Inputs of one of them behind a number, in order, at most `limit`; one that cannot be read is shown as
    /// [that](Came::Unreadable). An instance that ended as it began has none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn inputs(&self, key: &str, after: u64, limit: usize) -> Result<Vec<InputShown>, StoreError> {
        let Some(instance) = self.stored(key).await? else { return Ok(Vec::new()) };
        let (inputs, _) = self.journal(&instance, after, limit).await?;
        Ok(inputs.into_iter().map(|(number, noted)| InputShown::of(number, noted)).collect())
    }

    async fn beside<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
        of: &Instance,
    ) -> Result<Vec<Result<T, Damaged>>, StoreError> {
        let after = of_instance(&of.key, of.id);
        let span = Span { before: Some(behind(&after)), after, limit: SHOWN };
        let rows = self.store.scan_many(table.name(), &[span]).await?;
        Ok(rows.into_iter().flatten().map(|row| Ok(read(table, row)?.value)).collect())
    }

    /// Timers of which the row cannot be read: they do not fire.
    async fn damaged_timers(&self, of: &Instance) -> Result<Vec<WaitsFor>, StoreError> {
        let timers: Vec<_> = of.timers.iter().filter(|(_, timer)| !timer.fired).collect();
        let keys = timers.iter().map(|(name, timer)| Ok(self.tables.timer(of, name, timer)?.key));
        let keys = keys.collect::<Result<Vec<_>, StoreError>>()?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let table = self.tables.timers.table();
        let rows = self.store.rows(table.name(), &keys).await?;
        let damaged = timers.into_iter().zip(rows).filter_map(|((name, _), row)| {
            let Damaged { why: error, .. } = read(table, row?).err()?;
            Some(WaitsFor::Repair { what: format!("its timer {name:?}"), error })
        });
        Ok(damaged.collect())
    }

    fn waits(&self, of: &Instance, commands: &[OpenCommand]) -> Vec<WaitsFor> {
        let mut waits = Vec::new();
        if let Some(parked) = of.parked.as_ref().filter(|parked| !parked.command) {
            waits.push(WaitsFor::Input { number: of.taken + 1, error: parked.error.clone() });
        }
        if definition_of(&self.definitions, of).is_none() && !of.ended {
            waits.push(WaitsFor::Code { version: of.version });
        } else if of.lags() {
            waits.push(WaitsFor::Turn { inputs: of.noted - of.taken });
        }
        // The others are behind it.
        waits.extend(commands.first().cloned().map(|command| {
            if command.held { WaitsFor::Command(command) } else { WaitsFor::Answer(command) }
        }));
        let timers = of.timers.iter().filter(|(_, timer)| !timer.fired);
        waits.extend(timers.map(|(name, timer)| WaitsFor::Timer { name: name.clone(), due: timer.due }));
        if InstanceStatus::from(of.clone()).life == Life::Running {
            waits.push(WaitsFor::Event);
        }
        waits
    }
}
