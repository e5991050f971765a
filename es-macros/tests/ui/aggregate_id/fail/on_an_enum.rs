use es_core::AggregateId;

#[derive(AggregateId, Clone, Debug)]
enum AccountId {
    Internal(String),
}

fn main() {}
