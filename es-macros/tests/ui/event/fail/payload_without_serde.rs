use es_core::Event;

#[derive(Clone)]
struct Opened {}

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
}

fn main() {}
