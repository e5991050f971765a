//! The program as a person runs it: its words, its exit codes, and what is in the log afterwards.

#![cfg(unix)] // signals

mod audit;
mod crew;
mod input;
mod killed;
mod log;
mod play;
mod postgres;
mod program;
mod rows;
