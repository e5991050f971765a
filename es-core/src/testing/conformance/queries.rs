//! Questions to the read side, beyond one answer: Q2 to Q4.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{Barrier, Semaphore};

use super::data::encoded;
use super::domain::{Deposited, deposited};
use super::patient::{self, Patient};
use super::payments::{Poison, Stopping, answered, payment, until};
use super::readside::{Balance, BalanceOf, Balances};
use super::{LIMIT, Subject, settle, start, store};
use crate::processor::ProcessorState;
use crate::projection::{Project, Projection, Views};
use crate::query::{Answer, Answers, Gather, Gathering, Gathers, Queries, Query, QueryError, Rows};
use crate::services::Services;
use crate::slices::Slices;
use crate::store::{
    Backend, CURRENT, Commit, EventFilter, ExpectedVersion, RecordedEvent, RowStore, RowWrite, Span,
    StoreError, StoredRow,
};
use crate::{App, BoxError, ErrorKind};

/// The next answer; errors of a store that does not answer now are passed over. Says whether there were any.
async fn next<A>(answers: &mut (impl Stream<Item = Result<A, QueryError>> + Unpin), failed: &mut bool) -> A {
    loop {
        match answers.next().await.expect("the app runs") {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(crate::chain(&error).contains("could not be done now"), "{error:?}");
                *failed = true;
            }
        }
    }
}

async fn pay<B: Backend + RowStore + Clone>(store: &Patient<B>, account: &str, amount: i64) {
    store.put(&format!("account-{account}"), vec![encoded(&deposited(amount))]).await;
}

fn amount(answer: Option<Balance>) -> i64 {
    answer.map_or(0, |balance| balance.amount)
}

fn of(account: &str) -> BalanceOf {
    BalanceOf(account.to_owned())
}

/// Q2
pub async fn a_watched_query_answers_at_once_and_after_each_change<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    let mut answers = pin!(app.watch(of("a")));
    let mut failed = false;
    assert_eq!(next(&mut answers, &mut failed).await, None, "before there is anything");
    for n in 1..=5 {
        pay(&store, "a", 1).await;
        // After an error the same answer may come once more.
        while amount(next(&mut answers, &mut failed).await) < n {}
    }
}

/// Q2
pub async fn the_last_item_of_a_watched_query_is_what_is_true_now<S: Subject>(subject: S) {
    const WRITERS: usize = 4;
    const EACH: usize = 15;
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    let writers = futures::future::join_all((0..WRITERS).map(|_| async {
        for _ in 0..EACH {
            pay(&store, "a", 1).await;
        }
    }));
    let all = i64::try_from(WRITERS * EACH).expect("small");
    let readers = futures::future::join_all((0..3).map(|reader| {
        let (app, store) = (app.clone(), store.clone());
        async move {
            // Each begins at another moment of the writing.
            while store.head().await < reader * 10 {}
            let mut answers = pin!(app.watch(of("a")));
            let mut before = -1;
            while before < all {
                let mut failed = false;
                let now = amount(next(&mut answers, &mut failed).await);
                assert!(now > before || (failed && now == before), "{now} after {before}");
                before = now;
            }
        }
    }));
    futures::join!(writers, readers);
}

/// Q2
pub async fn a_slow_watcher_gets_the_newest_answer_and_no_backlog<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    let mut answers = pin!(app.watch(of("a")));
    let mut failed = false;
    assert_eq!(amount(next(&mut answers, &mut failed).await), 0);
    for round in 1..=3 {
        for _ in 0..10 {
            pay(&store, "a", 1).await;
        }
        settle(&app).await;
        assert_eq!(amount(next(&mut answers, &mut failed).await), 10 * round);
    }
}

