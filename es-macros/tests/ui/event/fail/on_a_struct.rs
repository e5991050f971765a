use es_core::Event;

#[derive(Event, Clone)]
#[event(prefix = "account")]
struct Opened {
    owner: String,
}

fn main() {}
