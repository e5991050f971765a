use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Deserialize)]
struct Moved {}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix = "account", retired("account.moved" = Moved))]
enum AccountEvent {
    Opened(Opened),
}

fn main() {}
