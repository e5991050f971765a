//! What an operator does: the contract on a partitioned store, archives, redactions, imports, roles.

#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod account;
mod archive;
mod cli;
mod conformance;
mod forget;
mod import;
mod partition;
mod rebuilds;
mod redact;
mod refused;
mod roles;
mod shop;
mod verify;
