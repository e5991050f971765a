use es_core::AggregateId;

#[derive(AggregateId, Clone, Debug)]
struct AccountId(Vec<u8>);

fn main() {}
