//! A bank account in one file: commands in, events stored, a view answered from.

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Deposited(u64);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Withdrawn(u64);

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "account")]
enum AccountEvent {
    Deposited(Deposited),
    Withdrawn(Withdrawn),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("only {0} left")]
struct Overdrawn(u64);

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = AccountEvent, error = Overdrawn)]
struct Account(u64);

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(e) => self.0 += e.0,
            AccountEvent::Withdrawn(e) => self.0 -= e.0,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Deposit(u64);
#[derive(Clone, Serialize, Deserialize)]
struct Withdraw(u64);

#[commands]
impl Account {
    #[create_if_missing]
    fn deposit(&self, cmd: Deposit) -> Result<Deposited, Overdrawn> {
        Ok(Deposited(cmd.0))
    }
    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, Overdrawn> {
        if cmd.0 > self.0 { Err(Overdrawn(self.0)) } else { Ok(Withdrawn(cmd.0)) }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Turnover(u64);

#[view(name = "turnover", key = String)]
impl Turnover {
    fn deposited(&mut self, e: &Deposited) {
        self.0 += e.0;
    }
    fn withdrawn(&mut self, e: &Withdrawn) {
        self.0 += e.0;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).view::<Turnover>().start().await?;
    let ada = "ada".to_owned();
    app.send(&ada, Deposit(10)).await?;
    let done = app.send(&ada, Withdraw(3)).await?;
    app.wait_for::<Turnover>(done.position, std::time::Duration::from_secs(1)).await?;
    assert_eq!(app.view::<Turnover>(&ada).await?, Some(Turnover(13)));
    Ok(())
}

#[test]
fn an_account_cannot_be_overdrawn() {
    es_core::testing::given::<Account>(Deposited(10)).when(Withdraw(11)).then_error(Overdrawn(10));
}
