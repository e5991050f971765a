#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::reactor;

struct Welcome;
struct Mailer;

#[reactor]
impl Welcome {
    async fn opened(&self, _: &Opened, _: &Mailer) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

fn main() {}
