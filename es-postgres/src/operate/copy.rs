//! Rows in the binary format of COPY: <https://www.postgresql.org/docs/current/sql-copy.html>.

use es_core::clock::Timestamp;

use crate::row::EPOCH;

/// The bytes of one COPY.
#[derive(Debug)]
pub(super) struct Rows(Vec<u8>);

impl Rows {
    pub(super) fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend(b"PGCOPY\n\xff\r\n\0");
        // No flags, and no extension of the header.
        bytes.extend([0; 8]);
        Self(bytes)
    }

    /// Begins a row of this many fields.
    pub(super) fn row(&mut self, fields: i16) -> &mut Self {
        self.0.extend(fields.to_be_bytes());
        self
    }

    /// A `bigint`.
    pub(super) fn long(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// An `integer`.
    pub(super) fn int(&mut self, value: i32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A `timestamptz`.
    pub(super) fn time(&mut self, value: Timestamp) -> &mut Self {
        self.long(value.as_microsecond().saturating_sub(EPOCH))
    }

    /// A `bytea` or a `text`. The limits keep it far below 2 GiB.
    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend(i32::try_from(value.len()).unwrap_or(i32::MAX).to_be_bytes());
        self.0.extend(value);
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.extend((-1_i16).to_be_bytes());
        self.0
    }
}
