use es_core::AggregateId;

#[derive(AggregateId, Clone, Debug)]
struct AccountId(String, u32);

fn main() {}
