//! Side effects of events that could not be decoded when their range passed them: K10.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::domain::Deposited;
use super::double::{Double, Line};
use super::payments::{Poison, World, accounts, eventually, parked_keys};
use super::{Subject, settle, start};
use crate::processor::{Admission, Calls, Execution, Failure, Keeps, Opening, Runner, Session};
use crate::store::{Backend, Commit, CommitError, EventFilter, Position, RecordedEvent, RowWrite};
use crate::{App, BoxError};

const SHORT: Duration = Duration::from_millis(1);
/// Short, so that it runs out soon.
const LEASE: Duration = Duration::from_millis(400);

/// Sends a letter for each account of a payment, once it may. Clones share what was sent.
#[derive(Clone, Debug)]
struct Letters {
    may: Arc<Semaphore>,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    /// How many letters were about to be sent.
    begun: usize,
    /// How many of them were not.
    failed: usize,
    sent: Vec<(String, Position)>,
}

impl Letters {
    fn new() -> Self {
        Self { may: Arc::new(Semaphore::new(0)), told: Arc::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on<B: Backend + Clone>(&self, backend: &B) -> LettersRunner<B> {
        LettersRunner { backend: backend.clone(), letters: self.clone() }
    }

    async fn until(&self, what: impl Fn(&Told) -> bool) {
        eventually(async || {
            let told = self.told();
            if what(&told) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
    }
}

struct LettersRunner<B> {
    backend: B,
    letters: Letters,
}

impl<B: Backend + Clone> Runner for LettersRunner<B> {
    fn name(&self) -> String {
        "letters".to_owned()
    }

    fn filter(&self) -> EventFilter {
        EventFilter::of::<Deposited>()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    fn execution(&self) -> Execution {
        Execution { splits: true, ..Execution::default() }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        accounts(event)
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        let (backend, letters) = (self.backend.clone(), self.letters.clone());
        Box::new(LettersSession { backend, letters, calls: opening.calls() })
    }
}

struct LettersSession<B> {
    backend: B,
    letters: Letters,
    calls: Calls,
}

impl<B: Backend> LettersSession<B> {
    async fn send(&self, event: &RecordedEvent, account: &str) -> Result<(), Failure> {
        self.letters.told().begun += 1;
        if let Ok(may) = self.letters.may.acquire().await {
            may.forget();
        }
        let send = async |_| {
            self.letters.told().sent.push((account.to_owned(), event.place()));
            Ok(())
        };
        let sent = self.calls.make(&[(event, account)], 1, send).await;
        self.letters.told().failed += usize::from(sent.is_err());
        sent
    }
}

#[async_trait]
impl<B: Backend> Session for LettersSession<B> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        for event in events {
            match accounts(event) {
                Ok(accounts) => {
                    for account in accounts.iter().filter(|account| admission.admits(event, account)) {
                        self.send(event, account).await?;
                    }
                }
                Err(source) => {
                    let guess = event.stream.as_str();
                    if admission.admits_undecoded(event, guess, &*source) {
                        return Err(Failure::of_undecoded(event, guess, source));
                    }
                    admission.pass_undecoded(event, guess.to_owned());
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.backend.commit(Commit { rows, ..Commit::default() }).await.map(drop)
    }
}

/// K10
pub async fn a_late_event_that_meets_the_end_of_a_lease_is_acted_on_under_the_next<S: Subject>(subject: S) {
    let (world, hidden, letters) = (World::<S>::new(&subject).await, Poison::new(), Letters::new());
    let line = Double::new(world.store.0.clone());
    let wiring = || {
        let app = App::on(line.clone()).runner(letters.on(&line)).lease(LEASE);
        app.processor_retries(1, SHORT, SHORT)
    };
    let app = start(wiring).await;
    world.put("a", vec![hidden.hidden(1, &["b"])]).await;
    settle(&app).await;
    let processor = &app.processors()[0];
    assert_eq!(parked_keys(processor).await, [("account-a".to_owned(), 1)]);
    hidden.mend();
    super::poisoned::ask(processor, "account-a").await;
    letters.until(|told| told.begun > 0).await;
    // The store takes everything but that the node is alive.
    line.set(Line::Refuses("nodes"));
    tokio::time::sleep(LEASE * 2).await;
    letters.may.add_permits(1_000);
    letters.until(|told| told.failed > 0).await;
    line.set(Line::Up);
    eventually(async || match &*parked_keys(processor).await {
        [] => Ok(()),
        [(key, _)] if key == "account-a" => Err("it is not taken in".to_owned()),
        parked => panic!("nothing has failed: {parked:?}"),
    })
    .await;
    assert_eq!(letters.told().sent, [("b".to_owned(), Position(1))]);
}
