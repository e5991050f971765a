use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {
    owners: Vec<String>,
}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix = "account")]
enum AccountEvent {
    #[event(tags(owners))]
    Opened(Opened),
}

fn main() {}
