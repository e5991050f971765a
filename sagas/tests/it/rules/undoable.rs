//! Branches that their database undoes: U1 to U9.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::guard::{GuardKey, GuardRow, GuardRows, GuardedDatabase, Standing, UndoLog};
use es_core::store::StoreError;
use es_core::{App, AppBuilder, Backend, BoxError};
use es_postgres::testing::{self, Database};
use es_postgres::{PgUndoLog, UndoTx};
use sagas::saga::{
    Call, Cx, Handle, OrRetry as _, Outcome, Ran, Remote, Retry, RunShown, RunStatus, SagaInput, StepError,
    Verb,
};
use sagas::tcc::{Tcc, TccApp as _, TccTransaction, Tccs as _, Tracked, Undoable};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::Subject;
use super::ground::{Ground, PATIENCE};

#[derive(Serialize, Deserialize)]
struct Order {
    item: i32,
    gift: i32,
    /// Whether its seller is asked, who takes their time.
    is_asked: bool,
}

impl SagaInput for Order {}

fn order(item: i32, gift: i32) -> Order {
    Order { item, gift, is_asked: false }
}

/// What becomes of a commit.
#[derive(Clone, Copy, Debug)]
enum After {
    /// It is applied, and nobody hears of it.
    Unheard,
    /// It is applied, and whoever waits for it is gone by then.
    Gone,
}

/// The database of the items: some commits go wrong.
#[derive(Clone, Debug)]
struct Items {
    log: PgUndoLog,
    after: Arc<Mutex<VecDeque<After>>>,
    gone: Arc<Notify>,
}

struct ItemsTx(UndoTx, Items);

impl GuardedDatabase for Items {
    type Tx = ItemsTx;
    async fn begin(&self) -> Result<ItemsTx, StoreError> {
        Ok(ItemsTx(self.log.begin().await?, self.clone()))
    }
}

