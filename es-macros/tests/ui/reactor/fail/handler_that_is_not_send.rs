#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::reactor;

struct Welcome;
struct Mailer;

#[reactor(name = "welcome")]
impl Welcome {
    async fn opened(&self, _: &Opened) {
        let here = std::rc::Rc::new(1);
        std::future::ready(()).await;
        drop(here);
    }
}

fn main() {}
