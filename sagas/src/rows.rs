//! What is stored of a process, and under which keys. Everything is JSON; fields are added with a default.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `process.instances.NAME` | slice, key | an [`Instance`]; one that has ended stays, as the tombstone of its key |
//! | `process.inputs.NAME` | slice, id, number | an input that was [`Noted`] |
//! | `process.associations.NAME` | hash of name and value, id | which instance an association finds |
//! | `hot.process.timers.NAME` | slice, time, hash | a timer that [waits](Waits) |
//! | `hot.process.sends.NAME` | slice, id, input, ordinal | a command that was not answered |
//! | `hot.process.lagging.NAME` | slice, id | an instance that has inputs to take in |
//! | `hot.process.requests.NAME` | slice, id of the request | what an operator [asks](Request) for |
//! | `process.requests.NAME` | slice, id, id of the request | what became of it |
//! | `process.versions.NAME` | version | a program with this version has begun to work |
//! | `hot.process.writes.NAME` | first slice of a range | nothing: whether it can be written says whether the store takes writes |
//! | `process.ended.NAME` | slice, time, id | the key of an instance that has ended, where those are forgotten after some time |
//! | `process.early.NAME` | slice, hash of the key, position, step | an event that came before its instance |
//!
//! The slice is that of the instance's key, so all rows of an instance belong to the range that works on it.

use es_core::command::NamedCommand;
use es_core::limits::LimitError;
use es_core::processor::slice_of;
use es_core::store::keys::Key;
use es_core::store::queue::Queue;
use es_core::store::{HOT, Position, RowWrite, StoreError, Table};
use es_core::{Metadata, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::damaged::Damaged;
use crate::data::Data;
use crate::instance::{Instance, Moment, SetTimer, ToSend};
use crate::next::Association;
use crate::process::Rejected;
use crate::verb::{Answer, By, Verb};

/// Bytes of a key's text that stand in the key of its row; of a longer one, its beginning and a hash.
const KEY_TEXT: usize = 180;

/// The tables of one process.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(crate) instances: Table<Instance>,
    pub(crate) inputs: Table<Noted>,
    pub(crate) associations: Table<Found>,
    pub(crate) timers: Queue<Waits>,
    pub(crate) sends: Table<Sending>,
    pub(crate) early: Table<Early>,
    pub(crate) versions: Table<Begun>,
    /// Of keys of instances.
    pub(crate) lagging: Table<String>,
    pub(crate) requests: Table<Request>,
    pub(crate) answered: Table<Answered>,
    pub(crate) writes: Table<()>,
    /// Of keys of instances.
    pub(crate) ended: Table<String>,
}

/// An input of an instance, when it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(crate) at: Timestamp,
    /// Up to where the log was handled then.
    pub(crate) head: Position,
    pub(crate) input: Input,
    /// The operator who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<By>,
    /// It is not taken in: what is done in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instead: Option<Instead>,
}

impl Noted {
    pub(crate) const fn new(moment: Moment, input: Input) -> Self {
        Self { at: moment.at, head: moment.head, input, by: None, instead: None }
    }
}

/// In the place of an input that failed, an operator has this done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Instead {
    /// Nothing.
    Skip,
    /// The instance ends, with everything up to here.
    End(Position),
}

/// A version of a definition whose instances there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) version: u32,
    /// Since when a program without it has known of no instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unused: Option<Timestamp>,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) key: String,
    pub(crate) id: Uuid,
    pub(crate) verb: Verb,
    pub(crate) by: By,
    pub(crate) at: Timestamp,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answered {
    #[serde(flatten)]
    pub(crate) asked: Request,
    pub(crate) done_at: Timestamp,
    pub(crate) answer: Answer,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Input {
    /// An event, and which of its steps; `None`: there was no code for the instance, whose own definition says so.
    Event {
        position: Position,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u32>,
    },
    /// A command of it was refused: the input that it came from, and its place.
    Refused { input: u64, ordinal: u32, command: NamedCommand, why: Rejected<Data> },
    /// The time of a timer has come: by which input it was set, and which of its effects it was.
    Timer { name: String, input: u64, ordinal: u32 },
    /// An operator wants it.
    Verb(Verb),
}

/// Which instance an association finds. The key of the row has only a hash of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) association: Association,
    pub(crate) key: String,
}

/// A timer in the queue: of which instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waits {
    pub(crate) key: String,
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) input: u64,
    pub(crate) ordinal: u32,
}

/// A command that was not answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sending {
    #[serde(flatten)]
    pub(crate) send: ToSend,
    pub(crate) metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<Trouble>,
}

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    pub(crate) since: Timestamp,
    pub(crate) error: String,
    /// How often it was sent by then.
    pub(crate) attempts: u32,
    /// It is not sent again before an operator says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) held: bool,
}

