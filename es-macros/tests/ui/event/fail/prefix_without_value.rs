use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix)]
enum AccountEvent {
    Opened(Opened),
}

fn main() {}
