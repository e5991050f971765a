#[path = "../../pet.rs"]
mod pet;

use es_core::App;
use es_core::memory::MemoryBackend;
use pet::Pet;

fn main() {
    drop(App::on(MemoryBackend::new()).aggregate::<Pet>());
}
