//! A handler that takes `self` says whether there is a row afterwards.

use es_core::prelude::*;
use es_core::projection::Fold;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lent {}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Returned {}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lost {}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "book")]
enum BookEvent {
    Lent(Lent),
    Returned(Returned),
    Lost(Lost),
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
struct OnLoan {
    times: u32,
}

#[view(name = "on_loan", key = String)]
impl OnLoan {
    fn lent(&mut self, _: &Lent) {
        self.times += 1;
    }

    fn returned(mut self, _: &Returned) -> Option<Self> {
        self.times -= 1;
        (self.times > 0).then_some(self)
    }

    fn lost(self, _: Recorded<'_, Lost>) -> Result<Option<Self>, std::fmt::Error> {
        Ok(None)
    }
}

fn handles<V: Fold<P>, P: Payload>() {}

#[test]
fn it_is_what_it_says() {
    handles::<OnLoan, Lent>();
    handles::<OnLoan, Returned>();
    handles::<OnLoan, Lost>();
}
