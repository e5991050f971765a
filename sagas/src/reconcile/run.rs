//! A reconciliation, and one run of it: a look at all keys, and a second one at those that seemed to differ.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use es_core::cluster::StateStore;
use es_core::limits::{LimitError, cut};
use es_core::store::{Row, StoreError, write_rows};
use es_core::{BoxError, ErrorKind, Timestamp, chain};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use xxhash_rust::xxh3::xxh3_128;

use super::merge::{Entry, Merge, OutOfOrder, Pair, Side};
use super::report::{Class, Difference, Redriven, Report};
use super::rows::{Accepted, Ran, Tables, accepted_key, run_key};
use crate::verb::By;

/// Keys that seem to differ, of which a run keeps in mind that it has to look again.
const MOST: usize = 10_000;
/// How often a row is read again because others write it.
const TRIES: u32 = 20;

/// Why a run came to no end, or something could not be noted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// A side could not be read.
    #[error("a side could not be read")]
    Read(#[source] BoxError),
    /// A side is not in the order of its keys: sort it as the type of the key is compared, texts by their bytes, say
    /// (`order by key collate "C"`).
    #[error("the {side:?} side is not in the order of its keys, behind {after}")]
    OutOfOrder {
        /// Which side.
        side: Side,
        /// Behind which key.
        after: String,
    },
    /// It is not said who accepts a difference, and why.
    #[error("{0}")]
    By(String),
    /// The store that has what was found and accepted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReconcileError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(_) => ErrorKind::Transient,
            Self::OutOfOrder { .. } | Self::By(_) => ErrorKind::Misuse,
            Self::Store(error) => error.kind(),
        }
    }
}

type Pairs<K, V> = BoxStream<'static, Result<Pair<K, V>, ReconcileError>>;
type Redrive<K, V> = Arc<dyn Fn(Found<K, V>) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;
type Touched<K> = Arc<dyn Fn(K) -> BoxFuture<'static, Result<bool, BoxError>> + Send + Sync>;

/// A difference, with its types: for an action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found<K, V> {
    /// How both sides differ.
    pub class: Class,
    /// In which key.
    pub key: K,
    /// What the left side says; of a duplicate, the first.
    pub left: Option<V>,
    /// What the right side says.
    pub right: Option<V>,
}

/// Two sides that are to say the same. See the [module](super). Clones are the same reconciliation.
pub struct Reconciliation<K, V> {
    name: String,
    pub(super) store: Arc<dyn StateStore>,
    pub(super) tables: Tables,
    pairs: Arc<dyn Fn() -> Pairs<K, V> + Send + Sync>,
    settles: Duration,
    pause: Duration,
    first: usize,
    redrives: BTreeMap<Class, Redrive<K, V>>,
    touched: Option<Touched<K>>,
}

impl<K, V> Clone for Reconciliation<K, V> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            store: self.store.clone(),
            tables: self.tables.clone(),
            pairs: self.pairs.clone(),
            settles: self.settles,
            pause: self.pause,
            first: self.first,
            redrives: self.redrives.clone(),
            touched: self.touched.clone(),
        }
    }
}

impl<K, V> Debug for Reconciliation<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciliation").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<K, V> Reconciliation<K, V> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was changed more lately than this is no difference yet, where a side says when; one minute by default.
    #[must_use]
    pub const fn settles(mut self, settles: Duration) -> Self {
        self.settles = settles;
        self
    }

    /// How long it waits before it looks again at what seemed to differ; one second by default.
    #[must_use]
    pub const fn looks_again_after(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// How many differences of each class a report has; 20 by default.
    #[must_use]
    pub const fn first(mut self, most: usize) -> Self {
        self.first = most;
        self
    }
}

