#[path = "../ui/pet.rs"]
mod pet;

use es_core::commands;
use pet::Pet;

#[commands]
impl Pet {}

#[test]
fn it_is_what_it_says() {}
