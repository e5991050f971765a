//! Reactors that handle more than an older program did, which may pass what it does not know: P17, P18.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::data::encoded;
use super::domain::{Deposited, Opened, opened};
use super::double::{Double, Line};
use super::inline::{judged_start, refused_start};
use super::patient::Patient;
use super::payments::{eventually, payment, rows};
use super::{LIMIT, Subject, settle, start, store};
use crate::processor::{Backfill, ProcessorOptions};
use crate::projection::Code;
use crate::services::{Scope, Services};
use crate::store::{Backend, EventFilter, Position, RecordedEvent};
use crate::testing::Log;
use crate::{App, AppBuilder, BoxError, Reactor};

/// Long enough for a busy machine, and short enough to be waited for.
const LEASE: Duration = Duration::from_secs(1);
const PASSED: &str = "it handles account.opened now, and such events were passed without it, the first at #3";

/// A program that greets for payments; with `MORE` also for accounts. `LATER` has another name for it.
#[derive(Clone, Debug)]
struct Greets<const MORE: bool, const LATER: bool = false> {
    may: Arc<Semaphore>,
    greeted: Arc<Mutex<Vec<Position>>>,
    begun: Arc<Mutex<Vec<Position>>>,
}

impl<const MORE: bool, const LATER: bool> Greets<MORE, LATER> {
    fn new(may: usize) -> Self {
        Self { may: Arc::new(Semaphore::new(may)), greeted: Arc::default(), begun: Arc::default() }
    }

    /// Another program, which shares what was done.
    fn program<const M: bool, const L: bool>(&self) -> Greets<M, L> {
        Greets { may: self.may.clone(), greeted: self.greeted.clone(), begun: self.begun.clone() }
    }

    /// For which events it has acted.
    fn greeted(&self) -> Vec<u64> {
        let greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
        greeted.iter().map(|position| position.0).collect()
    }

    fn wiring<B: Backend + Clone>(&self, backend: &B) -> AppBuilder<B> {
        App::on(backend.clone()).reactor(self.clone()).lease(LEASE)
    }
}