impl Trouble {
    /// Of a command that cannot be read.
    pub(crate) fn of_damaged(damaged: &Damaged, moment: Moment) -> Self {
        let error = format!("a command of it: {}", damaged.why);
        Self { since: moment.at, error, attempts: 0, held: true }
    }
}

impl Sending {
    pub(crate) fn is_held(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.held)
    }
}

/// An event that came before its instance, by its position and step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Early {
    pub(crate) key: String,
    pub(crate) position: Position,
    pub(crate) step: u32,
}

impl Tables {
    /// Of a process.
    ///
    /// # Errors
    ///
    /// The name cannot be one of tables.
    pub(crate) fn of(process: &str) -> Result<Self, LimitError> {
        let table = |of: &str| format!("process.{of}.{process}");
        Ok(Self {
            instances: Table::new(table("instances"))?,
            inputs: Table::new(table("inputs"))?,
            associations: Table::new(table("associations"))?,
            timers: Queue::new(&table("timers"))?,
            sends: Table::new(format!("{HOT}{}", table("sends")))?,
            early: Table::new(table("early"))?,
            versions: Table::new(table("versions"))?,
            lagging: Table::new(format!("{HOT}{}", table("lagging")))?,
            requests: Table::new(format!("{HOT}{}", table("requests")))?,
            answered: Table::new(table("requests"))?,
            ended: Table::new(table("ended"))?,
            writes: Table::new(format!("{HOT}{}", table("writes")))?,
        })
    }

    /// The row of a timer. Its time is never moved to now, so that the same input gives the same row.
    pub(crate) fn timer(&self, of: &Instance, name: &str, timer: &SetTimer) -> Result<RowWrite, StoreError> {
        let (key, id) = (of.key.clone(), of.id);
        let (input, ordinal) = (timer.input, timer.ordinal);
        let waits = Waits { key, id, name: name.to_owned(), input, ordinal };
        self.timers.push(slice_of(&of.key), timer.due, timer.due, timer_id(id, input, ordinal), waits)
    }

    /// The row of a timer goes.
    pub(crate) fn cleared(&self, of: &Instance, timer: &SetTimer) -> Result<RowWrite, StoreError> {
        Ok(self.timers.table().delete_at(self.timer(of, "", timer)?.key, 1))
    }
}

/// What stands for a timer in the key of its row.
fn timer_id(id: Uuid, input: u64, ordinal: u32) -> Uuid {
    let mut bytes = id.as_bytes().to_vec();
    bytes.extend(input.to_be_bytes());
    bytes.extend(ordinal.to_be_bytes());
    Uuid::from_u128(xxh3_128(&bytes))
}

/// When a timer is due, from the key of its row.
pub(crate) fn due_at(key: &str) -> Option<Timestamp> {
    Timestamp::from_microsecond(key.split(':').nth(1)?.parse().ok()?).ok()
}

/// The key of an instance's row.
pub(crate) fn instance_key(text: &str) -> Result<String, LimitError> {
    let key = Key::in_slice(slice_of(text));
    if text.len() <= KEY_TEXT
        && let Ok(key) = key.clone().text(text).build()
    {
        return Ok(key);
    }
    // Escaped, a character takes at most three bytes for each of its own.
    key.text(&text[..text.floor_char_boundary(KEY_TEXT / 3)]).hash(text).build()
}

/// The key of an instance, by that of its row; `None` if the row has only a part of it.
pub(crate) fn key_of_instance(row: &str) -> Option<String> {
    let (_, text) = row.split_once(':')?;
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        if let (b'%', Some((digits, behind))) = (*first, behind.split_at_checked(2)) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    let key = String::from_utf8(bytes).ok()?;
    instance_key(&key).is_ok_and(|of| of == row).then_some(key)
}

pub(crate) fn input_key(key: &str, id: Uuid, number: u64) -> Result<String, LimitError> {
    Key::in_slice(slice_of(key)).id(id).number(number).build()
}

pub(crate) fn lagging_key(key: &str, id: Uuid) -> Result<String, LimitError> {
    Key::in_slice(slice_of(key)).id(id).build()
}

/// The key of the row that says when an instance ended.
pub(crate) fn ended_key(key: &str, id: Uuid, at: Timestamp) -> Result<String, LimitError> {
    Key::in_slice(slice_of(key)).time(at).id(id).build()
}

/// Which instance ended, by the key of that row.
pub(crate) fn id_of_ended(row: &str) -> Option<Uuid> {
    row.rsplit(':').next()?.parse().ok()
}

/// The key of the row by which a range finds out whether the store takes writes.
pub(crate) fn writes_key(first: u16) -> String {
    Key::in_slice(first).build().expect("four digits")
}

pub(crate) fn request_key(request: &Request) -> Result<String, LimitError> {
    Key::in_slice(slice_of(&request.key)).id(request.by.request).build()
}

pub(crate) fn answered_key(request: &Request) -> Result<String, LimitError> {
    Key::in_slice(slice_of(&request.key)).id(request.id).id(request.by.request).build()
}

