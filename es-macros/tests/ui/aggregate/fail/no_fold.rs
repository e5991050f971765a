use es_core::{Aggregate, Event, commands};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Opened {}

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
struct No;

#[derive(Clone, Serialize, Deserialize)]
struct Open {}

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = AccountEvent, error = No)]
struct Account {}

#[commands]
impl Account {
    fn open(_: Open) -> Result<Opened, No> {
        Ok(Opened {})
    }
}

fn main() {}
