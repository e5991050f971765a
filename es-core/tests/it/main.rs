//! The test kit, tried on the backends of this crate and on itself.

#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod fixtures;
mod kit;
mod memory;
mod rules;
mod sim;
mod warnings;
mod workload;
