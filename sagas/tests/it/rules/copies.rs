//! Copies of aggregates, elsewhere and in memory: F1 to F4.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::processor::ProcessorOptions;
use es_core::store::Version;
use es_core::testing::conformance::domain::{Account, AccountEvent, Deposited, Opened};
use es_core::{App, AppBuilder, BoxError, ErrorKind, LoadError};
use sagas::mirror::{Mirror, MirrorError, Mirroring as _, Mirrors as _, NearCache};

use super::Subject;
use super::blame::{Audited, NewerEvent};
use super::ground::{Ground, PATIENCE};

/// A copy that holds balances, and fails at every second write of each account: before it has written, or after.
#[derive(Clone, Default)]
struct Index(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    tries: HashMap<String, u64>,
    balances: HashMap<String, (Version, i64)>,
}

impl Index {
    fn balances(&self) -> BTreeMap<String, i64> {
        let kept = self.0.lock().unwrap();
        kept.balances.iter().map(|(id, (_, balance))| (id.clone(), *balance)).collect()
    }
}

impl Mirror for Index {
    const NAME: &'static str = "index";
    type Of = Account;

    async fn write(&self, id: &String, version: Version, account: &Account) -> Result<(), BoxError> {
        let mut kept = self.0.lock().unwrap();
        let tries = kept.tries.entry(id.clone()).or_default();
        *tries += 1;
        let (fails_before, fails_behind) = (*tries % 4 == 1, *tries % 4 == 3);
        if fails_before {
            return Err("the index is busy".into());
        }
        if kept.balances.get(id).is_none_or(|(held, _)| *held < version) {
            kept.balances.insert(id.clone(), (version, account.balance));
        }
        if fails_behind { Err("the index does not answer".into()) } else { Ok(()) }
    }
}

/// Accounts to which something happens, and what is on them.
struct Accounts<'s, S: Subject> {
    ground: Ground<'s, S>,
    balances: BTreeMap<String, i64>,
}

impl<'s, S: Subject> Accounts<'s, S> {
    async fn open(subject: &'s S) -> Self {
        Self { ground: Ground::open(subject).await, balances: BTreeMap::new() }
    }

    async fn deposit(&mut self, id: &str, amount: i64) {
        let mut events = vec![AccountEvent::Deposited(Deposited { amount, reference: None })];
        if !self.balances.contains_key(id) {
            events.insert(0, AccountEvent::Opened(Opened { owner: id.to_owned() }));
        }
        self.ground.tell_to(&format!("account-{id}"), events).await;
        *self.balances.entry(id.to_owned()).or_default() += amount;
    }

    async fn node(&self, index: &Index, cache: &NearCache<Account>) -> App {
        // The store fails as well: all that is said of an account fails less often than this in a row.
        let often =
            ProcessorOptions::default().retries(20, Duration::from_millis(5), Duration::from_millis(50));
        let wire = |app: AppBuilder<S::Backend>| app.mirror(index.clone()).near_cache(cache);
        self.ground.join(|app| wire(app).processor_options(Index::NAME, often)).await
    }

    async fn until_copied(&self, index: &Index) {
        let begun = tokio::time::Instant::now();
        while index.balances() != self.balances {
            assert!(begun.elapsed() < PATIENCE, "{:?} is not {:?}", index.balances(), self.balances);
            self.ground.pause().await;
        }
    }
}

fn no_cache() -> NearCache<Account> {
    NearCache::new(0)
}

/// F1
pub(super) async fn a_copy_has_what_its_aggregates_are_whoever_writes_it<S: Subject>(subject: &S) {
    let mut accounts = Accounts::open(subject).await;
    let index = Index::default();
    accounts.ground.flow();
    let mut nodes = vec![accounts.node(&index, &no_cache()).await];
    for round in 0..6_i64 {
        for n in 0..12 {
            accounts.deposit(&format!("a-{n}"), round * 10 + n).await;
        }
        // One goes in the middle of it, and another one comes.
        nodes.push(accounts.node(&index, &no_cache()).await);
        if nodes.len() > 2 {
            drop(nodes.remove(0));
        }
    }
    accounts.until_copied(&index).await;
    for node in nodes {
        node.shutdown(PATIENCE).await;
    }
}

