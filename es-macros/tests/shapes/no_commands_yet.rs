use crate::pet::No;
use es_core::commands;
use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Laid {}

#[derive(Event, Clone)]
#[event(prefix = "egg")]
enum EggEvent {
    Laid(Laid),
}

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = EggEvent, error = No)]
struct Egg {}

impl Apply for Egg {
    fn apply(&mut self, _: &EggEvent) {}
}

#[commands]
impl Egg {}

#[test]
fn it_is_what_it_says() {}
