use es_core::{Aggregate, Event};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
struct No;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = AccountEvent, error = No)]
struct Account<T> {
    of: T,
}

fn main() {}
