use es_core::queries;

struct Balances;
struct BalanceOf;

#[queries]
impl Balances {
    async fn balance(&self, _: BalanceOf) -> Result<u64, u8> {
        Ok(1)
    }
}

fn main() {}
