//! Projections in the commit of the append, and views that are never stored: P16.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::data::{ANY, NO_STREAM, encoded, exact, raw};
use super::domain::{
    Account, AccountError, AccountEvent, Deposit, Donate, Open, OpenFirst, Split, Withdraw, deposited, opened,
};
use super::double::Double;
use super::patient::{Patient, ask};
use super::readside::Balance;
use super::{LIMIT, Subject, sent, settle, start, store};
use crate::command::RetryPolicy;
use crate::event::Event as _;
use crate::processor::ProcessorError;
use crate::projection::{Change, Project, Projection, View, Views};
use crate::store::{
    Backend, Commit, CommitError, Committed, EventFilter, Position, RecordedEvent, RowStore, StoreError,
    Transaction as _,
};
use crate::{App, AppBuilder, BoxError, CommandError, DecideError, ErrorKind};

/// Sums up what was paid, through SQL; remembers what its handlers saw. Clones share that.
pub struct Paid<S> {
    seen: Arc<Mutex<BTreeSet<Seen>>>,
    subject: PhantomData<fn() -> S>,
}

/// Where an event stood: position, stream, version.
type Seen = (Option<Position>, String, u64);

impl<S> std::fmt::Debug for Paid<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paid").field("seen", &self.seen()).finish_non_exhaustive()
    }
}

impl<S> Default for Paid<S> {
    fn default() -> Self {
        Self { seen: Arc::default(), subject: PhantomData }
    }
}

impl<S> Clone for Paid<S> {
    fn clone(&self) -> Self {
        Self { seen: self.seen.clone(), subject: PhantomData }
    }
}

impl<S> Paid<S> {
    fn seen(&self) -> BTreeSet<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What no projection takes in.
const CURSED: i64 = 666;

impl<S: Subject + 'static> Projection for Paid<S> {
    const NAME: &'static str = "paid";
    const SCHEMA: &'static str = S::PAID;
    fn filter() -> EventFilter {
        EventFilter::of_enum::<AccountEvent>()
    }
}

impl<S: Subject + 'static> Project<<S::Backend as Backend>::Tx> for Paid<S> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        let seen = (event.position, event.stream.to_string(), event.version.0);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(seen);
        for amount in amounts(event) {
            S::pay(tx, event.stream.as_str(), amount).await?;
            if amount == CURSED {
                return Err("nobody pays that".into());
            }
        }
        Ok(())
    }
}

fn amounts(event: &RecordedEvent) -> Vec<i64> {
    let amount = |event| match event {
        AccountEvent::Deposited(e) => Some(e.amount),
        AccountEvent::Withdrawn(e) => Some(-e.amount),
        AccountEvent::Opened(_) | AccountEvent::Closed(_) | AccountEvent::Rated(_) => None,
    };
    AccountEvent::decode(event).expect("the suites' own events").into_iter().filter_map(amount).collect()
}

/// One row that every payment belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    amount: i64,
    n_payments: u64,
}

impl Projection for Total {
    const NAME: &'static str = "total";
    fn filter() -> EventFilter {
        Balance::filter()
    }
}

impl View for Total {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let change = |amount| {
            Change::new("all".to_owned(), move |row: &mut Self| {
                row.amount += amount;
                row.n_payments += 1;
                Ok(())
            })
        };
        Ok(amounts(event).into_iter().map(change).collect())
    }
}

/// [`Total`] as it is after a change of its handlers: it counts payments and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count(u64);

impl Projection for Count {
    const NAME: &'static str = Total::NAME;
    const VERSION: u32 = 2;
    fn filter() -> EventFilter {
        Total::filter()
    }
}

impl View for Count {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let change = |_| {
            Change::new("all".to_owned(), |row: &mut Self| {
                row.0 += 1;
                Ok(())
            })
        };
        Ok(amounts(event).into_iter().map(change).collect())
    }
}

type Store<S> = Patient<<S as Subject>::Backend>;

fn many() -> RetryPolicy {
    RetryPolicy::default().with_attempts(100)
}

