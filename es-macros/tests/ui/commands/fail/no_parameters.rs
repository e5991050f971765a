#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Renamed};

#[commands]
impl Pet {
    fn helper() -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
