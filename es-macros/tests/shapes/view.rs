use crate::bank::{AccountId, Deposited, Opened, Withdrawn};
use es_core::prelude::*;
use es_core::projection::{Fold, OnFailure, Projection};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct ById {}

#[view(name = "by_id", version = 2, key = AccountId)]
impl ById {
    fn opened(&mut self, _: &Opened) {}

    fn deposited(&mut self, e: es_core::Recorded<'_, Deposited>) -> Result<(), BoxError> {
        e.position().map(drop).ok_or_else(|| "inline".into())
    }

    #[cfg(any())]
    fn gone(&mut self, _: &Gone) {}
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct ByField {}

impl Opened {
    fn letters(&self) -> Vec<String> {
        self.owner.chars().map(String::from).collect()
    }
}

#[view(name = "by_field", key = String, on_failure = skip, idempotent, crate = ::es_core)]
impl ByField {
    #[on(by = letters())]
    fn opened(&mut self, _: &Opened) {}
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct ByNumber {}

#[view(name = "by_number", key = u64)]
impl ByNumber {
    #[on(by = amount)]
    fn deposited(&mut self, _: &Deposited) -> Result<(), std::fmt::Error> {
        Ok(())
    }

    #[on(by = amount.checked_sub(1))]
    fn withdrawn(&mut self, _: &Withdrawn) {}
}

fn folds<V: Fold<P>, P: Payload>() -> (&'static str, u32) {
    (V::NAME, V::VERSION)
}

#[test]
fn it_is_what_it_says() {
    assert_eq!(folds::<ById, Opened>(), ("by_id", 2));
    assert_eq!(folds::<ByField, Opened>(), ("by_field", 1));
    assert_eq!(folds::<ByNumber, Withdrawn>(), ("by_number", 1));
    assert_eq!((ById::ON_FAILURE, ById::IDEMPOTENT), (OnFailure::Park, false));
    assert_eq!((ByField::ON_FAILURE, ByField::IDEMPOTENT), (OnFailure::Skip, true));
}