/// What the keys of all inputs and commands of an instance begin with, and those of what operators asked of it.
pub(crate) fn of_instance(key: &str, id: Uuid) -> String {
    Key::in_slice(slice_of(key)).id(id).prefix()
}

pub(crate) fn send_key(send: &ToSend) -> Result<String, LimitError> {
    let key = Key::in_slice(slice_of(&send.key)).id(send.id).number(send.input);
    key.number(send.ordinal.into()).build()
}

/// Which input and which of its effects a command came from, by the key of its row.
pub(crate) fn sent_from(row: &str) -> (u64, u32) {
    let mut parts = row.rsplit(':').map(|part| part.parse().unwrap_or_default());
    let ordinal = parts.next().unwrap_or_default();
    (parts.next().unwrap_or_default(), u32::try_from(ordinal).unwrap_or_default())
}

fn association(of: &Association) -> Key {
    // No name has a NUL in it by accident that would read like another pair: the texts are compared as well.
    Key::default().hash(&format!("{}\0{}", of.name, of.value))
}

/// What the keys of all rows of an association begin with.
pub(crate) fn found_by(of: &Association) -> String {
    association(of).prefix()
}

pub(crate) fn association_key(of: &Association, id: Uuid) -> Result<String, LimitError> {
    association(of).id(id).build()
}

pub(crate) fn early_key(early: &Early) -> Result<String, LimitError> {
    let key = Key::in_slice(slice_of(&early.key)).hash(&early.key);
    key.number(early.position.0).number(early.step.into()).build()
}

/// What the keys of all events begin with that came before this instance.
pub(crate) fn early_of(key: &str) -> String {
    Key::in_slice(slice_of(key)).hash(key).prefix()
}

/// Reads a row of a golden file and writes it again: the same text.
#[cfg(test)]
pub(crate) fn pinned<T: Serialize + serde::de::DeserializeOwned>(file: &str, golden: &str) {
    let read: T = serde_json::from_str(golden).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert_eq!(serde_json::to_string(&read).expect("it was read"), golden.trim(), "{file}");
}

#[cfg(test)]
macro_rules! golden {
    ($($test:ident: $of:ty = [$($file:literal),+];)+) => { $(
        #[test]
        fn $test() {
            $($crate::rows::pinned::<$of>(
                $file,
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/", $file, ".json")),
            );)+
        }
    )+ };
}
#[cfg(test)]
pub(crate) use golden;

#[cfg(test)]
mod tests {
    use super::*;

    golden! {
        instances: Instance = ["instance", "instance-parked", "instance-ended"];
        inputs: Noted = ["input-event", "input-event-unread", "input-refused", "input-refused-otherwise", "input-timer", "input-verb"];
        associations: Found = ["association"];
        timers: Waits = ["timer"];
        commands: Sending = ["send", "send-held"];
        versions: Begun = ["version", "version-unused"];
        requests: Request = ["request"];
        answers: Answered = ["request-done", "request-refused"];
        early_events: Early = ["early"];
    }

    #[test]
    fn keys_are_pinned() {
        let id = Uuid::from_u128(0xab);
        assert_eq!(instance_key("t:1").as_deref(), Ok("0160:t%3A1"));
        assert_eq!(input_key("t:1", id, 7).unwrap(), format!("0160:{}:{:020}", id.simple(), 7));
        let of = Association::new("receipt", 7);
        assert_eq!(association_key(&of, id).unwrap(), format!("5edea8a5d989dc77:{}", id.simple()));
        let early = Early { key: "t:1".to_owned(), position: Position(9), step: 1 };
        assert_eq!(early_key(&early).unwrap(), format!("0160:2806f68bafa4b0d5:{:020}:{:020}", 9, 1));
        let ended = ended_key("t:1", id, Timestamp::from_microsecond(9).unwrap()).unwrap();
        assert_eq!(ended, format!("0160:{:020}:{}", 9, id.simple()));
        assert_eq!(id_of_ended(&ended), Some(id));
        assert_eq!(timer_id(id, 1, 2).simple().to_string(), "1d7de126413d10fe089d25f7c130abc4");
    }

    #[test]
    fn keys_of_any_length_have_rows_of_their_own() {
        let long = ["ä", ":", "a", "\u{1}"].map(|c| c.repeat(255 / c.len()));
        let mut keys: Vec<String> = long.iter().map(|key| instance_key(key).unwrap()).collect();
        keys.extend(long.iter().map(|key| instance_key(&key[..key.len() - key.len() % 2 - 2]).unwrap()));
        // A part of such a key names nobody.
        assert!(keys.iter().all(|row| key_of_instance(row).is_none()));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 8);
        for key in ["t:1", "a%3Ab", "ä%", "\u{1}", " ", "x y"] {
            assert_eq!(key_of_instance(&instance_key(key).unwrap()).as_deref(), Some(key));
        }
    }
}
