use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Event)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
}

fn main() {}