fn wiring<S: Subject + 'static>(store: &Store<S>, paid: &Paid<S>) -> AppBuilder<S::Backend> {
    App::on(store.0.clone())
        .retry(many())
        .inline_view::<Balance>()
        .inline_view::<Total>()
        .inline_projection(paid.clone())
}

async fn all_inline<S: Subject + 'static>(store: &Store<S>) -> App {
    let paid = Paid::<S>::default();
    start(|| wiring(store, &paid)).await
}

/// A key as text.
fn key<T: std::fmt::Display + Copy>(text: T) -> String {
    text.to_string()
}

async fn rows<V: View>(app: &App) -> BTreeMap<String, V> {
    let views: &Views = app.services().get().expect("the app has views");
    for _ in 0..1_000 {
        let mut rows = BTreeMap::new();
        let read = views.for_each::<V>(|key, row| {
            rows.insert(key.to_string(), row);
        });
        if read.await.is_ok() {
            return rows;
        }
    }
    panic!("the rows cannot be read in 1,000 tries")
}

async fn row<V: View<Key = String>>(app: &App, key: &str) -> Option<V> {
    rows(app).await.remove(key)
}

/// Every row is what a plain fold of the log gives.
async fn assert_complete<S: Subject + 'static>(app: &App, store: &Store<S>) {
    let (mut balances, mut total) = (BTreeMap::<String, Balance>::new(), Total::default());
    let mut paid = BTreeMap::<String, i64>::new();
    for event in store.all().await {
        let account = event.stream.as_str().strip_prefix("account-").expect("only accounts").to_owned();
        let balance = balances.entry(account).or_default();
        for amount in amounts(&event) {
            balance.amount += amount;
            balance.n_payments += 1;
            total.amount += amount;
            total.n_payments += 1;
            *paid.entry(event.stream.to_string()).or_default() += amount;
        }
    }
    assert_eq!(rows::<Balance>(app).await, balances);
    assert_eq!(row::<Total>(app, "all").await.unwrap_or_default(), total);
    assert_eq!(S::paid(&store.0).await.expect("it can be read"), paid);
}

/// Commits through an app's store until the outcome is known.
async fn commit(app: &App, commit: Commit) -> Result<Committed, CommitError> {
    super::patient::commit(app.store(), commit).await
}

fn is_inline_refusal(error: &CommitError) -> bool {
    matches!(error, CommitError::Inline { .. })
}

/// Tries to start what must not start; gives what it says.
pub(super) async fn refused_start<B: Backend>(wiring: impl FnMut() -> AppBuilder<B>) -> String {
    judged_start(wiring).await.expect_err("it must not start")
}

/// The app, or what its start says, once the store has answered.
pub(super) async fn judged_start<B: Backend>(
    mut wiring: impl FnMut() -> AppBuilder<B>,
) -> Result<App, String> {
    for _ in 0..100 {
        match wiring().start().await.map_err(|refused| refused.to_string()) {
            Err(said) if said.contains("could not be done now") => {}
            judged => return judged,
        }
    }
    panic!("the store did not answer in 100 tries")
}

/// P16
pub async fn a_row_is_there_with_the_command_that_led_to_it<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = all_inline::<S>(&store).await;
    let ada = key("ada");
    sent!(app.send(&ada, Open { owner: ada.clone() })).expect("accepted");
    sent!(app.send(&ada, Deposit { amount: 5 })).expect("accepted");
    assert_eq!(row(&app, "ada").await, Some(Balance { amount: 5, n_payments: 1 }));
    assert_eq!(S::paid(&store.0).await.expect("readable")["account-ada"], 5);
    sent!(app.send(&ada, Split { times: 3 })).expect("accepted");
    assert_eq!(row(&app, "ada").await, Some(Balance { amount: 8, n_payments: 4 }));

    let first = OpenFirst { owner: key("bob"), id: key("bob") };
    while let Err(error) = app.decide(first.clone()).await {
        assert!(
            matches!(error, DecideError::Store(_) | DecideError::Commit(CommitError::Store(_))),
            "{error:?}"
        );
    }
    assert_eq!(row(&app, "bob").await, Some(Balance::default()));

    let anywhere = Commit::default().and("account-bob", ANY, vec![encoded(&deposited(7))]);
    commit(&app, anywhere).await.expect("accepted");
    assert_eq!(row(&app, "bob").await, Some(Balance { amount: 7, n_payments: 1 }));
    assert_complete::<S>(&app, &store).await;
}

