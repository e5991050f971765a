use es_core::Aggregate;

#[derive(Aggregate, Clone, Default)]
struct Account {}

fn main() {}
