//! A reconciliation: what is compared, its runs, and what a person has accepted.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use es_core::cluster::StateStore;
use es_core::guarded::caught;
use es_core::limits::LimitError;
use es_core::store::{Row, StoreError, write_rows};
use es_core::{BoxError, ErrorKind, Timestamp, chain};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};

use super::merge::{Entry, Merge, OutOfOrder, Pair, Side};
use super::report::{Class, Difference, Report};
use super::rows::{self, Ran, Tables, Unsettled, accepted_key, run_key};
use crate::verb::By;

/// How long it waits before it looks again, by default.
const PAUSE: Duration = Duration::from_secs(1);
/// Acceptances that are read together.
const AT_ONCE: usize = 500;
/// How long it waits before it notes again what it has found; twice as long each time, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
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

pub(super) type Pairs<K, V> = BoxStream<'static, Result<Pair<K, V>, ReconcileError>>;
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

/// A difference that a person has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// In which key.
    pub key: String,
    /// Who has accepted it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Two sides that are to say the same. See the [module](super). Clones are the same reconciliation.
pub struct Reconciliation<K, V> {
    name: String,
    pub(super) store: Arc<dyn StateStore>,
    pub(super) tables: Tables,
    pub(super) pairs: Arc<dyn Fn() -> Pairs<K, V> + Send + Sync>,
    pub(super) settles: Duration,
    pause: Option<Duration>,
    pub(super) first: usize,
    pub(super) redrives: BTreeMap<Class, Redrive<K, V>>,
    pub(super) redrive_at_most: usize,
    pub(super) touched: Option<Touched<K>>,
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
            redrive_at_most: self.redrive_at_most,
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

    /// What was changed more lately than this is no difference yet, where a side says when; one minute by default. The age
    /// is by the clock of the store that has what was found: where that is ahead of the clock of a side, this is shorter by
    /// as much.
    #[must_use]
    pub const fn settles(mut self, settles: Duration) -> Self {
        self.settles = settles;
        self
    }

    /// How long it waits before it looks again at what seemed to differ; one second by default. With a
    /// [`redrive`](Self::redrive) and nothing that says what is [pending](Self::pending_if), it is as long as what is young
    /// [settles](Self::settles).
    #[must_use]
    pub const fn looks_again_after(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self
    }

    pub(super) fn pause(&self) -> Duration {
        let is_told = self.redrives.is_empty() || self.touched.is_some();
        self.pause.unwrap_or_else(|| if is_told { PAUSE } else { self.settles.max(PAUSE) })
    }

    /// How many differences of a class are done again in a run; 100 by default. If there are more, none is: that many are
    /// seldom right. They are reported, and wait for a person.
    #[must_use]
    pub const fn redrive_at_most(mut self, most: usize) -> Self {
        self.redrive_at_most = most;
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
        Ok(Self {
            name,
            store: Arc::new(store),
            tables: Tables::new()?,
            pairs: Arc::new(pairs),
            settles: Duration::from_mins(1),
            pause: None,
            first: 20,
            redrives: BTreeMap::new(),
            redrive_at_most: 100,
            touched: None,
        })
    }

    /// Whether a transaction that goes on may change a key: then it is no difference. It is asked of those that seem to
    /// differ only, before the second look and once more before a difference is reported; for a minute at most. An error, a
    /// panic, and no answer in time: the key is reported, with that, and nothing is done about it. After ten of them in a row
    /// the others are not asked about.
    #[must_use]
    pub fn pending_if<F: Future<Output = Result<bool, BoxError>> + Send + 'static>(
        mut self,
        touched: impl Fn(K) -> F + Send + Sync + 'static,
    ) -> Self {
        self.touched = Some(Arc::new(move |key| Box::pin(touched(key))));
        self
    }

    /// What is done about differences of a class, besides being reported: a saga is started, say, under a key that is that of
    /// the difference, so that it is started once. Without this they are reported only. It may take a minute; an error or a
    /// panic is said in the report, and keeps no other from being done. Those of [`Class::Unsettled`] are reported only.
    ///
    /// It goes by what was seen a while ago. Where whoever made the difference may still be at it, say so
    /// ([`pending_if`](Self::pending_if)), and let the action look in its own transaction whether it is still needed: what is
    /// missing was not booked, say, under the key that it was to have.
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
    /// It has one page of each side in memory, and the keys that seem to differ, 10,000 at a time. If there are more, and of
    /// the first ones many are pending or accepted, it goes through both sides again for the next, ten times at most.
    ///
    /// # Errors
    ///
    /// [`ReconcileError`]: then it is not known whether both sides say the same. A panic of a side is one. Once an action was
    /// taken, only that the report could not be kept.
    ///
    /// # Cancellation
    ///
    /// Dropping its future stops it; what was redriven by then is.
    pub async fn run(&self) -> Result<Report, ReconcileError> {
        let looked = caught(self.look()).await;
        let ran = looked.unwrap_or_else(|panic| Err(ReconcileError::Read(panic.boxed())));
        match &ran {
            Ok((report, unsettled)) => self.keeps(report, unsettled).await?,
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
        ran.map(|(report, _)| report)
    }

    /// Keeps what a run has found: actions were taken by now, so it is tried for a while.
    async fn keeps(&self, report: &Report, unsettled: &Unsettled) -> Result<(), ReconcileError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.note(|ran| ran.takes(report, unsettled)).await {
                Err(error) if error.kind() == ErrorKind::Transient && pause < PAUSE => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                kept => {
                    if let Err(error) = &kept {
                        let (reconciliation, error) = (&self.name, chain(error));
                        tracing::warn!(reconciliation, error, "{report}");
                    }
                    return Ok(kept?);
                }
            }
        }
    }
}

