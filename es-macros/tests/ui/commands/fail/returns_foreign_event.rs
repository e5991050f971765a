#[path = "../../pet.rs"]
mod pet;

use es_core::{Event, commands};
use serde::{Deserialize, Serialize};
use pet::{No, Pet, Rename};

#[derive(Clone, Serialize, Deserialize)]
struct Left {}

#[derive(Event, Clone)]
#[event(prefix = "course")]
enum CourseEvent {
    Left(Left),
}

#[commands]
impl Pet {
    fn rename(&self, _: Rename) -> Result<Left, No> {
        Ok(Left {})
    }
}

fn main() {}
