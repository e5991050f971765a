use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Deserialize)]
struct Old {}

impl From<Old> for Vec<AccountEvent> {
    fn from(_: Old) -> Self {
        Vec::new()
    }
}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix = "account", retired("account.opened" = Old))]
enum AccountEvent {
    Opened(Opened),
}

fn main() {}
