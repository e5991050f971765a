#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename, Renamed};

#[commands(aggregate = Pet)]
impl Pet {
    fn rename(&self, _: Rename) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
