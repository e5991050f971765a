#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename, Renamed};

mod other {
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    pub struct Rename {}
}

#[commands]
impl Pet {
    fn rename(&self, _: Rename) -> Result<Renamed, No> {
        Ok(Renamed {})
    }

    fn other(&self, _: other::Rename) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