impl UndoLog for Items {
    fn is_taken(error: &(dyn std::error::Error + 'static)) -> bool {
        PgUndoLog::is_taken(error)
    }
}

impl GuardRows for ItemsTx {
    async fn insert(&mut self, key: &GuardKey, row: &GuardRow) -> Result<bool, StoreError> {
        self.0.insert(key, row).await
    }
    async fn find(&mut self, key: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
        self.0.find(key).await
    }
    async fn change(&mut self, key: &GuardKey, standing: &Standing) -> Result<(), StoreError> {
        self.0.change(key, standing).await
    }
    async fn floor(&mut self) -> Result<Uuid, StoreError> {
        self.0.floor().await
    }
    async fn check(&mut self) -> Result<(), StoreError> {
        self.0.check().await
    }
    async fn forget(&mut self, floor: Uuid) -> Result<u64, StoreError> {
        self.0.forget(floor).await
    }
    async fn commit(self) -> Result<(), StoreError> {
        self.0.commit().await?;
        let after = self.1.after.lock().unwrap().pop_front();
        match after {
            None => Ok(()),
            Some(After::Unheard) => {
                Err(StoreError::transient("committing", std::io::Error::other("the connection was lost")))
            }
            Some(After::Gone) => {
                self.1.gone.notify_one();
                std::future::pending().await
            }
        }
    }
    async fn rollback(self) -> Result<(), StoreError> {
        self.0.rollback().await
    }
}

fn retry(tries: u32) -> Retry {
    let brief = Duration::from_millis(5);
    Retry::default().pauses(brief, brief * 4).tries(tries).late(20, Duration::from_secs(3_600))
}

/// Takes an item, if there is one left.
struct Take(u32);

impl Undoable<Order> for Take {
    const NAME: &'static str = "take";
    type Output = i32;
    type Refusal = String;
    type Database = Items;
    async fn run(&self, cx: Cx<'_, Order>, tx: &mut ItemsTx) -> Result<i32, StepError<String>> {
        let take =
            sqlx::query_scalar("update items set n = n - 1 where id = $1 returning n").bind(cx.input.item);
        let left: i32 = take.fetch_one(&mut *tx.0).await.or_retry()?;
        if left < 0 { Err(StepError::Refused("none is left".to_owned())) } else { Ok(left) }
    }
    fn retry(&self) -> Retry {
        retry(self.0)
    }
    fn destination(&self) -> Option<&str> {
        Some("items")
    }
}

/// Gives something away with it, and writes that down; at first once two rows are locked, if it is told so.
struct Give(Arc<AtomicBool>);

impl Undoable<Order> for Give {
    const NAME: &'static str = "give";
    type Output = ();
    type Refusal = String;
    type Database = Items;
    async fn run(&self, cx: Cx<'_, Order>, tx: &mut ItemsTx) -> Result<(), StepError<String>> {
        while self.0.load(Ordering::SeqCst) {
            let locks = sqlx::query_scalar("select count(*) from es_undo.locks").fetch_one(&mut *tx.0);
            let locks: i64 = locks.await.or_retry()?;
            if locks >= 2 {
                self.0.store(false, Ordering::SeqCst);
            }
            tokio::task::yield_now().await;
        }
        let give = sqlx::query("update items set n = n - 10 where id = $1").bind(cx.input.gift);
        give.execute(&mut *tx.0).await.or_retry()?;
        let note =
            sqlx::query("insert into gifts (item, key) values ($1, $2)").bind(cx.input.gift).bind(cx.key);
        note.execute(&mut *tx.0).await.map(drop).or_retry()
    }
    fn retry(&self) -> Retry {
        retry(TRIES)
    }
}

/// Elsewhere. Says yes or no once it is told what to say.
struct Ask(watch::Receiver<BTreeMap<String, bool>>);

impl Tcc<Order> for Ask {
    const NAME: &'static str = "ask";
    type Held = ();
    type Refusal = String;
    type Place = Remote;
    async fn reserve(&self, cx: Cx<'_, Order>, _: &mut Call) -> Result<(), StepError<String>> {
        if !cx.input.is_asked {
            return Ok(());
        }
        let mut answers = self.0.clone();
        let answers = answers.wait_for(|answers| answers.contains_key(cx.key)).await.or_retry()?;
        if answers[cx.key] { Ok(()) } else { Err(StepError::Refused("the seller says no".to_owned())) }
    }
    async fn confirm(&self, _: Cx<'_, Order>, (): (), _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
    async fn cancel(&self, _: Cx<'_, Order>, _: Ran<()>, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
}

/// How often a branch is tried, unless it is said.
const TRIES: u32 = 4;

struct Shop<'s, S: Subject> {
    tries: u32,
    ground: Ground<'s, S>,
    items: Items,
    waits_for_two: Arc<AtomicBool>,
    answers: watch::Sender<BTreeMap<String, bool>>,
    nodes: Vec<App>,
    _database: Database,
    of: PhantomData<fn() -> S>,
}

impl<S: Subject> fmt::Debug for Shop<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shop")
    }
}

const MAKE: &str = "create table items (id int primary key, n int not null);
    create table gifts (id serial primary key, item int references items, key text);
    insert into items select g, 100 from generate_series(1, 9) g; insert into items values (10, 0)";

impl<'s, S: Subject> Shop<'s, S> {
    async fn open(subject: &'s S) -> Self {
        let ground = Ground::open(subject).await;
        ground.flow();
        let database = testing::database().await;
        let log = PgUndoLog::new(PgPool::connect(database.url()).await.unwrap());
        log.install().await.unwrap();
        sqlx::raw_sql(MAKE).execute(log.pool()).await.unwrap();
        log.track(&["items", "gifts"]).await.unwrap();
        let items = Items { log, after: Arc::default(), gone: Arc::default() };
        let (answers, waits_for_two) = (watch::Sender::default(), Arc::default());
        let nodes = Vec::new();
        let mut shop = Self {
            tries: TRIES,
            ground,
            items,
            waits_for_two,
            answers,
            nodes,
            _database: database,
            of: PhantomData,
        };
        shop.join().await;
        shop
    }

