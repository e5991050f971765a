use es_core::{App, queries};

#[derive(Clone)]
struct All;
struct Everything;
struct Balances;

#[queries]
impl Balances {
    async fn all(&self, _: All) -> Result<Everything, std::fmt::Error> {
        Ok(Everything)
    }
}

fn watch(app: &App) {
    drop(app.watch(All));
}

fn main() {}
