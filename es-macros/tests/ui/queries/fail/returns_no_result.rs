use es_core::queries;

struct Balances;
struct BalanceOf;

#[queries]
impl Balances {
    async fn balance(&self, _: BalanceOf) -> u64 {
        1
    }
}

fn main() {}