/// Q2
pub async fn an_answer_that_did_not_change_is_not_sent_again<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    pay(&store, "a", 7).await;
    settle(&app).await;
    let mut answers = pin!(app.watch(of("a")));
    let mut failed = false;
    assert_eq!(amount(next(&mut answers, &mut failed).await), 7);
    let noise = async {
        for _ in 0..20 {
            pay(&store, "b", 1).await;
        }
        settle(&app).await;
        pay(&store, "a", 1).await;
    };
    let watched = async {
        loop {
            let mut failed = false;
            match amount(next(&mut answers, &mut failed).await) {
                8 => break,
                again => assert!(failed, "{again} was sent twice in a row"),
            }
        }
    };
    futures::join!(noise, watched);
}

/// Q2
pub async fn a_watched_query_ends_with_its_app<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    let mut answers = pin!(app.watch(of("a")));
    let mut failed = false;
    assert_eq!(amount(next(&mut answers, &mut failed).await), 0);
    let _ = futures::join!(answers.by_ref().count(), app.shutdown(LIMIT));
    assert!(answers.next().await.is_none(), "and stays ended");
    let late: Vec<_> = app.watch(of("a")).collect().await;
    assert!(late.is_empty(), "{late:?}");
}

/// Q2
pub async fn a_watched_query_sees_what_other_nodes_take_in<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    let one = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    let two = start(|| App::on(other.0.clone()).view::<Balance>().queries(Balances)).await;
    settle(&one).await;
    settle(&two).await;
    let accounts: Vec<String> = (0..8).map(|i| i.to_string()).collect();
    let watched = accounts.iter().flat_map(|account| [&one, &two].map(|app| (app, account)));
    let watched = futures::future::join_all(watched.map(|(app, account)| async move {
        let mut answers = pin!(app.watch(of(account)));
        let mut failed = false;
        while amount(next(&mut answers, &mut failed).await) < 5 {}
    }));
    let paid = async {
        for _ in 0..5 {
            for account in &accounts {
                pay(&store, account, 1).await;
            }
        }
    };
    futures::join!(watched, paid);
}

/// P23
pub async fn rows_that_change_in_place_are_seen_by_whoever_watches<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = subject.again(&store.0).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    pay(&store, "a", 1).await;
    settle(&app).await;
    let there = start(|| App::on(other.clone()).view::<Balance>().looks_on().queries(Balances)).await;
    let (mut failed, keys) = (false, ["a".to_owned()]);
    for app in [&app, &there] {
        // By a mistake of an older handler, say.
        let row = store.row("balance/1~1", "a").await.expect("it is there");
        let wrong = serde_json::to_string(&Balance { amount: 1_000, n_payments: 1 }).expect("JSON");
        let wrong = write("balance/1~1", "a", row.rev, Some(wrong));
        store.commit(Commit { rows: vec![wrong], ..Commit::default() }).await.expect("nobody else writes it");
        let mut answers = pin!(app.watch(of("a")));
        assert_eq!(amount(next(&mut answers, &mut failed).await), 1_000);
        let views = app.processor::<Balance>().expect("it runs");
        answered(|| views.rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
        assert_eq!(amount(next(&mut answers, &mut failed).await), 1, "it was put right");
    }
}

/// P23
pub async fn an_inline_view_is_watched_while_a_processor_stands_still<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let poison = Poison::new();
    let wiring = || {
        let once = Duration::from_millis(1);
        let app = App::on(store.0.clone()).inline_view::<Balance>().view::<Stopping>().queries(Balances);
        app.processor_retries(0, once, once)
    };
    let app = start(wiring).await;
    let log = app.store_handle();
    let put = async |event| {
        let commit = Commit::default().and("account-a", ExpectedVersion::Any, vec![event]);
        patient::commit(&*log, commit).await.expect("an append anywhere is accepted");
    };
    put(poison.payment(1, "fails")).await;
    let stands = app.processor::<Stopping>().expect("it runs");
    until(stands, |status| matches!(status.state, ProcessorState::Halted { .. })).await;
    let (mut answers, mut failed) = (pin!(app.watch(of("a"))), false);
    assert_eq!(amount(next(&mut answers, &mut failed).await), 1);
    for n in 2..=4 {
        let changed = async {
            let mut answer = amount(next(&mut answers, &mut failed).await);
            // A read that failed is made again, and may find what was there.
            while failed && answer == n - 1 {
                answer = amount(next(&mut answers, &mut failed).await);
            }
            assert_eq!(answer, n);
        };
        futures::join!(changed, put(payment(1)));
    }
}

