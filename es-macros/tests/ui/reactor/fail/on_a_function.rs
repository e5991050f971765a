use es_core::reactor;

#[reactor(name = "welcome")]
fn opened() {}

fn main() {}
