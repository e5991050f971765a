//! The program as a person runs it: its words, its exit codes, and what is stored after it was killed.

#![cfg(unix)] // signals

mod database;
mod input;
mod killed;
mod online;
mod order;
mod postgres;
mod program;
mod status;