impl<K: Ord + Clone + Display + Send + Sync + 'static, V: PartialEq + Debug + Send + Sync + 'static>
    Reconciliation<K, V>
{
    /// Of two streams, each in the order of its keys: rows of a query, say, as `(key, value)`, as `(key, value, changed)`, or
    /// as an [`Entry`]. They are asked for anew each time: twice in a run, if there seem to be differences. What was found and
    /// accepted is kept in a store under the name.
    ///
    /// # Errors
    ///
    /// The name cannot be one.
    pub fn between<L, R, I, J, E, F>(
        name: impl Into<String>,
        store: impl StateStore,
        left: impl Fn() -> L + Send + Sync + 'static,
        right: impl Fn() -> R + Send + Sync + 'static,
    ) -> Result<Self, LimitError>
    where
        L: Stream<Item = Result<I, E>> + Send + 'static,
        R: Stream<Item = Result<J, F>> + Send + 'static,
        I: Into<Entry<K, V>>,
        J: Into<Entry<K, V>>,
        E: Into<BoxError>,
        F: Into<BoxError>,
    {
        Self::of_pairs(name, store, move || {
            let left = left().map(|entry| entry.map(Into::into).map_err(Into::into)).boxed();
            let right = right().map(|entry| entry.map(Into::into).map_err(Into::into)).boxed();
            merged(left, right)
        })
    }

    /// Of what two sides have of each key.
    pub(crate) fn of_pairs(
        name: impl Into<String>,
        store: impl StateStore,
        pairs: impl Fn() -> Pairs<K, V> + Send + Sync + 'static,
    ) -> Result<Self, LimitError> {
        let name = name.into();
        run_key(&name)?;
        let (settles, pause) = (Duration::from_secs(60), Duration::from_secs(1));
        Ok(Self {
            name,
            store: Arc::new(store),
            tables: Tables::new()?,
            pairs: Arc::new(pairs),
            settles,
            pause,
            first: 20,
            redrives: BTreeMap::new(),
            touched: None,
        })
    }

    /// Whether a transaction that goes on may change a key: then it is no difference. It is asked of those that seem to
    /// differ only.
    #[must_use]
    pub fn pending_if<F: Future<Output = Result<bool, BoxError>> + Send + 'static>(
        mut self,
        touched: impl Fn(K) -> F + Send + Sync + 'static,
    ) -> Self {
        self.touched = Some(Arc::new(move |key| Box::pin(touched(key))));
        self
    }

    /// What is done about differences of a class, besides being reported: a saga is started, say, under a key that is that of
    /// the difference, so that it is started once. Without this they are reported only.
    #[must_use]
    pub fn redrive<F: Future<Output = Result<(), BoxError>> + Send + 'static>(
        mut self,
        class: Class,
        redrive: impl Fn(Found<K, V>) -> F + Send + Sync + 'static,
    ) -> Self {
        self.redrives.insert(class, Arc::new(move |found| Box::pin(redrive(found))));
        self
    }

    /// Runs it: each key is compared, and what seems to differ is looked at again at the end. What still differs, in the same
    /// way, is reported, unless it is pending or accepted. What it has found is kept for [`last`](Self::last).
    ///
    /// It has one page of each side in memory, and the keys that seem to differ, 10,000 at most.
    ///
    /// # Errors
    ///
    /// [`ReconcileError`]: then it is not known whether both sides say the same.
    ///
    /// # Cancellation
    ///
    /// Dropping its future stops it; what was redriven by then is.
    pub async fn run(&self) -> Result<Report, ReconcileError> {
        let ran = self.look().await;
        match &ran {
            Ok(report) => {
                let report = report.clone();
                self.note(move |ran| (ran.report, ran.failed) = (Some(report.clone()), None)).await?;
            }
            Err(error) => {
                metrics::counter!("es_reconcile_failed_total", "reconciliation" => self.name.clone())
                    .increment(1);
                let noted = async {
                    let (at, why) = (self.store.now().await?, chain(error));
                    self.note(move |ran| ran.failed = Some((at, why.clone()))).await
                };
                if let Err(error) = noted.await {
                    let (reconciliation, error) = (&self.name, chain(&error));
                    tracing::debug!(
                        reconciliation,
                        error,
                        "that a reconciliation came to no end is not noted"
                    );
                }
            }
        }
        ran
    }

    async fn look(&self) -> Result<Report, ReconcileError> {
        let mut report = Report::new(self.name.clone(), self.store.now().await?);
        let (mut seem, mut pairs) = (BTreeMap::new(), (self.pairs)());
        while let Some(pair) = pairs.try_next().await? {
            report.keys += 1;
            let Some(class) = class_of(&pair) else { continue };
            match seem.len() < MOST {
                true => drop(seem.insert(pair.key.clone(), fingerprint(class, &pair))),
                false => report.unconfirmed += 1,
            }
        }
        drop(pairs);
        if !seem.is_empty() {
            tokio::time::sleep(self.pause).await;
            let mut pairs = (self.pairs)();
            while let Some(pair) = pairs.try_next().await? {
                if let Some(seemed) = seem.remove(&pair.key) {
                    self.judge(&mut report, pair, seemed).await?;
                }
                if seem.is_empty() {
                    break;
                }
            }
        }
        report.ended = self.store.now().await?;
        Ok(report)
    }

    /// What becomes of a key that seemed to differ, at the second look.
    async fn judge(&self, report: &mut Report, pair: Pair<K, V>, seemed: u128) -> Result<(), ReconcileError> {
        let Some(class) = class_of(&pair) else { return Ok(()) };
        let fingerprint = fingerprint(class, &pair);
        // It changes while it is looked at.
        if fingerprint != seemed || self.is_pending(&pair).await? {
            report.pending += 1;
            return Ok(());
        }
        let (key, fingerprint) = (pair.key.to_string(), format!("{fingerprint:032x}"));
        if self.is_accepted(&key, &fingerprint).await? {
            report.accepted += 1;
            return Ok(());
        }
        let Pair { key: of, left, right, .. } = pair;
        let text =
            |entry: &Option<Entry<K, V>>| entry.as_ref().map(|entry| cut(&format!("{:?}", entry.value)));
        let (mut difference, redrive) = (
            Difference { class, key, left: text(&left), right: text(&right), fingerprint, redriven: None },
            self.redrives.get(&class),
        );
        if let Some(redrive) = redrive {
            let value = |entry: Option<Entry<K, V>>| entry.map(|entry| entry.value);
            let found = Found { class, key: of, left: value(left), right: value(right) };
            difference.redriven = Some(match redrive(found).await {
                Ok(()) => Redriven::Done,
                Err(error) => Redriven::Failed(chain(&*error)),
            });
        }
        report.add(difference, self.first);
        Ok(())
    }

    async fn is_pending(&self, pair: &Pair<K, V>) -> Result<bool, ReconcileError> {
        let now = self.store.now().await?;
        let is_young = |changed: Timestamp| {
            Duration::try_from(now.duration_since(changed)).map_or(true, |age| age < self.settles)
        };
        let mut entries = pair.left.iter().chain(&pair.right);
        if entries.any(|entry| entry.live || entry.changed.is_some_and(is_young)) {
            return Ok(true);
        }
        match &self.touched {
            Some(touched) => touched(pair.key.clone()).await.map_err(ReconcileError::Read),
            None => Ok(false),
        }
    }

    async fn is_accepted(&self, key: &str, fingerprint: &str) -> Result<bool, StoreError> {
        let row = self.tables.accepted.get(&*self.store, &accepted_key(&self.name, key)?).await?;
        Ok(row.is_some_and(|row| row.value.key == key && row.value.fingerprint == fingerprint))
    }
}