/// Asks for the balance of account `a`, and answers late.
#[derive(Clone)]
struct Late;

/// Answers that: once it has read, it waits to be let go.
#[derive(Clone)]
struct Ponders {
    has_read: Arc<Semaphore>,
    may_go: Arc<Semaphore>,
}

impl Query for Late {
    type Answer = i64;
    type Handler = Ponders;
}

impl Answer<Late> for Ponders {
    type Env<'e> = (&'e Views,);
    async fn answer<'a>(&'a self, _: Late, (views,): (&'a Views,)) -> Result<i64, BoxError> {
        let balance = views.get::<Balance>(&"a".to_owned()).await?;
        self.has_read.add_permits(1);
        self.may_go.acquire().await?.forget();
        Ok(amount(balance))
    }
}

impl Queries for Ponders {
    fn missing(services: &Services) -> Vec<String> {
        crate::query::missing_for::<Late>(services)
    }
}

/// Q2
pub async fn what_changes_while_a_watched_query_is_answered_is_not_lost<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let closed = || Arc::new(Semaphore::new(0));
    let ponders = Ponders { has_read: closed(), may_go: closed() };
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(ponders.clone())).await;
    let mut answers = pin!(app.watch(Late));
    let mut failed = false;
    let change = async {
        ponders.has_read.acquire().await.expect("never closed").forget();
        pay(&store, "a", 1).await;
        settle(&app).await;
        ponders.may_go.add_permits(1_000_000);
    };
    let (first, ()) = futures::join!(next(&mut answers, &mut failed), change);
    assert_eq!(first, 0, "it was read before");
    let second = tokio::time::timeout(LIMIT, next(&mut answers, &mut failed)).await;
    assert_eq!(second, Ok(1), "and nothing was written since");
}

/// Asks for the balance of account `a`, and fails or panics when it is told to.
#[derive(Clone)]
struct Mood;

/// Answers that.
#[derive(Clone, Default)]
struct Moody {
    fails: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
}

impl Query for Mood {
    type Answer = i64;
    type Handler = Moody;
}

impl Answer<Mood> for Moody {
    type Env<'e> = (&'e Views,);
    async fn answer<'a>(&'a self, _: Mood, (views,): (&'a Views,)) -> Result<i64, BoxError> {
        assert!(!self.panics.load(Ordering::SeqCst), "a panic of a query");
        if self.fails.load(Ordering::SeqCst) {
            return Err("in no mood".into());
        }
        Ok(views.get::<Balance>(&"a".to_owned()).await?.map_or(0, |balance| balance.amount))
    }
}

impl Queries for Moody {
    fn missing(services: &Services) -> Vec<String> {
        crate::query::missing_for::<Mood>(services)
    }
}

/// Q2
pub async fn a_watched_query_that_fails_says_so_and_goes_on<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let mood = Moody::default();
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(mood.clone())).await;
    let mut answers = pin!(app.watch(Mood));
    let mut failed = false;
    assert_eq!(next(&mut answers, &mut failed).await, 0);
    for (n, (what, says)) in
        [(&mood.fails, "in no mood"), (&mood.panics, "a panic of a query")].into_iter().enumerate()
    {
        what.store(true, Ordering::SeqCst);
        pay(&store, "a", 1).await;
        loop {
            match answers.next().await.expect("the app runs") {
                Err(error) if crate::chain(&error).contains(says) => break,
                // What was asked before, or what the store could not say now.
                Ok(_) | Err(_) => {}
            }
        }
        what.store(false, Ordering::SeqCst);
        let now = i64::try_from(n + 1).expect("small");
        while next(&mut answers, &mut failed).await < now {}
    }
    let bare = start(|| App::on(store.0.clone())).await;
    let nobody: Vec<_> = bare.watch(Mood).collect().await;
    assert!(matches!(nobody[..], [Err(QueryError::Missing { .. })]), "{nobody:?}");
}

