use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Clone, Serialize, Deserialize)]
struct Closed {}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
    #[event(name = "account.opened")]
    Closed(Closed),
}

fn main() {}
