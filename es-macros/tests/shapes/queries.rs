use es_core::query::{Gathers, Rows};
use es_core::{App, BoxError, Gather, Query, Views, queries};

#[derive(Clone, Copy, Debug, PartialEq)]
struct Balances(u64);
struct BalanceOf(u64);
struct All;
struct Mine;
struct Gone;
struct Each;
struct Few;

#[derive(Clone)]
struct Quote;

impl Gather for Quote {
    type Answer = u64;
}

#[derive(Clone)]
struct Guess;

impl Gather for Guess {
    type Answer = Balances;
}

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

    fn each(&self, _: Each) -> Rows<u64> {
        Box::pin(futures::stream::iter([Ok(self.0)]))
    }

    async fn few(&self, _: Few) -> Result<Rows<u64>, BoxError> {
        Ok(Box::pin(futures::stream::iter([Ok(self.0)])))
    }

    #[gather]
    async fn quote(&self, _: Quote, _: &Views) -> Result<u64, &'static str> {
        Ok(self.0)
    }

    #[gather]
    fn guess(&self, _: Guess) -> Result<Self, BoxError> {
        Ok(*self)
    }

    #[cfg(any())]
    async fn gone(&self, _: Gone) -> Result<Never, Never> {
        Ok(())
    }

    #[cfg(any())]
    #[gather]
    async fn gone_too(&self, _: GoneToo) -> Result<Never, Never> {
        Ok(())
    }
}

fn answer<Q: Query<Handler = Balances, Answer = A>, A>() {}

fn gathers<H: Gathers<Q>, Q: Gather>() {}

#[test]
fn it_is_what_it_says() {
    answer::<BalanceOf, Option<u64>>();
    answer::<Mine, Balances>();
    answer::<Each, Rows<u64>>();
    answer::<Few, Rows<u64>>();
    gathers::<Balances, Quote>();
    gathers::<Balances, Guess>();
    let _ = App::query::<BalanceOf>;
}
