use es_core::queries;

struct Balances;
struct BalanceOf;

#[queries]
impl Balances {
    async fn balance(&self, _: BalanceOf) -> Result<u64, std::fmt::Error> {
        let here = std::rc::Rc::new(1);
        std::future::ready(()).await;
        Ok(*here)
    }
}

fn main() {}
