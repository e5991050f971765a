use crate::pet::{No, PetEvent};
use es_core::commands;
use es_core::prelude::*;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = PetEvent, error = No)]
struct Egg {}

impl Apply for Egg {
    fn apply(&mut self, _: &PetEvent) {}
}

#[commands]
impl Egg {}

#[test]
fn it_is_what_it_says() {}