/// F2
pub(super) async fn a_fill_writes_what_was_there_before_while_more_happens<S: Subject>(subject: &S) {
    let mut accounts = Accounts::open(subject).await;
    for n in 0..40 {
        accounts.deposit(&format!("old-{n}"), n).await;
        accounts.deposit(&format!("old-{n}"), 1).await;
    }
    let index = Index::default();
    let node = accounts.node(&index, &no_cache()).await;
    assert_eq!(index.balances(), BTreeMap::new(), "what has happened before is not followed");
    let fill = async {
        loop {
            match node.fill::<Index>().await {
                Ok(n) => break n,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            }
        }
    };
    let more = async {
        for n in 0..20 {
            accounts.deposit(&format!("old-{n}"), 100).await;
            accounts.deposit(&format!("new-{n}"), 5).await;
        }
    };
    let (written, ()) = futures::join!(fill, more);
    assert!((40..=60).contains(&written), "{written}");
    accounts.until_copied(&index).await;
    // What is lost is written again, and nothing that is there is changed by that.
    index.0.lock().unwrap().balances.remove("old-7");
    while node.fill::<Index>().await.is_err() {}
    accounts.until_copied(&index).await;
    node.shutdown(PATIENCE).await;

    let without = accounts.ground.join(|app| app).await;
    let unknown = without.fill::<Index>().await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Misuse);
    without.shutdown(PATIENCE).await;
}

/// F3
pub(super) async fn a_cache_holds_nothing_old_once_it_was_heard_of<S: Subject>(subject: &S) {
    let mut accounts = Accounts::open(subject).await;
    let caches = [NearCache::new(1_000), NearCache::new(3)];
    assert!(matches!(caches[0].get(&"a-0".to_owned()).await, Err(LoadError::Store(_))));
    let mut nodes = Vec::new();
    for cache in &caches {
        nodes.push(accounts.ground.join(|app| app.near_cache(cache)).await);
    }
    let nobody = "nobody".to_owned();
    assert!(accounts.ground.ask(|| caches[0].get(&nobody)).await.is_none());
    let asking = |cache: NearCache<Account>, stop: Arc<Mutex<bool>>| async move {
        let mut newest = HashMap::<String, Version>::new();
        for n in 0_u64.. {
            if *stop.lock().unwrap() {
                break;
            }
            let id = format!("a-{}", n % 7);
            if let Ok(Some(account)) = cache.get(&id).await {
                assert_eq!(account.n_events, account.version.0, "an event is folded once");
                let before = newest.insert(id, account.version).unwrap_or_default();
                assert!(account.version >= before, "it goes backwards");
            }
            if n % 5 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let stop = Arc::new(Mutex::new(false));
    let asked = caches
        .iter()
        .flat_map(|cache| [cache.clone(), cache.clone()])
        .map(|cache| asking(cache, stop.clone()));
    let asked = futures::future::join_all(asked);
    let told = async {
        for n in 0..150_i64 {
            accounts.deposit(&format!("a-{}", n % 7), n).await;
        }
        *stop.lock().unwrap() = true;
    };
    futures::join!(asked, told);
    for cache in &caches {
        for (id, balance) in &accounts.balances {
            let begun = tokio::time::Instant::now();
            while accounts.ground.ask(|| cache.get(id)).await.map(|account| account.balance) != Some(*balance)
            {
                assert!(begun.elapsed() < PATIENCE, "{id} stays as it was");
                accounts.ground.pause().await;
            }
        }
    }
    for node in nodes {
        node.shutdown(PATIENCE).await;
    }
    assert!(matches!(caches[0].get(&"a-0".to_owned()).await, Err(LoadError::Store(_))), "its app has ended");
}

/// F4
pub(super) async fn a_fill_writes_all_that_can_be_written_and_names_the_rest<S: Subject>(subject: &S) {
    let mut accounts = Accounts::open(subject).await;
    accounts.deposit("a", 1).await;
    // It has an event that this program does not know.
    let opened = vec![AccountEvent::Opened(Opened { owner: "bad".to_owned() })];
    accounts.ground.tell_to("account-bad", opened).await;
    accounts.ground.tell_to("account-bad", vec![NewerEvent::Audited(Audited {})]).await;
    accounts.deposit("b", 2).await;
    let index = Index::default();
    let node = accounts.node(&index, &no_cache()).await;
    let begun = tokio::time::Instant::now();
    let (error, failed) = loop {
        match node.fill::<Index>().await.unwrap_err() {
            // What the store has failed with is tried again.
            error if error.kind() == ErrorKind::Transient => {}
            MirrorError::Write { failed, .. } if failed.len() > 1 => {}
            error => {
                let MirrorError::Write { failed, written, .. } = &error else { panic!("{error}") };
                let failed: Vec<String> = failed.iter().map(|of| of.stream.clone()).collect();
                assert_eq!(*written, 2);
                break (error.to_string(), failed);
            }
        }
        assert!(begun.elapsed() < PATIENCE / 10, "it does not come to an end");
        accounts.ground.pause().await;
    };
    assert_eq!(failed, ["account-bad"]);
    assert!(error.contains("account-bad: "), "{error}");
    accounts.until_copied(&index).await;
    node.shutdown(PATIENCE).await;
}
