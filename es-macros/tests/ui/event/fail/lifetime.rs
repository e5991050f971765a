use es_core::Event;

#[derive(Clone)]
struct Opened<'a>(&'a str);

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum AccountEvent<'a> {
    Opened(Opened<'a>),
}

fn main() {}