/// P16
pub async fn commands_in_one_transaction_write_their_rows_with_it<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = all_inline::<S>(&store).await;
    let (ada, bob) = (key("ada"), key("bob"));
    let mut tx = store.begin().await;
    sent!(app.send(&ada, Donate { amount: 100 }).within(&mut tx)).expect("accepted");
    drop(tx);
    assert_eq!(rows::<Total>(&app).await.len(), 0, "it was rolled back");
    assert_complete::<S>(&app, &store).await;
    loop {
        let mut tx = store.begin().await;
        subject.put_row(&mut tx, "k", "v").await;
        sent!(app.send(&ada, Donate { amount: 1 }).within(&mut tx)).expect("accepted");
        sent!(app.send(&ada, Deposit { amount: 2 }).within(&mut tx)).expect("it exists, in here");
        sent!(app.send(&bob, Donate { amount: 3 }).within(&mut tx)).expect("accepted");
        let refused =
            sent!(app.send(&bob, Withdraw { amount: 4 }).within(&mut tx)).expect_err("only 3 on it");
        assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn { balance: 3 }));
        if store.finish(tx).await.expect("nothing stands against it") {
            break;
        }
    }
    assert_eq!(row(&app, "all").await, Some(Total { amount: 6, n_payments: 3 }));
    assert_eq!(row(&app, "ada").await, Some(Balance { amount: 3, n_payments: 2 }));
    assert_eq!(subject.row(&store.0, "k").await.as_deref(), Some("v"));
    assert_complete::<S>(&app, &store).await;
}

/// P16
pub async fn what_is_refused_leaves_no_row<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = all_inline::<S>(&store).await;
    let ada = key("ada");
    sent!(app.send(&ada, Donate { amount: 1 })).expect("accepted");
    sent!(app.send(&ada, Withdraw { amount: 2 })).expect_err("only 1 on it");
    let conflict = Commit::default().and("account-ada", NO_STREAM, vec![encoded(&deposited(1))]);
    let refused = commit(&app, conflict).await.expect_err("it is there");
    assert!(matches!(refused, CommitError::Conflict { .. }), "{refused:?}");
    let late = Commit::default()
        .and("account-bob", ANY, vec![encoded(&deposited(1))])
        .under(EventFilter::all(), Position(0));
    let refused = commit(&app, late).await.expect_err("something came in between");
    assert!(matches!(refused, CommitError::ConditionFailed { .. }), "{refused:?}");
    assert_eq!(row(&app, "all").await, Some(Total { amount: 1, n_payments: 1 }));
    assert_complete::<S>(&app, &store).await;
    assert_eq!(store.head().await, 1);
}

/// P16
pub async fn an_inline_handler_that_fails_fails_the_command<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = all_inline::<S>(&store).await;
    let ada = key("ada");
    sent!(app.send(&ada, Donate { amount: 1 })).expect("accepted");
    let failed = sent!(app.send(&ada, Deposit { amount: CURSED })).expect_err("no projection takes it in");
    let said = crate::chain(&failed);
    for part in ["paid/1", "account.deposited", "account-ada", "nobody pays that"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(matches!(failed, CommandError::Commit(CommitError::Projection { .. })), "{failed:?}");
    assert_eq!(failed.kind(), ErrorKind::Misuse, "not a conflict: to send it again does not help");

    let unreadable = Commit::default().and("account-ada", ANY, vec![raw("account.deposited", 3, "{}")]);
    let failed = commit(&app, unreadable).await.expect_err("no view takes it in");
    assert!(matches!(failed, CommitError::Projection { .. }), "{failed:?}");

    let mut tx = store.begin().await;
    sent!(app.send(&ada, Deposit { amount: 2 }).within(&mut tx)).expect("accepted");
    let failed = sent!(app.send(&ada, Deposit { amount: CURSED }).within(&mut tx)).expect_err("as before");
    assert!(matches!(failed, CommandError::Commit(CommitError::Projection { .. })), "{failed:?}");
    assert!(tx.commit().await.is_err(), "a part of the rows is in there");
    assert_eq!(store.head().await, 1);
    assert_complete::<S>(&app, &store).await;
    sent!(app.send(&ada, Deposit { amount: 3 })).expect("nothing is in its way");
    assert_complete::<S>(&app, &store).await;
}