impl<K, V> Reconciliation<K, V> {
    /// A person accepts a difference as it is: it is not reported again before it changes. Who and why is kept.
    ///
    /// # Errors
    ///
    /// [`ReconcileError::By`]: it is not said who, and why. [`ReconcileError::Store`].
    pub async fn accept(
        &self,
        difference: &Difference,
        actor: &str,
        reason: &str,
    ) -> Result<(), ReconcileError> {
        By::check(actor, reason).map_err(ReconcileError::By)?;
        let row_key = accepted_key(&self.name, &difference.key).map_err(StoreError::from)?;
        let value = Accepted {
            key: difference.key.clone(),
            fingerprint: difference.fingerprint.clone(),
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            at: self.store.now().await?,
        };
        for _ in 0..TRIES {
            let row = self.tables.accepted.get(&*self.store, &row_key).await?;
            let rev = row.map_or(0, |row| row.rev);
            let row = Row { key: row_key.clone(), rev, value: value.clone() };
            if write_rows(&*self.store, vec![self.tables.accepted.put(&row)?]).await?.is_yes() {
                return Ok(());
            }
        }
        Err(others("accepting a difference").into())
    }

    /// What the last run has found that came to its end, on whichever node.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn last(&self) -> Result<Option<Report>, StoreError> {
        Ok(self.ran().await?.value.report)
    }

    pub(super) async fn ran(&self) -> Result<Row<Ran>, StoreError> {
        let key = run_key(&self.name)?;
        let row = self.tables.runs.get(&*self.store, &key).await?;
        Ok(row.unwrap_or_else(|| Row::new(key, Ran::default())))
    }

    /// Changes what is known of its runs.
    async fn note(&self, change: impl Fn(&mut Ran) + Send + Sync) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let mut row = self.ran().await?;
            change(&mut row.value);
            if write_rows(&*self.store, vec![self.tables.runs.put(&row)?]).await?.is_yes() {
                return Ok(());
            }
        }
        Err(others("noting what a reconciliation has found"))
    }
}

