use es_core::view;

#[view(name = "balance", key = String)]
struct Balance {
    amount: u64,
}

fn main() {}