/// P16
pub async fn concurrent_commands_on_one_row_and_on_many_land_once<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    let one = all_inline::<S>(&store).await;
    let two = all_inline::<S>(&other).await;
    let commands = (0..10_u64).map(|i| {
        let app = if i % 2 == 0 { &one } else { &two };
        async move {
            let (own, shared) = (key(i), key("shared"));
            for account in [&own, &shared] {
                let mut outcome = sent!(app.send(account, Donate { amount: 1 }));
                while matches!(outcome, Err(CommandError::Conflict { .. })) {
                    outcome = sent!(app.send(account, Donate { amount: 1 }));
                }
                outcome.expect("accepted");
            }
            let anywhere = Commit::default().and("account-any", ANY, vec![encoded(&deposited(1))]);
            commit(app, anywhere).await.expect("`Any` never conflicts");
        }
    });
    join_all(commands).await;
    assert_eq!(store.head().await, 30);
    for app in [&one, &two] {
        assert_complete::<S>(app, &store).await;
    }
}

/// P16
pub async fn the_same_events_again_are_taken_in_once<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = all_inline::<S>(&store).await;
    let opening =
        Commit::default().and("account-a", NO_STREAM, vec![encoded(&opened("a")), encoded(&deposited(1))]);
    let paying = Commit::default().and("account-a", exact(2), vec![encoded(&deposited(2))]);
    for _ in 0..3 {
        let versions = commit(&app, opening.clone()).await.expect("the first time, or as then").versions;
        assert_eq!(versions.iter().map(|v| v.0).collect::<Vec<_>>(), [2]);
        commit(&app, paying.clone()).await.expect("the first time, or as then");
    }
    assert_eq!(row(&app, "a").await, Some(Balance { amount: 3, n_payments: 2 }));
    assert_complete::<S>(&app, &store).await;
}

/// P16
pub async fn inline_async_and_live_give_the_same_answers<S: Subject + 'static>(subject: S) {
    for seed in 0..3 {
        let mut answers = Vec::new();
        for kind in 0..3 {
            let store = store(&subject).await;
            let app = start(|| {
                let app = App::on(store.0.clone()).retry(many());
                match kind {
                    0 => app.view::<Balance>().view::<Total>(),
                    1 => app.inline_view::<Balance>().inline_view::<Total>(),
                    _ => app.live_view::<Balance>().live_view::<Total>(),
                }
            })
            .await;
            let mut random = StdRng::seed_from_u64(seed);
            for _ in 0..30 {
                let account = key(random.random_range(0..4_u8));
                let amount = random.random_range(1..50);
                if random.random_bool(0.7) {
                    sent!(app.send(&account, Donate { amount })).expect("accepted");
                } else {
                    drop(sent!(app.send(&account, Withdraw { amount })));
                }
            }
            settle(&app).await;
            let balances = rows::<Balance>(&app).await;
            let views: &Views = app.services().get().expect("the app has views");
            for (key, row) in &balances {
                let one = loop {
                    if let Ok(found) = views.get::<Balance>(key).await {
                        break found;
                    }
                };
                assert_eq!(one.as_ref(), Some(row));
            }
            answers.push((balances, rows::<Total>(&app).await));
        }
        assert_eq!(answers[0], answers[1], "seed {seed}");
        assert_eq!(answers[0], answers[2], "seed {seed}");
    }
}

