#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename, Renamed};

#[commands]
impl Pet {
    fn rename<T>(&self, _: Rename) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
