use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix = "account", colour = "red")]
enum AccountEvent {
    Opened(Opened),
    Closed,
    #[event(version = 0, name = "")]
    Reopened(Opened),
    Renamed(String, u32),
}

fn main() {}
