#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{Pet, Rename, Vet};

#[commands]
impl Pet {
    const LONGEST: usize = 10;

    fn rename(&mut self, _: &Rename, _: Vet) {}

    fn helper() -> bool {
        true
    }
}

fn main() {}
