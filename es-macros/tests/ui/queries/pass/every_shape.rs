use es_core::{App, BoxError, Query, Views, queries};

#[derive(Clone, Copy, Debug, PartialEq)]
struct Balances(u64);
struct BalanceOf(u64);
struct All;
struct Mine;
struct Gone;

#[queries(crate = ::es_core)]
impl Balances {
    /// Asks for two services.
    pub async fn balance(&self, q: BalanceOf, _: &Views, app: &u8) -> Result<Option<u64>, BoxError> {
        Ok(Some(self.0 + q.0 + u64::from(*app)))
    }

    fn all(&self, _: All) -> Result<Vec<(u64, u64)>, &'static str> {
        Err("none")
    }

    async fn mine(&self, _: Mine) -> Result<Self, std::io::Error> {
        Ok(*self)
    }

    #[cfg(any())]
    async fn gone(&self, _: Gone) -> Result<Never, Never> {
        Ok(())
    }
}

fn answer<Q: Query<Handler = Balances, Answer = A>, A>() {}

fn main() {
    answer::<BalanceOf, Option<u64>>();
    answer::<Mine, Balances>();
    let _ = App::query::<BalanceOf>;
}
