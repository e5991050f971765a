#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::App;
use es_core::memory::MemoryBackend;
use es_core::projection;

struct Tx;
struct Balances;

#[projection(name = "balances")]
impl Balances {
    async fn opened(&self, _: &Opened, _: &mut Tx) {}
}

fn main() {
    drop(App::on(MemoryBackend::new()).projection(Balances));
}
