#[path = "../../bank.rs"]
mod bank;

use es_core::reactor;

struct Welcome;
struct Mailer;

#[reactor(name = "welcome")]
impl Welcome {
    async fn opened(&self, _: &Mailer) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

fn main() {}
