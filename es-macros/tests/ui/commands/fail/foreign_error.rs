#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{Pet, Rename, Renamed};

#[commands]
impl Pet {
    fn rename(&self, _: Rename) -> Result<Renamed, std::fmt::Error> {
        Ok(Renamed {})
    }
}

fn main() {}