/// P16
pub async fn handlers_see_events_where_they_will_be<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let paid = Paid::<S>::default();
    let app = start(|| wiring(&store, &paid)).await;
    assert_eq!(paid.seen(), BTreeSet::new());
    sent!(app.send(&key("a"), Open { owner: key("a") })).expect("accepted");
    sent!(app.send(&key("a"), Split { times: 3 })).expect("accepted");
    let payment = || vec![encoded(&deposited(1)), encoded(&deposited(1))];
    let anywhere = Commit::default().and("account-a", ANY, payment()).and("account-b", ANY, payment()).and(
        "account-a",
        ANY,
        payment(),
    );
    commit(&app, anywhere).await.expect("accepted");
    let place = |e: RecordedEvent| (e.position, e.stream.to_string(), e.version.0);
    let log: BTreeSet<Seen> = store.all().await.into_iter().map(place).collect();
    let uncommitted = log.iter().map(|(_, stream, version)| (None, stream.clone(), *version)).collect();
    assert_eq!(paid.seen(), uncommitted);
    assert_eq!(log.len(), 10);

    let paid = Paid::<S>::default();
    let retired = || {
        let app = App::on(store.0.clone()).projection(paid.clone()).retire_inline("paid/1");
        app.retire_inline("balance/1").retire_inline("total/1")
    };
    let app = start(retired).await;
    settle(&app).await;
    assert_eq!(paid.seen(), BTreeSet::new(), "it goes on from where the commits were");
    sent!(app.send(&key("a"), Deposit { amount: 1 })).expect("accepted");
    settle(&app).await;
    assert_eq!(paid.seen(), BTreeSet::from([(Some(Position(11)), key("account-a"), 9)]));
}

/// Pays in again and again until it is refused; gives how often it was not.
async fn pay_until_refused<B: Backend + RowStore + Clone>(
    store: Patient<B>,
    account: &str,
) -> (u64, CommitError) {
    for n in 0.. {
        let commit = Commit::default().and(account, ANY, vec![encoded(&deposited(1))]);
        if let Err(refused) = store.commit(commit).await {
            return (n, refused);
        }
        tokio::task::yield_now().await;
    }
    unreachable!("it is refused before")
}

/// P16
pub async fn turning_inline_on_beside_writers_loses_and_doubles_nothing<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    let paid = Paid::<S>::default();
    let before = start(|| App::on(store.0.clone()).view::<Balance>().projection(paid.clone())).await;
    for i in 0..20 {
        store.put(&format!("account-{}", i % 4), vec![encoded(&deposited(i))]).await;
    }
    settle(&before).await;
    assert!(before.shutdown(LIMIT).await);
    for i in 0..20 {
        store.put(&format!("account-{}", i % 4), vec![encoded(&deposited(i))]).await;
    }
    // Tasks of their own, as other requests have: in one task, a transaction of the one would stop the other.
    let one = tokio::spawn(pay_until_refused(store.clone(), "account-one"));
    let two = tokio::spawn(pay_until_refused(other.clone(), "account-two"));
    let app = all_inline::<S>(&store).await;
    let (one, two) = (one.await.expect("it ends"), two.await.expect("it ends"));
    assert!(is_inline_refusal(&one.1), "{:?}", one.1);
    assert!(is_inline_refusal(&two.1), "{:?}", two.1);
    assert_eq!(store.head().await, 40 + one.0 + two.0, "what was acknowledged, and nothing else");
    assert_complete::<S>(&app, &store).await;
    sent!(app.send(&key("two"), Donate { amount: 1 })).expect("this one runs the same set");
    assert_complete::<S>(&app, &store).await;
    let refused = pay_until_refused(other, "account-two").await;
    assert!(refused.0 == 0 && is_inline_refusal(&refused.1), "{refused:?}");
    assert!(
        refused.1.to_string().contains("start it again with the same inline projections"),
        "{}",
        refused.1
    );
}

/// P16
pub async fn two_apps_that_turn_it_on_at_once_do_it_once<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    for i in 0..20 {
        store.put(&format!("account-{}", i % 4), vec![encoded(&deposited(i))]).await;
    }
    let (one, two) = futures::join!(all_inline::<S>(&store), all_inline::<S>(&other));
    for app in [&one, &two] {
        sent!(app.send(&key(0), Donate { amount: 1 })).expect("both run the same set");
        assert_complete::<S>(app, &store).await;
    }
}

