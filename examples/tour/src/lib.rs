//! The domain that the topics share. The topics are the program: `cargo run -p tour`.
#![expect(missing_docs, reason = "the names of a bank account say it")]
#![expect(clippy::exhaustive_enums, reason = "an application is its own only user: a `match` has every arm")]

pub mod domain;
