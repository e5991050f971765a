#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename};

#[commands]
impl Pet {
    async fn rename(&self, _: Rename) -> Result<String, No> {
        Ok(String::new())
    }
}

fn main() {}
