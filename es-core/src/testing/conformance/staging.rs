//! What a handler of a projection stages: K9, P16.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::data::{ANY, encoded};
use super::domain::{Deposited, Donate, deposited};
use super::payments::parked;
use super::{LIMIT, Subject, sent, settle, start, store};
use crate::processor::ProcessorOptions;
use crate::projection::{Project, Projection};
use crate::store::{Backend, Commit, CommitError, EventFilter, RecordedEvent, Transaction as _};
use crate::{App, BoxError, CommandError, chain};

const SHORT: Duration = Duration::from_millis(1);

/// Would pay a fee for each payment, in its own transaction.
#[derive(Debug)]
struct Fee<S>(PhantomData<fn() -> S>);

impl<S: Subject + 'static> Projection for Fee<S> {
    const NAME: &'static str = "fee";
    const SCHEMA: &'static str = S::PAID;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<S: Subject + 'static> Project<<S::Backend as Backend>::Tx> for Fee<S> {
    async fn project(&self, _: &RecordedEvent, tx: &mut <S::Backend as Backend>::Tx) -> Result<(), BoxError> {
        let fee = Commit::default().and("account-fees", ANY, vec![encoded(&deposited(1))]);
        tx.staged().appends.extend(fee.appends);
        Ok(())
    }
}

const SAID: &str = "Send from a reactor";

/// K9
pub async fn a_projection_that_would_send_a_command_parks_its_event<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let brief = ProcessorOptions::default().retries(0, SHORT, SHORT);
    let app = start(|| App::on(store.0.clone()).processors(brief).projection(Fee::<S>(PhantomData))).await;
    sent!(app.send(&"ada".to_owned(), Donate { amount: 1 })).expect("it is accepted");
    settle(&app).await;
    let [only] = &*parked(&app.processors()[0]).await else { panic!("it is parked") };
    assert!(only.error.contains(SAID), "{only:?}");
    assert_eq!(store.head().await, 1);
    assert!(app.shutdown(LIMIT).await);
}

/// P16
pub async fn an_inline_projection_that_would_send_a_command_fails_the_one_it_is_called_for<
    S: Subject + 'static,
>(
    subject: S,
) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).inline_projection(Fee::<S>(PhantomData))).await;
    let (ada, donate) = ("ada".to_owned(), Donate { amount: 1 });
    let failed = sent!(app.send(&ada, donate.clone())).expect_err("the fee would be lost");
    assert!(matches!(failed, CommandError::Commit(CommitError::Projection { .. })), "{failed:?}");
    assert!(chain(&failed).contains(SAID), "{failed:?}");
    let mut tx = store.begin().await;
    let failed = sent!(app.send(&ada, donate.clone()).within(&mut tx)).expect_err("as before");
    assert!(chain(&failed).contains(SAID), "{failed:?}");
    assert!(tx.commit().await.is_err(), "the fee is in there");
    assert_eq!(store.head().await, 0);
}

/// Writes a row, and never comes to an end.
#[derive(Debug)]
struct Stuck<S>(Arc<Notify>, PhantomData<fn() -> S>);

impl<S: Subject + 'static> Projection for Stuck<S> {
    const NAME: &'static str = "stuck";
    const SCHEMA: &'static str = S::PAID;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<S: Subject + 'static> Project<<S::Backend as Backend>::Tx> for Stuck<S> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        S::pay(tx, event.stream.as_str(), 1).await?;
        self.0.notify_one();
        std::future::pending().await
    }
}

/// P16
pub async fn a_command_that_is_given_up_while_it_is_projected_spoils_its_transaction<S: Subject + 'static>(
    subject: S,
) {
    let store = store(&subject).await;
    let begun = Arc::new(Notify::new());
    let stuck = || Stuck::<S>(begun.clone(), PhantomData);
    let app = start(|| App::on(store.0.clone()).inline_projection(stuck())).await;
    let (ada, donate) = ("ada".to_owned(), Donate { amount: 1 });
    let mut tx = store.begin().await;
    loop {
        tokio::select! {
            // The store may be away before it comes so far.
            failed = app.send(&ada, donate.clone()).within(&mut tx) => assert!(failed.is_err(), "{failed:?}"),
            () = begun.notified() => break,
        }
    }
    assert!(tx.commit().await.is_err(), "its row is in there, and its event is not");
    assert_eq!(store.head().await, 0);
}
