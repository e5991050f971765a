//! One binary: the contract on SQLite, and what only a file can show.

#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod attempts;
mod bank;
mod conformance;
mod files;
mod forget;
mod generations;
mod golden;
mod history;
mod holding;
mod overload;
mod redact;
mod rows;
mod upgrade;
mod versions;
mod wal;
