//! Payload bytes ↔ values. The codec's name is recorded with every event.

mod finite;

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::BoxError;
pub use crate::event::{DecodeError, DecodeProblem, EncodeError};

/// The largest buffer that a thread keeps for its next payload, in bytes.
const KEPT: usize = 64 * 1024;

/// The stored name of [`Json`].
pub const JSON: &str = "json";

/// How payloads become bytes; chosen per event enum with `#[event(codec = MyCodec)]`.
///
/// Law: `decode(encode(v)) == v`, for ever. The stored name is a format: a codec that changes its
/// bytes takes another name.
pub trait Codec {
    /// Stored with every event.
    const NAME: &'static str;
    /// # Errors
    ///
    /// Whatever the format cannot hold.
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, BoxError>;
    /// # Errors
    ///
    /// Malformed bytes.
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError>;
}

/// JSON, the default: readable in any database tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    const NAME: &'static str = JSON;

    fn encode<T: Serialize>(value: &T) -> Result<Bytes, BoxError> {
        // A buffer that is used again, and a copy of the right size: events are kept, their spare room is not.
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let mut buffer = BUFFER.take();
        buffer.clear();
        let mut nulls = false;
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut buffer, Nulls(&mut nulls)))?;
        // serde_json writes NaN and infinities as `null`. Only then is a second look paid for.
        if nulls {
            finite::check(value)?;
        }
        let bytes = Bytes::copy_from_slice(&buffer);
        if buffer.capacity() <= KEPT {
            BUFFER.set(buffer);
        }
        Ok(bytes)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A value as JSON in memory.
///
/// # Errors
///
/// What JSON cannot hold: a NaN, say, or a number of more than 64 bits.
pub fn to_value<T: Serialize>(value: &T) -> Result<serde_json::Value, BoxError> {
    finite::check(value)?;
    Ok(serde_json::to_value(value)?)
}

/// Bytes of a value as JSON. They are counted, not kept.
///
/// # Errors
///
/// It cannot be written as JSON.
pub fn json_len<T: Serialize>(value: &T) -> serde_json::Result<usize> {
    struct Counts(usize);
    impl io::Write for Counts {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counts = Counts(0);
    serde_json::to_writer(&mut counts, value)?;
    Ok(counts.0)
}

/// Compact JSON; notes whether there was a `null`.
struct Nulls<'n>(&'n mut bool);

impl serde_json::ser::Formatter for Nulls<'_> {
    fn write_null<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        *self.0 = true;
        writer.write_all(b"null")
    }
}