/// Asks several for their price.
#[derive(Clone)]
struct Quote(Manner);

/// How those are to answer who can do several things.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Well,
    Badly,
}

impl Gather for Quote {
    type Answer = &'static str;
}

macro_rules! gatherers { ($($name:ident($this:ident, $query:ident) $body:block)+) => { $(
    impl Gathers<Quote> for $name {
        type Env<'e> = ();
        async fn answer(&self, $query: Quote, (): ()) -> Result<&'static str, BoxError> {
            let $this = self;
            $body
        }
    }

    impl Queries for $name {
        fn missing(services: &Services) -> Vec<String> {
            crate::query::missing_for_gather::<Quote, Self>(services)
        }

        fn gather(to: &mut Gathering) {
            to.add::<Quote, Self>();
        }
    }
)+ } }

/// Answers when the other one does so too.
#[derive(Clone)]
struct First(Arc<Barrier>);
#[derive(Clone)]
struct Second(Arc<Barrier>);
struct Fails;
struct Panics;
struct Hangs;
/// A projection that answers as well.
struct Ledger;

gatherers! {
    First(this, _query) {
        this.0.wait().await;
        Ok("first")
    }
    Second(this, _query) {
        this.0.wait().await;
        Ok("second")
    }
    Fails(_this, query) {
        if query.0 == Manner::Badly { Err("no price".into()) } else { Ok("fails") }
    }
    Panics(_this, query) {
        assert!(query.0 == Manner::Well, "out of prices");
        Ok("panics")
    }
    Hangs(_this, query) {
        if query.0 == Manner::Badly {
            pending::<()>().await;
        }
        Ok("hangs")
    }
    Ledger(_this, _query) { Ok("ledger") }
}

impl Projection for Ledger {
    const NAME: &'static str = "ledger";
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<T: Send> Project<T> for Ledger {
    const ANSWERS: Answers = Answers::of::<Self>();
    async fn project(&self, _: &RecordedEvent, _: &mut T) -> Result<(), BoxError> {
        Ok(())
    }
}

async fn market<S: Subject>(store: &Patient<S::Backend>) -> App {
    let both = Arc::new(Barrier::new(2));
    let wiring = || {
        App::on(store.0.clone())
            .queries(First(both.clone()))
            .queries(Fails)
            .queries(Panics)
            .projection(Ledger)
            .queries(Hangs)
            .queries(Second(both.clone()))
    };
    start(wiring).await
}

/// Q3
pub async fn a_gathered_question_is_answered_by_all_in_their_order<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = market::<S>(&store).await;
    let answers = app.gather(Quote(Manner::Well), LIMIT).await;
    let answers: Vec<_> =
        answers.into_iter().map(|answer| answer.expect("nothing stands against it")).collect();
    assert_eq!(answers, ["first", "fails", "panics", "ledger", "hangs", "second"]);
}

/// Q3
pub async fn who_fails_panics_or_hangs_spoils_only_its_own_answer<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = market::<S>(&store).await;
    let limit = Duration::from_secs(1);
    let answers = app.gather(Quote(Manner::Badly), limit).await;
    let [Ok("first"), Err(fails), Err(panics), Ok("ledger"), Err(hangs), Ok("second")] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert!(crate::chain(fails).contains("no price"), "{fails:?}");
    assert!(matches!(panics, QueryError::Panicked { .. }), "{panics:?}");
    assert!(panics.to_string().contains("Panics: out of prices"), "{panics}");
    assert!(matches!(hangs, QueryError::TimedOut { .. }), "{hangs:?}");
    assert_eq!(hangs.kind(), ErrorKind::Transient);
}