/// P16
pub async fn a_retired_inline_view_goes_on_by_a_processor<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let inline = start(|| App::on(store.0.clone()).retry(many()).inline_view::<Balance>()).await;
    sent!(inline.send(&key("a"), Donate { amount: 1 })).expect("accepted");
    let said = refused_start(|| App::on(store.0.clone()).view::<Balance>()).await;
    assert!(
        said.contains(r#"balance/1 is inline"#) && said.contains(r#".retire_inline("balance/1")"#),
        "{said}"
    );
    let said = refused_start(|| App::on(store.0.clone())).await;
    assert!(said.contains(".inline_view::<..>()"), "{said}");
    let both = || App::on(store.0.clone()).inline_view::<Balance>().retire_inline("balance/1");
    assert!(refused_start(both).await.contains("registered as inline and retired"));

    let retired = || App::on(store.0.clone()).retry(many()).view::<Balance>().retire_inline("balance/1");
    let app = start(retired).await;
    let refused =
        sent!(inline.send(&key("a"), Deposit { amount: 2 })).expect_err("it still runs the other set");
    assert!(matches!(&refused, CommandError::Commit(error) if is_inline_refusal(error)), "{refused:?}");
    sent!(app.send(&key("a"), Deposit { amount: 2 })).expect("accepted");
    settle(&app).await;
    assert_eq!(row(&app, "a").await, Some(Balance { amount: 3, n_payments: 2 }));
    assert!(app.shutdown(LIMIT).await);
    let app = start(retired).await;
    sent!(app.send(&key("a"), Deposit { amount: 3 })).expect("the line may stay");
    assert!(app.shutdown(LIMIT).await);

    let again = start(|| App::on(store.0.clone()).retry(many()).inline_view::<Balance>()).await;
    assert_eq!(row(&again, "a").await, Some(Balance { amount: 6, n_payments: 3 }));
    let refused =
        sent!(inline.send(&key("a"), Deposit { amount: 2 })).expect_err("its generation is long gone");
    assert!(matches!(&refused, CommandError::Commit(error) if is_inline_refusal(error)), "{refused:?}");
}

/// P16
pub async fn another_version_of_an_inline_view_takes_its_place<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let old = start(|| App::on(store.0.clone()).retry(many()).inline_view::<Total>()).await;
    for _ in 0..3 {
        sent!(old.send(&key("a"), Donate { amount: 2 })).expect("accepted");
    }
    let said = refused_start(|| App::on(store.0.clone()).inline_view::<Count>()).await;
    assert!(said.contains("total/1 is inline"), "{said}");
    assert_eq!(row(&old, "all").await, Some(Total { amount: 6, n_payments: 3 }), "nothing was touched");
    let wiring = || App::on(store.0.clone()).retry(many()).inline_view::<Count>().retire_inline("total/1");
    let new = start(wiring).await;
    assert_eq!(row(&new, "all").await, Some(Count(3)));
    sent!(new.send(&key("a"), Donate { amount: 2 })).expect("accepted");
    assert_eq!(row(&new, "all").await, Some(Count(4)));
    let refused = sent!(old.send(&key("a"), Donate { amount: 2 })).expect_err("it runs the old version");
    assert!(matches!(&refused, CommandError::Commit(error) if is_inline_refusal(error)), "{refused:?}");
}

