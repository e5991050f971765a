//! Processes, in the fixture and on backends.

#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod alerts;
mod bank;
mod cloud_events;
#[macro_use]
mod engine;
mod fixture;
mod history;
#[cfg(feature = "http")]
mod http;
mod inbox;
mod macros;
mod operating;
mod rules;
mod scheduling;
mod sending;