/// Q3
pub async fn a_question_that_nobody_answers_has_no_answers<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Balances)).await;
    assert!(app.gather(Quote(Manner::Well), LIMIT).await.is_empty());
}

/// Asks for every balance.
struct All;

/// Answers that, row by row.
struct Everything;

impl Query for All {
    type Answer = Rows<(String, Balance)>;
    type Handler = Everything;
}

impl Answer<All> for Everything {
    type Env<'e> = (&'e Views,);
    async fn answer<'a>(
        &'a self,
        _: All,
        (views,): (&'a Views,),
    ) -> Result<Rows<(String, Balance)>, BoxError> {
        Ok(views.stream::<Balance>().boxed())
    }
}

impl Queries for Everything {
    fn missing(services: &Services) -> Vec<String> {
        crate::query::missing_for::<All>(services)
    }
}

/// A backend's rows, with the pages counted that were read.
#[derive(Debug)]
struct Counted<B> {
    inner: B,
    pages: Arc<AtomicUsize>,
}

#[async_trait]
impl<B: RowStore> RowStore for Counted<B> {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        self.inner.rows(table, keys).await
    }

    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let page = self.inner.scan(table, after, limit).await?;
        self.pages.fetch_add(1, Ordering::SeqCst);
        Ok(page)
    }

    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        self.inner.scan_many(table, spans).await
    }

    fn watch_rows(&self, table: &str, slices: Slices) -> tokio::sync::watch::Receiver<u64> {
        self.inner.watch_rows(table, slices)
    }
}

const NAME: &str = "balance/1";

/// What is written in the row of a key, or nothing to delete it, at a revision.
fn write(table: &str, key: &str, rev: u64, row: Option<String>) -> RowWrite {
    RowWrite { table: table.into(), key: key.to_owned(), rev, row: row.map(Into::into) }
}

/// Rows of the view, each with its number as the amount.
async fn fill<B: Backend + RowStore + Clone>(store: &Patient<B>, table: &str, n: usize) {
    change(store, n, |key, i| {
        let row = Balance { amount: i64::try_from(i).expect("small"), n_payments: 0 };
        write(table, key, 0, Some(serde_json::to_string(&row).expect("a balance serializes")))
    })
    .await;
}

async fn change<B: Backend + RowStore + Clone>(
    store: &Patient<B>,
    n: usize,
    row: impl Fn(&str, usize) -> RowWrite,
) {
    let rows = (0..n).map(|i| row(&format!("{i:06}"), i)).collect();
    store.commit(Commit { rows, ..Commit::default() }).await.expect("nothing stands against it");
}

/// Makes the name stand for a table.
async fn point<B: Backend + RowStore + Clone>(store: &Patient<B>, rev: u64, table: &str) {
    let rows = vec![write(CURRENT, NAME, rev, Some(table.to_owned()))];
    store.commit(Commit { rows, ..Commit::default() }).await.expect("nothing stands against it");
}

fn views<B: RowStore + Clone>(store: &Patient<B>) -> (Views, Arc<AtomicUsize>) {
    let pages = Arc::<AtomicUsize>::default();
    (Views::new(Arc::new(Counted { inner: store.0.clone(), pages: pages.clone() })), pages)
}

fn is_transient(error: &BoxError) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.kind() == ErrorKind::Transient)
}

/// The first `n` rows, and the stream that goes on behind them.
async fn begin(views: &Views, n: usize) -> Rows<(String, Balance)> {
    loop {
        let mut rows = views.stream::<Balance>().boxed();
        let first: Result<Vec<_>, _> = (&mut rows).take(n).try_collect().await;
        match first {
            Ok(first) => {
                assert_eq!(first.len(), n);
                return rows;
            }
            Err(error) => assert!(is_transient(&error), "{error}"),
        }
    }
}

