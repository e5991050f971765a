//! Runs whose store gets another history while they wait for an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use es_core::{App, EventStore as _};
use es_postgres::{PgBackend, Tx};
use sagas::saga::{
    Call, Cx, Outcome, Remote, Retry, Saga, SagaApp as _, SagaInput, Sagas as _, Step, StepError,
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Order {}
impl SagaInput for Order {}

/// A partner who answers once he may.
#[derive(Clone)]
struct Partner(Arc<(AtomicU32, Semaphore)>);

impl Step<Order> for Partner {
    const NAME: &'static str = "ask";
    type Needs = ();
    type Output = u32;
    type Refusal = String;
    type Place = Remote;

    async fn run(&self, _: Cx<'_, Order, ()>, _: &mut Call) -> Result<u32, StepError<String>> {
        let (came, may) = &*self.0;
        came.fetch_add(1, Ordering::SeqCst);
        may.acquire().await.unwrap().forget();
        Ok(7)
    }

    fn retry(&self) -> Retry {
        Retry::default().tries(1)
    }
}

/// The commit of the answer is refused, since it was decided on what was read before: that is no failure of the step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_in_another_history_is_no_failure() {
    let database = es_postgres::testing::database().await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    let partner = Partner(Arc::new((AtomicU32::new(0), Semaphore::new(0))));
    let saga: Saga<Order, Tx> = Saga::new("order", 1).pivot(partner.clone()).build();
    let app = App::on(store.clone()).saga(saga).start().await.unwrap();
    let run = app.start_saga("a", &Order {}).await.unwrap();
    let (came, may) = &*partner.0;
    while came.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let before = store.history();
    let mut conn = PgConnection::connect(database.url()).await.unwrap();
    sqlx::query("update es.history set generation = gen_random_uuid()").execute(&mut conn).await.unwrap();
    may.add_permits(100);
    let outcome = timeout(LIMIT, run.outcome()).await.expect("it ends").unwrap();
    assert_eq!(outcome, Outcome::Completed);
    assert!(store.history() > before);
    let shown = app.saga_runs::<Order>().unwrap().show("a").await.unwrap();
    let journal = format!("{:?}", shown.journal);
    assert!(!journal.contains("Failed"), "{journal}");
}