impl<K, V> Reconciliation<K, V> {
    /// A person accepts a difference as it is: it is not reported again before it changes, [`Debug`] of both values, that
    /// is. So a value whose text leaves something out is accepted with whatever that is, and one whose text is another each
    /// time is reported again. Who and why is kept; of a key what was accepted last holds.
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
        let value = rows::Accepted {
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

    /// What people have accepted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn accepted(&self) -> Result<Vec<Accepted>, StoreError> {
        let (mut all, prefix) = (Vec::new(), format!("{}:", run_key(&self.name)?));
        let mut after = None::<String>;
        loop {
            let page = self.tables.accepted.below(&*self.store, &prefix, after.as_deref(), AT_ONCE).await?;
            let is_last = page.len() < AT_ONCE;
            after = page.last().map(|row| row.key.clone());
            all.extend(page.into_iter().map(|row| {
                let rows::Accepted { key, actor, reason, at, .. } = row.value;
                Accepted { key, actor, reason, at }
            }));
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Takes back that a difference was accepted: it is reported again. Whether it was.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if that cannot be noted.
    pub async fn withdraw(&self, key: &str) -> Result<bool, StoreError> {
        let row_key = accepted_key(&self.name, key)?;
        for _ in 0..TRIES {
            let row = self.tables.accepted.get(&*self.store, &row_key).await?;
            let Some(row) = row.filter(|row| row.value.key == key) else { return Ok(false) };
            if write_rows(&*self.store, vec![self.tables.accepted.delete(&row)]).await?.is_yes() {
                return Ok(true);
            }
        }
        Err(others("taking back that a difference is accepted"))
    }

    /// What the last run has found that came to its end, on whichever node: of runs at the same time, that which began
    /// later.
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
    pub(super) async fn note(&self, change: impl Fn(&mut Ran) + Send + Sync) -> Result<(), StoreError> {
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

type Entries<K, V> = BoxStream<'static, Result<Entry<K, V>, BoxError>>;

/// Two sides, merged as far as somebody asks.
fn merged<K: Ord + Clone + Display + Send + 'static, V: Send + 'static>(
    left: Entries<K, V>,
    right: Entries<K, V>,
) -> Pairs<K, V> {
    let next = |(mut merge, mut left, mut right): (Merge<K, V>, Entries<K, V>, Entries<K, V>)| async move {
        while let Some(side) = merge.wants() {
            let entries = if side == Side::Left { &mut left } else { &mut right };
            let entry = entries.try_next().await.map_err(ReconcileError::Read)?;
            let fed = merge.feed(side, entry);
            fed.map_err(|OutOfOrder { side, after }| ReconcileError::OutOfOrder {
                side,
                after: after.to_string(),
            })?;
        }
        Ok::<_, ReconcileError>(merge.take().map(|pair| (pair, (merge, left, right))))
    };
    stream::try_unfold((Merge::new(), left, right), next).boxed()
}

#[cfg(test)]
mod tests {
    use es_core::memory::MemoryBackend;

    use super::*;

    #[tokio::test]
    async fn with_an_action_and_nothing_that_is_said_to_be_pending_a_second_look_waits_for_what_is_young() {
        let side = || stream::empty::<Result<(u8, u8), BoxError>>();
        let of = || Reconciliation::<u8, u8>::between("books", MemoryBackend::new(), side, side).unwrap();
        let acts = || of().redrive(Class::MissingRight, |_| async { Ok(()) });
        assert_eq!(of().pause(), PAUSE);
        assert_eq!(acts().pause(), Duration::from_mins(1));
        assert_eq!(acts().settles(Duration::from_hours(1)).pause(), Duration::from_hours(1));
        assert_eq!(acts().pending_if(|_| async { Ok(false) }).pause(), PAUSE);
        assert_eq!(acts().looks_again_after(Duration::ZERO).pause(), Duration::ZERO);
    }
}
