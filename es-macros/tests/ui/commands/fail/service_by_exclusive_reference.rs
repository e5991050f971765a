#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename, Renamed, Vet};

#[commands]
impl Pet {
    fn rename(&self, _: Rename, _: &mut Vet) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
