use es_core::Event;

#[derive(Event, Clone, Copy)]
#[event(prefix = "account")]
union AccountEvent {
    opened: u8,
}

fn main() {}