/// P16
pub async fn what_a_processor_works_on_or_has_parked_does_not_become_inline<S: Subject + 'static>(
    subject: S,
) {
    let store = store(&subject).await;
    let ms = std::time::Duration::from_millis;
    let paid = Paid::<S>::default();
    let with_processor =
        || App::on(store.0.clone()).projection(paid.clone()).processor_retries(1, ms(1), ms(4));
    let app = start(with_processor).await;
    store.put("account-a", vec![encoded(&deposited(CURSED)), encoded(&deposited(1))]).await;
    settle(&app).await;
    let inline = || App::on(store.0.clone()).inline_projection(paid.clone());
    let said = refused_start(inline).await;
    assert!(said.contains("runs paid/1 by a processor: stop it first"), "{said}");
    assert!(app.shutdown(LIMIT).await);
    let said = refused_start(inline).await;
    assert!(said.contains("1 sequences of paid/1 are parked"), "{said}");

    let app = start(with_processor).await;
    store.put("account-a", vec![encoded(&deposited(2))]).await;
    settle(&app).await;
    let processor = app.processor::<Paid<S>>().expect("it runs");
    ask(|| async {
        match processor.discard("account-a", "nobody pays that", LIMIT).await {
            Err(ProcessorError::NotParked { .. }) => Ok(()),
            Err(ProcessorError::Asked { .. }) => {
                let asked = std::io::Error::other("asked for");
                Err(StoreError::transient("discarding", asked).into())
            }
            outcome => outcome,
        }
    })
    .await;
    assert!(app.shutdown(LIMIT).await);
    let app = start(inline).await;
    sent!(app.send(&key("b"), Donate { amount: 1 })).expect("accepted");
    assert_eq!(S::paid(&store.0).await.expect("readable"), BTreeMap::from([(key("account-b"), 1)]));
}

/// P16, P24
pub async fn many_parked_sequences_are_not_all_read_by_a_start<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let (paid, ms) = (Paid::<S>::default(), std::time::Duration::from_millis);
    let options = crate::processor::ProcessorOptions::default().retries(0, ms(1), ms(1));
    let app = start(|| App::on(store.0.clone()).projection(paid.clone()).processors(options)).await;
    for account in 0..120 {
        store.put(&format!("account-{account}"), vec![encoded(&deposited(CURSED))]).await;
    }
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    let line = Double::new(store.0.clone());
    let said = refused_start(|| App::on(line.clone()).inline_projection(paid.clone())).await;
    assert!(said.contains("100 or more sequences of paid/1 are parked"), "{said}");
    let (_, most) = line.scanned_of("paid/1~1/parked");
    assert!(most <= 100, "{most} are read together");
}

/// P13, P16
pub async fn what_is_inline_or_live_is_never_waited_for<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app =
        start(|| App::on(store.0.clone()).retry(many()).inline_view::<Balance>().live_view::<Total>()).await;
    let done = sent!(app.send(&key("a"), Donate { amount: 1 })).expect("accepted");
    let no_time = std::time::Duration::ZERO;
    app.wait_for::<Balance>(&done, no_time).await.expect("it is there");
    app.wait_for::<Total>(done.position, no_time).await.expect("it is there");
    assert!(app.wait_or_stale::<Total>(&done, no_time).await.expect("it is there"));
    assert_eq!(row(&app, "all").await, Some(Total { amount: 1, n_payments: 1 }));
    let none = app.processor::<Balance>().expect_err("there is none").to_string();
    assert!(none.contains("balance/1 is inline or live here"), "{none}");
    let refused = app.rebuild::<Balance>().await.expect_err("every commit writes it");
    assert!(matches!(refused, ProcessorError::NeverBehind { .. }), "{refused}");
    let twice = refused_start(|| App::on(store.0.clone()).live_view::<Total>().view::<Total>()).await;
    assert!(twice.contains(r#"two processors are named "total""#), "{twice}");
}

/// P16
pub async fn an_aggregate_loads_the_same_beside_inline_projections<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = all_inline::<S>(&store).await;
    let request = || app.send(&key("a"), Donate { amount: 2 }).idempotency_key("k-1");
    let first = sent!(request()).expect("accepted");
    let again = sent!(request()).expect("the first outcome");
    assert_eq!((first.repeated, again.repeated, again.position), (false, true, first.position));
    assert_complete::<S>(&app, &store).await;
    let account = loop {
        if let Ok(found) = app.load::<Account>(&key("a")).await {
            break found.expect("it is there");
        }
    };
    assert_eq!((account.balance, account.version.0), (2, 1));
}
