#[path = "../../pet.rs"]
mod pet;

use es_core::commands;
use pet::{No, Pet, Rename, Renamed};

#[commands]
impl Pet {
    async fn rename(&self, _: Rename) -> Result<Renamed, No> {
        let here = std::rc::Rc::new(1);
        std::future::ready(()).await;
        drop(here);
        Ok(Renamed {})
    }
}

fn main() {}
