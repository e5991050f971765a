#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Renamed};

struct Mine {}

#[commands]
impl Pet {
    fn rename(&self, _: Mine) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
