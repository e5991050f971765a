//! The test kit, tried on the backends of this crate and on itself.

mod fixtures;
mod kit;
mod memory;
mod rules;
mod sim;
mod warnings;
mod workload;
