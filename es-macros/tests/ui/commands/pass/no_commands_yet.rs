#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::Pet;

#[commands]
impl Pet {}

fn main() {}