    fn wired(&self, app: AppBuilder<S::Backend>) -> AppBuilder<S::Backend> {
        let tcc = TccTransaction::<Order, <S::Backend as Backend>::Tx>::new("order", 1);
        let give = Give(self.waits_for_two.clone());
        let tcc =
            tcc.branch(Tracked(Take(self.tries))).branch(Tracked(give)).branch(Ask(self.answers.subscribe()));
        app.provide(self.items.clone()).tcc(tcc.build())
    }

    async fn join(&mut self) {
        let app = self.ground.join(|app| self.wired(app)).await;
        self.nodes.push(app);
    }

    async fn begin(&self, key: &str, order: &Order) -> Handle {
        self.ground.ask(async || self.nodes[0].start_tcc(key, order).await).await
    }

    async fn run(&self, key: &str, order: &Order) -> Outcome {
        let handle = self.begin(key, order).await;
        self.end_of(&handle).await
    }

    /// Begins one whose seller is asked; it has taken and given what it wants to.
    async fn asked(&self, key: &str, item: i32, gift: i32) -> Handle {
        let handle = self.begin(key, &Order { is_asked: true, ..order(item, gift) }).await;
        self.until(key, |shown| shown.journal.iter().filter(|(_, what)| is_done(what)).count() == 2).await;
        handle
    }

    fn answer(&self, key: &str, yes: bool) {
        self.answers.send_modify(|answers| {
            answers.insert(key.to_owned(), yes);
        });
    }

