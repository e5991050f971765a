//! The test kit, tried on the backends of this crate and on itself.

#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod circles;
mod code_map;
mod fixtures;
mod gauges;
mod golden;
mod idle;
mod inline;
mod kit;
mod memory;
mod reactors;
mod rekeyed;
mod rules;
mod sending;
mod shown;
mod sim;
mod warnings;
mod workload;

/// A row of the suites' table `paid`, which these backends keep as text.
fn number(row: &[u8]) -> Result<i64, es_core::BoxError> {
    Ok(std::str::from_utf8(row)?.parse()?)
}
