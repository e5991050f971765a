use es_core::AggregateId;

#[derive(AggregateId, Clone, Debug)]
struct AccountId {
    id: String,
}

fn main() {}
