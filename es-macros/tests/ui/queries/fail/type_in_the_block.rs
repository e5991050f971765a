use es_core::queries;

struct Balances;
struct BalanceOf;

#[queries]
impl Balances {
    type Row = u64;

    async fn balance(&self, _: BalanceOf) -> Result<u64, std::fmt::Error> {
        Ok(1)
    }
}

fn main() {}
