#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Renamed};

#[commands]
impl Pet {
    fn rename(&self) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
