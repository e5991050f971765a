//! Processes and sagas, in the fixtures and on backends.

#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod alerts;
mod bank;
mod cloud_events;
mod crash;
mod crew;
#[macro_use]
mod engine;
mod fixture;
mod history;
#[cfg(feature = "http")]
mod http;
mod inbox;
mod macros;
mod operating;
mod other_history;
#[cfg(feature = "http")]
mod over_the_wire;
#[cfg(feature = "http")]
mod remote;
mod rules;
mod scheduling;
mod sending;