fn others(what: &'static str) -> StoreError {
    StoreError::transient(what, std::io::Error::other("others write its row"))
}

fn class_of<K, V: PartialEq>(pair: &Pair<K, V>) -> Option<Class> {
    match (&pair.left, &pair.right) {
        _ if pair.twice => Some(Class::Duplicate),
        (None, None) => None,
        (None, Some(_)) => Some(Class::MissingLeft),
        (Some(_), None) => Some(Class::MissingRight),
        (Some(left), Some(right)) => (left.value != right.value).then_some(Class::Mismatch),
    }
}

/// Of what both sides say.
fn fingerprint<K: Display, V: Debug>(class: Class, pair: &Pair<K, V>) -> u128 {
    let value = |entry: &Option<Entry<K, V>>| entry.as_ref().map(|entry| format!("{:?}", entry.value));
    let all = format!("{}\0{}\0{:?}\0{:?}", class.name(), pair.key, value(&pair.left), value(&pair.right));
    xxh3_128(all.as_bytes())
}

type Entries<K, V> = BoxStream<'static, Result<Entry<K, V>, BoxError>>;

/// Two sides, merged as far as somebody asks.
fn merged<K: Ord + Clone + Display + Send + 'static, V: Send + 'static>(
    left: Entries<K, V>,
    right: Entries<K, V>,
) -> Pairs<K, V> {
    let next = |(mut merge, mut left, mut right, last): (
        Merge<K, V>,
        Entries<K, V>,
        Entries<K, V>,
        Option<K>,
    )| async move {
        while let Some(side) = merge.wants() {
            let entries = if side == Side::Left { &mut left } else { &mut right };
            let entry = entries.try_next().await.map_err(ReconcileError::Read)?;
            let key = entry.as_ref().map(|entry| entry.key.clone());
            merge.feed(side, entry).map_err(|OutOfOrder { side }| ReconcileError::OutOfOrder {
                side,
                after: last.as_ref().or(key.as_ref()).map_or_else(String::new, |key: &K| key.to_string()),
            })?;
        }
        Ok::<_, ReconcileError>(merge.take().map(|pair| {
            let last = Some(pair.key.clone());
            (pair, (merge, left, right, last))
        }))
    };
    stream::try_unfold((Merge::new(), left, right, None), next).boxed()
}