impl<const MORE: bool, const LATER: bool> Reactor for Greets<MORE, LATER> {
    const NAME: &'static str = if LATER { "welcomes" } else { "greets" };
    const WAS: Option<&'static str> = if LATER { Some("greets") } else { None };
    fn filter() -> EventFilter {
        let payments = EventFilter::of::<Deposited>();
        if MORE { payments.or(EventFilter::of::<Opened>()) } else { payments }
    }
    fn code() -> Code {
        let code = Code::new(MORE.into()).handling::<Deposited>();
        if MORE { code.handling::<Opened>() } else { code }
    }
    async fn react(&self, event: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(event.place());
        self.may.acquire().await?.forget();
        self.greeted.lock().unwrap_or_else(PoisonError::into_inner).push(event.place());
        Ok(())
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// P18
pub async fn an_older_program_passes_nothing_that_the_newer_one_acts_on<S: Subject>(subject: S) {
    let (store, less) = (store(&subject).await, Greets::<false>::new(0));
    let line = Double::new(subject.again(&store.0).await);
    let old = start(|| less.wiring(&line)).await;
    store.put("account-a", vec![payment(1)]).await;
    let begun = || less.begun.lock().unwrap_or_else(PoisonError::into_inner).len();
    eventually(async || if begun() > 0 { Ok(()) } else { Err("nothing has begun".to_owned()) }).await;
    let share = async || {
        let row = store.row("checkpoints", "greets~1#0000").await.expect("it is worked on");
        let row: serde_json::Value = serde_json::from_slice(&row.data).expect("a share");
        (row["owner"].clone(), row["position"].as_u64().unwrap_or_default())
    };
    let (own, _) = share().await;
    // While it acts, another program comes, of which it sees nothing.
    line.set(Line::HoldsScans("es.codes"));
    let more = less.program::<true, false>();
    let new = start(|| more.wiring(&store.0)).await;
    store.put("account-b", vec![encoded(&opened("Ada")), payment(1)]).await;
    let tried = line.commits("checkpoints").len();
    less.may.add_permits(1_000);
    // The older one tries to go on: its share was taken from it, or it passes what only the newer one handles.
    eventually(async || {
        let (owner, position) = share().await;
        let over = owner != own || position > 1;
        if over && line.commits("checkpoints").len() > tried {
            Ok(())
        } else {
            Err(format!("{owner} {position}"))
        }
    })
    .await;
    line.set(Line::Up);
    settle(&new).await;
    let mut greeted = less.greeted();
    assert_eq!(greeted.iter().filter(|position| **position == 2).count(), 1, "{greeted:?}");
    greeted.sort_unstable();
    greeted.dedup();
    assert_eq!(greeted, [1, 2, 3]);
    drop((old, new));
}

/// A program that handles accounts is rolled back to one that does not, which passes one.
async fn rolled_back<S: Subject>(store: &Patient<S::Backend>) -> Greets<false> {
    let less = Greets::<false>::new(1_000);
    let more = start(|| less.program::<true, false>().wiring(&store.0)).await;
    store.put("account-a", vec![encoded(&opened("Ada")), payment(1)]).await;
    settle(&more).await;
    assert!(more.shutdown(LIMIT).await);
    let rolled_back = start(|| less.wiring(&store.0)).await;
    store.put("account-b", vec![encoded(&opened("Bob")), payment(1)]).await;
    settle(&rolled_back).await;
    assert!(rolled_back.shutdown(LIMIT).await);
    assert_eq!(less.greeted(), [1, 2, 4]);
    less
}

/// Rolled forward: it does not start if it must not leave anything out, else it says what it leaves out.
async fn rolled_forward<S: Subject, const LATER: bool>(subject: &S) {
    let store = store(subject).await;
    let less = rolled_back::<S>(&store).await;
    let more = less.program::<true, LATER>();
    eventually(async || match more.wiring(&store.0).processors(refuses()).start().await {
        Err(error) if error.to_string().contains(PASSED) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => panic!("it has missed an event"),
    })
    .await;
    let (log, _guard) = Log::catch();
    let new = start(|| more.wiring(&store.0)).await;
    let said = log.take().join("\n");
    assert!(said.contains("goes on without the events that were passed") && said.contains(PASSED), "{said}");
    store.put("account-c", vec![encoded(&opened("Cyd")), payment(1)]).await;
    settle(&new).await;
    assert_eq!(less.greeted(), [1, 2, 4, 5, 6]);
}

/// P17
pub async fn a_reactor_says_what_an_older_program_has_passed_without_it<S: Subject>(subject: S) {
    rolled_forward::<S, false>(&subject).await;
}

/// P17
pub async fn a_renamed_reactor_says_what_an_older_program_has_passed_without_it<S: Subject>(subject: S) {
    rolled_forward::<S, true>(&subject).await;
}

/// A program's other reactor; `LATER` has another name for it.
#[derive(Clone, Debug)]
struct Notes<const LATER: bool>;

impl<const LATER: bool> Reactor for Notes<LATER> {
    const NAME: &'static str = if LATER { "letters" } else { "notes" };
    const WAS: Option<&'static str> = if LATER { Some("notes") } else { None };
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    async fn react(&self, _: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        Ok(())
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

fn refuses() -> ProcessorOptions {
    ProcessorOptions::default().backfill(Backfill::Refuse)
}

/// P17
pub async fn a_start_that_is_refused_renames_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let less = rolled_back::<S>(&store).await;
    let old = start(|| less.wiring(&store.0).reactor(Notes::<false>)).await;
    settle(&old).await;
    let before = store.scan("es.codes", 1_000).await;
    let more = less.program::<true, true>();
    let said = refused_start(|| {
        let app = App::on(store.0.clone()).lease(LEASE).processors(refuses());
        app.reactor(Notes::<true>).reactor(more.clone())
    })
    .await;
    assert!(said.contains(PASSED), "{said}");
    assert_eq!(store.scan("es.codes", 1_000).await, before);
}

/// P17
pub async fn a_renamed_reactor_is_judged_until_it_has_its_name<S: Subject>(subject: S) {
    let (store, less) = (store(&subject).await, Greets::<false>::new(1_000));
    let more = start(|| less.program::<true, false>().wiring(&store.0)).await;
    store.put("account-a", vec![payment(1), payment(2)]).await;
    settle(&more).await;
    assert!(more.shutdown(LIMIT).await);
    let line = Double::new(subject.again(&store.0).await);
    let old = start(|| less.wiring(&line)).await;
    store.put("account-b", vec![payment(1)]).await;
    settle(&old).await;
    // From here on it sees nothing of what another program does, and works; until a commit fails, if one does.
    line.set(Line::HoldsScans("es.codes"));
    let renamed = less.program::<true, true>();
    let passes = async {
        eventually(async || {
            let rows = rows(&store, "es.codes").await;
            let renamed = rows.iter().any(|(build, row)| build == "greets~1" && row["renamed"] == "welcomes");
            if renamed { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        store.put("account-c", vec![encoded(&opened("Cyd")), payment(1)]).await;
        eventually(async || if less.greeted().contains(&5) { Ok(()) } else { Err("not yet".to_owned()) })
            .await;
    };
    let (starts, ()) =
        futures::join!(judged_start(|| renamed.wiring(&store.0).processors(refuses())), passes);
    line.set(Line::Up);
    store.put("account-d", vec![payment(1)]).await;
    let expected: &[u64] = match starts {
        Err(said) => {
            assert!(
                said.contains("handles account.opened now") && said.contains("the first at #4"),
                "{said}"
            );
            settle(&old).await;
            &[1, 2, 3, 5, 6]
        }
        Ok(new) => {
            settle(&new).await;
            &[1, 2, 3, 4, 5, 6]
        }
    };
    let mut greeted = less.greeted();
    greeted.sort_unstable();
    assert_eq!(greeted, expected, "what the older one has passed was said, and the rest is acted on");
}
