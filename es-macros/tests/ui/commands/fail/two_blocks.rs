#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{Feed, No, Pet, Rename, Renamed};

#[commands]
impl Pet {
    fn rename(&self, _: Rename) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

#[commands]
impl Pet {
    fn feed(&self, _: Feed) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
