//! One binary: the contract on PostgreSQL, and what only a server can show.

#![expect(clippy::unwrap_used, reason = "in here, what is not there is a test that fails")]

mod bad_input;
mod batches;
mod conformance;
mod dump;
mod edges;
mod extremes;
mod failover;
mod gate;
mod generations;
mod history;
mod imports;
mod jobs;
mod overload;
mod participants;
mod plain_names;
mod plans;
mod processes;
mod removals;
mod row_order;
mod row_wakes;
mod rules;
mod schema;
mod shown;
mod standby;
mod standing;
mod storms;
mod stuck;
mod support;
mod traps;
mod tx;
mod undo_log;
mod upgrade;
mod witnesses;
mod workers;
