#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Rename, Renamed};

struct Many<T>(T);

#[commands]
impl<T> Many<T> {
    fn rename(&self, _: Rename) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
