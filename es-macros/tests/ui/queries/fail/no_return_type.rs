use es_core::queries;

struct Balances;
struct BalanceOf;

#[queries]
impl Balances {
    async fn balance(&self, _: BalanceOf) {}
}

fn main() {}
