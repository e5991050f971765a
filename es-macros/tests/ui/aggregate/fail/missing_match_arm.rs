use es_core::{Aggregate, Apply, Event};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Clone, Serialize, Deserialize)]
struct Closed {}

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
    Closed(Closed),
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
struct No;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = AccountEvent, error = No)]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => {}
        }
    }
}

fn main() {}
