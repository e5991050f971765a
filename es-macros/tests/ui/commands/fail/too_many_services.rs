#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename, Renamed};

#[commands]
impl Pet {
    fn rename(
        &self,
        _: Rename,
        _: &u8,
        _: &u16,
        _: &u32,
        _: &u64,
        _: &i8,
        _: &i16,
        _: &i32,
        _: &i64,
        _: &f32,
    ) -> Result<Renamed, No> {
        Ok(Renamed {})
    }
}

fn main() {}
