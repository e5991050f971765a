#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename, Renamed};

trait Named {
    fn rename(&self, cmd: Rename) -> Result<Renamed, No>;
}

#[commands]
impl Named for Pet {
    fn rename(&self, _: Rename) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
