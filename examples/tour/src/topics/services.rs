//! A handler that has to ask somebody: the service comes by its type, and is provided once.

use es_core::ErrorKind;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Granted {
    amount: i64,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "loan")]
enum LoanEvent {
    Granted(Granted),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("at most {0}")]
struct TooMuch(i64);

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = u64, event = LoanEvent, error = TooMuch)]
struct Loan;

impl Apply for Loan {
    fn apply(&mut self, _: &LoanEvent) {}
}

/// A client of something outside. Behind an `Arc<dyn ..>` in a newtype it can be faked in a test.
struct CreditOffice {
    answers: bool,
}

impl CreditOffice {
    async fn limit(&self) -> Result<i64, std::io::Error> {
        if self.answers { Ok(1_000) } else { Err(std::io::ErrorKind::TimedOut.into()) }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Grant {
    amount: i64,
}

#[commands]
impl Loan {
    /// It may run again after a conflict: it asks, and changes nothing.
    #[create_if_missing]
    async fn grant(&self, cmd: Grant, office: &CreditOffice) -> Result<Granted, Failure<TooMuch>> {
        let limit = office.limit().await.map_err(Failure::service)?;
        if cmd.amount > limit {
            return Err(TooMuch(limit).into());
        }
        Ok(Granted { amount: cmd.amount })
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).provide(CreditOffice { answers: true }).start().await?;
    app.send(&1, Grant { amount: 1_000 }).await?;
    let refused = app.send(&1, Grant { amount: 1_001 }).await.expect_err("too much");
    assert_eq!(refused.refusal(), Some(&TooMuch(1_000)));

    // A service that fails is no refusal: it is not remembered, and may be tried again.
    let app = App::on(MemoryBackend::new()).provide(CreditOffice { answers: false }).start().await?;
    let failed = app.send(&1, Grant { amount: 1 }).idempotency_key("loan").await.expect_err("no answer");
    assert!(matches!(failed, CommandError::Service(_)) && failed.kind() == ErrorKind::Transient);

    // With `.aggregate::<..>()` a missing service is found at start and not at the first command.
    let missing = App::on(MemoryBackend::new()).aggregate::<Loan>().start().await.expect_err("no office");
    crate::say(missing);
    Ok(())
}
