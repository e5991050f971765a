use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix = "account")]
enum AccountEvent {
    #[event(name = "account opened")]
    Opened(Opened),
}

fn main() {}
