use es_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

struct OpenedV1 {}

impl From<OpenedV1> for Opened {
    fn from(_: OpenedV1) -> Self {
        Self {}
    }
}

#[derive(Event, Clone, Serialize, Deserialize)]
#[event(prefix = "account")]
enum AccountEvent {
    #[event(version = 2, upcast(1 = OpenedV1))]
    Opened(Opened),
}

fn main() {}