/// Q4
pub async fn thousands_of_rows_are_streamed_in_the_order_of_their_keys<S: Subject>(subject: S) {
    const N: usize = 2_500;
    let store = store(&subject).await;
    fill(&store, NAME, N).await;
    let (views, pages) = views(&store);
    let found = loop {
        pages.store(0, Ordering::SeqCst);
        match views.stream::<Balance>().map_ok(|(key, row)| (key, row.amount)).try_collect::<Vec<_>>().await {
            Ok(found) => break found,
            Err(error) => assert!(is_transient(&error), "{error}"),
        }
    };
    assert_eq!(pages.load(Ordering::SeqCst), 3, "in pages");
    let all = (0..N).map(|i| (format!("{i:06}"), i64::try_from(i).expect("small")));
    assert_eq!(found, all.collect::<Vec<_>>());
}

/// Q4
pub async fn whoever_takes_ten_rows_reads_one_page<S: Subject>(subject: S) {
    let store = store(&subject).await;
    fill(&store, NAME, 2_500).await;
    let (views, pages) = views(&store);
    loop {
        pages.store(0, Ordering::SeqCst);
        let mut rows = views.stream::<Balance>().boxed();
        assert_eq!(pages.load(Ordering::SeqCst), 0, "nothing is read before it is asked for");
        let ten: Result<Vec<_>, _> = (&mut rows).take(10).try_collect().await;
        match ten {
            Ok(ten) => {
                assert_eq!((ten.len(), pages.load(Ordering::SeqCst)), (10, 1));
                return;
            }
            Err(error) => assert!(is_transient(&error), "{error}"),
        }
    }
}

/// Q4
pub async fn a_query_may_answer_with_a_stream_that_outlives_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().queries(Everything)).await;
    for account in ["c", "a", "b"] {
        pay(&store, account, 1).await;
    }
    settle(&app).await;
    let found = loop {
        let rows = app.query(All).await.expect("nothing is read yet");
        match rows.map_ok(|(key, row)| (key, row.amount)).try_collect::<BTreeMap<_, _>>().await {
            Ok(found) => break found,
            Err(error) => assert!(is_transient(&error), "{error}"),
        }
    };
    assert_eq!(found, ["a", "b", "c"].map(|account| (account.to_owned(), 1)).into());
}

/// Q4
pub async fn a_stream_of_rows_keeps_to_the_generation_that_it_began_in<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let [old, new] = ["balance/1~1", "balance/1~2"];
    // A whole number of pages: the end is seen as a page that is empty.
    fill(&store, old, 2_000).await;
    fill(&store, new, 3_000).await;
    point(&store, 0, old).await;
    let (views, _) = views(&store);
    let mut switched = 1;
    loop {
        let rows = begin(&views, 10).await;
        point(&store, switched, new).await;
        let rest: Result<Vec<_>, _> = rows.try_collect().await;
        match rest {
            Ok(rest) => {
                assert_eq!(rest.len(), 1_990);
                return;
            }
            Err(error) => assert!(is_transient(&error), "{error}"),
        }
        point(&store, switched + 1, old).await;
        switched += 2;
    }
}

/// Q4
pub async fn a_stream_whose_generation_is_taken_away_says_so<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let [old, new] = ["balance/1~1", "balance/1~2"];
    fill(&store, old, 2_000).await;
    fill(&store, new, 1).await;
    point(&store, 0, old).await;
    let (views, _) = views(&store);
    let mut rows = begin(&views, 10).await;
    point(&store, 1, new).await;
    change(&store, 2_000, |key, _| write(old, key, 1, None)).await;
    let error = loop {
        match rows.next().await.expect("not an end that looks like the end of all rows") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(is_transient(&error), "{error}");
    assert!(rows.next().await.is_none(), "an error is the last item");
    drop(begin(&views, 1).await);
}
