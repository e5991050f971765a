#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{Pet, Rename};

#[commands]
impl Pet {
    fn rename(&self, _: Rename) {}
}

fn main() {}
