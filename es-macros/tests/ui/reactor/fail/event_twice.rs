#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::reactor;

struct Welcome;
struct Mailer;

#[reactor(name = "welcome")]
impl Welcome {
    async fn opened(&self, _: &Opened) -> Result<(), std::fmt::Error> {
        Ok(())
    }

    async fn again(&self, _: &Opened) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

fn main() {}
