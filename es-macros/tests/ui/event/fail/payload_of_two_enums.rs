use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
}

#[derive(Event, Clone)]
#[event(prefix = "ledger")]
enum LedgerEvent {
    Opened(Opened),
}

fn main() {}
