#[path = "../../bank.rs"]
mod bank;

use bank::Account;
use es_core::Command;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Rename {}

impl Command for Rename {
    const NAME: &'static str = "rename";
    type Aggregate = Account;
}

fn main() {}
