//! The program as a person runs it, on databases that the tests look into.

#![cfg(unix)] // the server of the tests

mod compare;
mod input;
mod killed;
mod program;
mod reconcile;
mod statement;
mod transfer;
