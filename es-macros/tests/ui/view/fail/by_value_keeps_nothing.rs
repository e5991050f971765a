use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Returned {}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "book")]
enum BookEvent {
    Returned(Returned),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
struct No;

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = String, event = BookEvent, error = No)]
struct Book;

impl Apply for Book {
    fn apply(&mut self, _: &BookEvent) {}
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct OnLoan {}

#[view(name = "on_loan", key = String)]
impl OnLoan {
    fn returned(self, _: &Returned) {}
}

fn main() {}
