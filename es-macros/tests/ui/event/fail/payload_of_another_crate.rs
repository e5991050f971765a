use es_core::Event;

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(String),
}

fn main() {}