    async fn end_of(&self, handle: &Handle) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it does not end");
            self.ground.pause().await;
        }
    }

    async fn until(&self, key: &str, is_so: impl Fn(&RunShown) -> bool) -> RunShown {
        let (runs, begun) = (self.nodes[0].tcc_runs::<Order>().unwrap(), Instant::now());
        loop {
            let shown = self.ground.ask(async || runs.show(key).await).await;
            if is_so(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it never came to that: {shown:#?}");
            self.ground.pause().await;
        }
    }

    async fn asks(&self, key: &str, verb: Verb) {
        let runs = self.nodes[0].tcc_runs::<Order>().unwrap();
        runs.ask(key, verb, "ada", "by hand", PATIENCE).await.unwrap().unwrap();
    }

    async fn sql(&self, sql: &str) {
        let mut conn = self.items.log.pool().acquire().await.unwrap().detach();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    }

    /// What is left of these items, and how many gifts were given.
    async fn left(&self, items: &[i32]) -> (Vec<i32>, i64) {
        let n = sqlx::query_scalar("select n from items where id = any($1) order by id").bind(items);
        let gifts = sqlx::query_scalar("select count(*) from gifts").fetch_one(self.items.log.pool());
        (n.fetch_all(self.items.log.pool()).await.unwrap(), gifts.await.unwrap())
    }

    /// Nothing is noted or locked any more.
    async fn assert_over(&self) {
        let left = "select (select count(*) from es_undo.images) + (select count(*) from es_undo.locks)";
        let left: i64 = sqlx::query_scalar(left).fetch_one(self.items.log.pool()).await.unwrap();
        assert_eq!((left, self.items.log.undecided().await.unwrap().len()), (0, 0));
    }

    async fn end(self) {
        for app in self.nodes {
            assert!(app.shutdown(PATIENCE).await);
        }
    }
}

fn is_done(what: &str) -> bool {
    what == "take is done" || what == "give is done"
}

fn is_parked(shown: &RunShown) -> bool {
    shown.status == RunStatus::Parked
}

/// U1
pub(super) async fn a_branch_that_only_runs_is_kept_or_taken_back<S: Subject>(subject: &S) {
    let shop = Shop::open(subject).await;
    assert_eq!(shop.run("a", &order(1, 2)).await, Outcome::Completed);
    assert_eq!(shop.left(&[1, 2]).await, (vec![99, 90], 1));
    // A refusal of its own, of a branch beside it, and a cancellation: what the others did is gone.
    assert!(matches!(shop.run("b", &order(10, 2)).await, Outcome::Undone(_)));
    let asked = shop.asked("c", 1, 2).await;
    // Others see it before it is decided.
    assert_eq!(shop.left(&[1, 2]).await, (vec![98, 80], 2));
    shop.answer("c", false);
    assert!(matches!(shop.end_of(&asked).await, Outcome::Undone(_)));
    assert_eq!(shop.left(&[1, 2, 10]).await, (vec![99, 90, 0], 1));
    let asked = shop.asked("d", 1, 1).await;
    shop.asks("d", Verb::Cancel).await;
    shop.answer("d", true);
    assert!(matches!(shop.end_of(&asked).await, Outcome::Undone(_)));
    // Of one row that both branches have changed, too.
    assert_eq!(shop.left(&[1, 2]).await, (vec![99, 90], 1));
    shop.assert_over().await;
    shop.end().await;
}

/// U2
pub(super) async fn each_change_of_a_tracked_branch_acts_once<S: Subject>(subject: &S) {
    let shop = Shop::open(subject).await;
    let lose = |n: usize| shop.items.after.lock().unwrap().extend(vec![After::Unheard; n]);
    lose(2);
    assert_eq!(shop.run("a", &order(1, 2)).await, Outcome::Completed);
    assert_eq!(shop.left(&[1, 2]).await, (vec![99, 90], 1));
    let asked = shop.asked("b", 1, 2).await;
    lose(2);
    shop.answer("b", false);
    assert!(matches!(shop.end_of(&asked).await, Outcome::Undone(_)));
    assert_eq!(shop.left(&[1, 2]).await, (vec![99, 90], 1));
    shop.assert_over().await;
    shop.end().await;
}

/// U3
pub(super) async fn a_row_that_has_changed_since_waits_for_a_person_at_once<S: Subject>(subject: &S) {
    let shop = Shop::open(subject).await;
    let spoil = |item: i32, n: i32| {
        format!("set session_replication_role = replica; update items set n = {n} where id = {item}")
    };
    let mut handles = Vec::new();
    for (key, item) in [("mended", 1), ("accepted", 3), ("skipped", 5)] {
        handles.push(shop.asked(key, item, item + 1).await);
        shop.sql(&spoil(item, 7)).await;
        shop.answer(key, false);
        let shown = shop.until(key, is_parked).await;
        let says = format!(
            "row ({item}) of public.items has changed since (before: ({item},100); after: ({item},99); now: ({item},7))"
        );
        assert!(shown.waits_for.contains(&says), "{}", shown.waits_for);
        // It is tried once: trying again does not help. The other branch has gone back by itself.
        let failed = shown.journal.iter().filter(|(_, what)| what.contains("failed")).count();
        assert_eq!(failed, 0, "{:#?}", shown.journal);
        assert_eq!(shop.left(&[item, item + 1]).await, (vec![7, 100], 0));
    }
    let undecided = shop.items.log.undecided().await.unwrap();
    let mended = undecided.iter().find(|call| call.run == handles[0].run()).unwrap();
    let mut tx = shop.items.log.mend(mended.run, &mended.call, "ada", "counted").await.unwrap();
    sqlx::query("update items set n = 99 where id = 1").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    shop.asks("mended", Verb::Retry { step: None }).await;
    let undecided = shop.items.log.undecided().await.unwrap();
    let accepted = undecided.iter().find(|call| call.run == handles[1].run()).unwrap();
    shop.items.log.accept(accepted.run, &accepted.call, "ada", "sold by hand").await.unwrap();
    shop.asks("accepted", Verb::Retry { step: Some("take".to_owned()) }).await;
    shop.asks("skipped", Verb::Skip { step: "take".to_owned() }).await;
    for handle in &handles {
        assert!(matches!(shop.end_of(handle).await, Outcome::Undone(_)));
    }
    assert_eq!(shop.left(&[1, 3, 5]).await, (vec![100, 7, 7], 0));
    // Nobody has told the database of the one that was skipped.
    let undecided = shop.items.log.undecided().await.unwrap();
    assert_eq!(undecided.iter().map(|call| call.run).collect::<Vec<_>>(), [handles[2].run()]);
    shop.items.log.accept(undecided[0].run, &undecided[0].call, "ada", "skipped").await.unwrap();
    shop.assert_over().await;
    shop.end().await;
}

/// U4
pub(super) async fn what_a_lost_node_has_committed_is_kept_or_taken_back_elsewhere<S: Subject>(subject: &S) {
    let mut shop = Shop::open(subject).await;
    shop.join().await;
    let mut handles = Vec::new();
    for (key, item) in [("kept", 1), ("taken-back", 3)] {
        shop.items.after.lock().unwrap().push_back(After::Gone);
        handles.push(shop.begin(key, &Order { is_asked: true, ..order(item, item + 1) }).await);
        timeout(PATIENCE, shop.items.gone.notified()).await.expect("a commit that nobody waits for");
    }
    // Both nodes are gone, whichever had it; what they have committed stands, and its rows are locked.
    shop.nodes.clear();
    assert!(!shop.items.log.undecided().await.unwrap().is_empty());
    shop.join().await;
    shop.answer("kept", true);
    shop.answer("taken-back", false);
    assert_eq!(shop.end_of(&handles[0]).await, Outcome::Completed);
    assert!(matches!(shop.end_of(&handles[1]).await, Outcome::Undone(_)));
    assert_eq!(shop.left(&[1, 2, 3, 4]).await, (vec![99, 90, 100, 100], 1));
    shop.assert_over().await;
    shop.end().await;
}

/// U5
pub(super) async fn runs_that_want_each_others_rows_end<S: Subject>(subject: &S) {
    let shop = Shop::open(subject).await;
    // Each has taken what the other one gives away.
    shop.waits_for_two.store(true, Ordering::SeqCst);
    let handles = [shop.begin("a", &order(1, 2)).await, shop.begin("b", &order(2, 1)).await];
    let mut completed = Vec::new();
    for handle in &handles {
        completed.push(shop.end_of(handle).await == Outcome::Completed);
    }
    assert_ne!(completed, [true, true], "one of both gives way");
    let took = |own: bool, other: bool| 100 - i32::from(own) - 10 * i32::from(other);
    let [a, b] = completed[..] else { panic!("two of them") };
    let gifts = i64::from(a) + i64::from(b);
    assert_eq!(shop.left(&[1, 2]).await, (vec![took(a, b), took(b, a)], gifts));
    shop.assert_over().await;
    shop.end().await;
}

/// U6
pub(super) async fn a_row_of_another_run_is_tried_for_as_long_as_a_branch_says<S: Subject>(subject: &S) {
    let mut shop = Shop::open(subject).await;
    let first = shop.asked("first", 1, 2).await;
    let says = format!("row (1) of public.items is busy, held by run {}", first.run());
    let tries = |shown: &RunShown| {
        let is_try = |told: &str| told.starts_with("take failed: ") && told.contains(&says);
        shown.journal.iter().filter(|(_, told)| is_try(told)).count()
    };
    for key in ["second", "third"] {
        let in_vain = shop.begin(key, &order(1, 3)).await;
        assert!(matches!(shop.end_of(&in_vain).await, Outcome::Undone(_)));
        let shown = shop.until(key, |_| true).await;
        assert_eq!(tries(&shown), 4, "{:#?}", shown.journal);
        // Nobody takes its database for one that has failed.
        let is_held = |told: &str| told.contains("who is to be called has failed");
        assert!(!shown.journal.iter().any(|(_, told)| is_held(told)), "{:#?}", shown.journal);
    }
    // By a program that is patient.
    shop.tries = u32::MAX;
    shop.nodes.clear();
    shop.join().await;
    let patient = shop.begin("patient", &order(1, 3)).await;
    shop.until("patient", |shown| tries(shown) > 4).await;
    shop.answer("first", true);
    for handle in [&first, &patient] {
        assert_eq!(shop.end_of(handle).await, Outcome::Completed);
    }
    assert_eq!(shop.left(&[1, 2, 3]).await, (vec![98, 90, 90], 2));
    shop.assert_over().await;
    shop.end().await;
}

/// U7
pub(super) async fn a_table_that_is_not_noted_any_more_keeps_a_program_from_starting<S: Subject>(
    subject: &S,
) {
    let shop = Shop::open(subject).await;
    shop.sql(
        "create table all_gifts (id int not null, item int, key text); alter table gifts inherit all_gifts",
    )
    .await;
    let start = || shop.wired(App::on(shop.ground.backend.clone()).clock(shop.ground.clock.clone())).start();
    let error = start().await.unwrap_err().to_string();
    assert!(error.contains("public.gifts inherits, or is inherited from"), "{error}");
    shop.sql("alter table gifts no inherit all_gifts; alter table items disable trigger user").await;
    let error = start().await.unwrap_err().to_string();
    assert!(error.contains("trigger es_undo_update of public.items is switched off"), "{error}");
    shop.sql("alter table items enable trigger user").await;
    assert!(start().await.unwrap().shutdown(PATIENCE).await);
    shop.end().await;
}

/// U8
pub(super) async fn what_one_branch_frees_and_another_takes_goes_back_in_whichever_order<S: Subject>(
    subject: &S,
) {
    let shop = Shop::open(subject).await;
    // Who takes one frees a number, which the gift gets.
    let make = "delete from items where id > 2; update items set n = 12 where id = 1;
        update items set n = 22 where id = 2; alter table items add unique (n)";
    shop.sql(make).await;
    shop.items.log.track(&["items"]).await.unwrap();
    for key in ["a", "b", "c", "d"] {
        shop.waits_for_two.store(true, Ordering::SeqCst);
        let asked = shop.asked(key, 1, 2).await;
        assert_eq!(shop.left(&[1, 2]).await.0, [11, 12]);
        shop.answer(key, false);
        assert!(matches!(shop.end_of(&asked).await, Outcome::Undone(_)));
        assert_eq!(shop.left(&[1, 2]).await, (vec![12, 22], 0));
    }
    shop.assert_over().await;
    shop.end().await;
}

/// U9
pub(super) async fn an_undo_that_waits_for_a_later_one_is_no_failure_of_its_database<S: Subject>(
    subject: &S,
) {
    let shop = Shop::open(subject).await;
    // The gift waits until the item is taken, which frees a number.
    let make = "delete from items where id > 2; update items set n = 12 where id = 1;
        update items set n = 52 where id = 2; alter table items add unique (n)";
    shop.sql(make).await;
    shop.items.log.track(&["items"]).await.unwrap();
    shop.waits_for_two.store(true, Ordering::SeqCst);
    let stuck = shop.asked("stuck", 1, 1).await;
    let spoil = |key: &str, to: &str| {
        format!("set session_replication_role = replica; update gifts set key = '{to}' where key = '{key}'")
    };
    shop.sql(&spoil("stuck", "other")).await;
    shop.answer("stuck", false);
    // One branch is blocked, and the other one is to be undone after it.
    let waits = |shown: &RunShown| {
        shown.journal.iter().filter(|(_, told)| told.contains("it is undone once")).count()
    };
    shop.until("stuck", |shown| waits(shown) > 4).await;
    assert_eq!(shop.run("well", &order(2, 2)).await, Outcome::Completed);
    let shown = shop.until("well", |_| true).await;
    let is_held = |told: &str| told.contains("who is to be called has failed");
    assert!(!shown.journal.iter().any(|(_, told)| is_held(told)), "{:#?}", shown.journal);
    shop.sql(&spoil("other", "stuck")).await;
    shop.until("stuck", is_parked).await;
    shop.asks("stuck", Verb::Retry { step: None }).await;
    assert!(matches!(shop.end_of(&stuck).await, Outcome::Undone(_)));
    assert_eq!(shop.left(&[1, 2]).await, (vec![12, 41], 1));
    shop.assert_over().await;
    shop.end().await;
}
