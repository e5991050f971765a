//! Old, new and newest on one store, in a rolling deploy and a rollback, under load, while processes are killed: every
//! projection of every version that a live process runs equals a plain fold of the log, and nothing is parked.
//!
//! A run says its seed; `ES_DEPLOYS_SEED` repeats the choices of one. `ES_DEPLOYS_ROUNDS=20 cargo test -p deploys` is a
//! long run.

#![cfg(unix)] // the server of the tests
#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod fleet;
mod roll;
mod stores;
