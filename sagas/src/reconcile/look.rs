//! What a run looks at: rounds of two looks each, and what is done about what they find.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{Debug, Display};
use std::time::Duration;

use es_core::guarded::called;
use es_core::limits::cut;
use es_core::store::StoreError;
use es_core::{BoxError, Timestamp, chain};
use futures::TryStreamExt as _;
use tokio::time::timeout;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::merge::{Entry, Pair};
use super::report::{Class, Difference, Redriven, Report};
use super::rows::{Unsettled, accepted_key};
use super::run::{Found, Pairs, ReconcileError, Reconciliation};

/// Keys that seem to differ, of which a round keeps in mind that it has to look again.
const MOST: usize = 10_000;
/// Rounds of a run at most.
const ROUNDS: u32 = 10;
/// Acceptances that are read together.
const AT_ONCE: usize = 200;
/// Runs in a row in which a key was young, or moved, before people are told.
const TOLD: u32 = 3;
/// Keys of which those runs are counted.
const COUNTED: usize = 1_000;
/// For how long a side may give nothing.
const QUIET: Duration = Duration::from_hours(1);
/// For how long a key may be asked about, or an action last.
const LIMIT: Duration = Duration::from_mins(1);
/// After so many keys in a row of which nobody has said whether they are pending, the others are not asked about.
const UNSAID: u32 = 10;

/// A run that is under way.
struct Run<K, V> {
    report: Report,
    /// Keys that were looked at twice, by their hashes.
    looked: HashSet<u128>,
    /// What both looks have found, and is neither pending nor accepted.
    found: Vec<(Class, Pair<K, V>)>,
    /// Keys that were young or have moved in the runs before this, and in this one.
    before: Unsettled,
    unsettled: Unsettled,
    /// Keys of which nobody has said whether they are pending, and why, by their hashes: nothing is done about them.
    unsaid: HashMap<u128, String>,
    /// How many in a row.
    silent: u32,
}

/// What a first look leaves to the second one.
struct Seem<K, V> {
    pairs: BTreeMap<K, Pair<K, V>>,
    /// Those that were too many.
    beyond: u64,
}

impl<K: Ord + Clone + Display + Send + Sync + 'static, V: PartialEq + Debug + Send + Sync + 'static>
    Reconciliation<K, V>
{
    /// A run: what it has found, and the keys that did not settle.
    pub(super) async fn look(&self) -> Result<(Report, Unsettled), ReconcileError> {
        let before = self.ran().await?.value.unsettled;
        let report = Report::new(self.name().to_owned(), self.store.now().await?);
        let (looked, found, unsettled) = (HashSet::new(), Vec::new(), Unsettled::new());
        let (unsaid, silent) = (HashMap::new(), 0);
        let mut run = Run { report, looked, found, before, unsettled, unsaid, silent };
        for round in 0..ROUNDS {
            let Seem { pairs, beyond } = self.first_look(&mut run, round == 0).await?;
            if !pairs.is_empty() {
                tokio::time::sleep(self.pause()).await;
                self.second_look(&mut run, pairs).await?;
            }
            run.report.unconfirmed = beyond;
            // What is pending or accepted keeps its place from nobody.
            if beyond == 0 || run.found.len() >= MOST {
                break;
            }
        }
        let at = self.store.now().await?;
        self.report(&mut run).await?;
        // What was done is told, whatever fails now.
        run.report.ended = self.store.now().await.unwrap_or(at);
        Ok((run.report, run.unsettled))
    }

    /// All keys: those that seem to differ, and that no round has looked at.
    async fn first_look(&self, run: &mut Run<K, V>, is_first: bool) -> Result<Seem<K, V>, ReconcileError> {
        let at = self.store.now().await?;
        let (mut seem, mut all) = (Seem { pairs: BTreeMap::new(), beyond: 0 }, (self.pairs)());
        while let Some(pair) = next(&mut all).await? {
            run.report.keys += u64::from(is_first);
            let Some(class) = class_of(&pair) else { continue };
            if !run.looked.is_empty() && run.looked.contains(&hash(&pair.key)) {
                continue;
            }
            match self.age(&pair, at) {
                Age::Settled if seem.pairs.len() < MOST => drop(seem.pairs.insert(pair.key.clone(), pair)),
                Age::Settled => seem.beyond += 1,
                // It takes no place of one that differs.
                Age::Live => run.report.pending += u64::from(is_first),
                Age::Young if is_first => run.moves(class, pair),
                Age::Young => {}
            }
        }
        Ok(seem)
    }

    /// Those that seemed to differ, once more. Who may change a key is asked before it is read again: whatever has ended by
    /// then is seen.
    async fn second_look(
        &self,
        run: &mut Run<K, V>,
        mut seemed: BTreeMap<K, Pair<K, V>>,
    ) -> Result<(), ReconcileError> {
        run.looked.extend(seemed.keys().map(hash));
        if self.touched.is_some() {
            let keys: Vec<K> = seemed.keys().cloned().collect();
            for key in keys {
                match self.is_pending(run, &key).await {
                    Ok(false) => {}
                    Ok(true) => {
                        run.report.pending += 1;
                        seemed.remove(&key);
                    }
                    Err(why) => drop(run.unsaid.insert(hash(&key), why)),
                }
            }
        }
        let at = self.store.now().await?;
        let (mut same, mut all) = (Vec::new(), (self.pairs)());
        while !seemed.is_empty() {
            let Some(pair) = next(&mut all).await? else { break };
            let Some(before) = seemed.remove(&pair.key) else { continue };
            let Some(class) = class_of(&pair) else { continue };
            match self.age(&pair, at) {
                Age::Live => run.report.pending += 1,
                Age::Settled if pair.is_as(&before) => same.push((class, pair)),
                Age::Settled | Age::Young => run.moves(class, pair),
            }
        }
        // Nothing is done while a side is open: what is done may be long, or need its connection.
        drop(all);
        for (is_accepted, found) in self.accepted_of(same).await? {
            match is_accepted {
                true => run.report.accepted += 1,
                false => run.found.push(found),
            }
        }
        Ok(())
    }

    /// What is found is reported, and done again, unless somebody is at it by now. From the first action on nothing ends it.
    async fn report(&self, run: &mut Run<K, V>) -> Result<(), ReconcileError> {
        let mut of_class = BTreeMap::<Class, usize>::new();
        run.found.iter().for_each(|(class, _)| *of_class.entry(*class).or_default() += 1);
        let (settled, unsettled): (Vec<_>, Vec<_>) =
            std::mem::take(&mut run.found).into_iter().partition(|(class, _)| *class != Class::Unsettled);
        let accepted = self.accepted_of(unsettled).await?;
        run.report.accepted += accepted.iter().map(|(is, _)| u64::from(*is)).sum::<u64>();
        let unsettled = accepted.into_iter().filter(|(is, _)| !is).map(|(_, found)| found);
        // Their texts are the user's code as well.
        let told = |(class, pair): (Class, Pair<K, V>)| (difference(class, &pair), pair);
        let all: Vec<_> = settled.into_iter().chain(unsettled).map(told).collect();
        run.silent = 0;
        for (mut difference, pair) in all {
            let class = difference.class;
            let pending = match class {
                Class::Unsettled => Ok(false),
                _ => self.is_pending(run, &pair.key).await,
            };
            // What was not known at the second look, of that it may have read too much.
            let unsaid = run.unsaid.remove(&hash(&pair.key));
            difference.redriven = match (pending, unsaid) {
                (Ok(true), _) => {
                    run.report.pending += 1;
                    continue;
                }
                (Ok(false), None) => self.redrives(class, pair, of_class[&class]).await,
                (Err(why), _) | (Ok(false), Some(why)) => Some(Redriven::Failed(why)),
            };
            run.report.add(difference, self.first);
        }
        Ok(())
    }

    async fn redrives(&self, class: Class, pair: Pair<K, V>, of_class: usize) -> Option<Redriven> {
        let redrive = self.redrives.get(&class).filter(|_| class != Class::Unsettled)?;
        if of_class > self.redrive_at_most {
            let most = self.redrive_at_most;
            let why = format!(
                "there are {of_class} {class}, too many to be right: more than {most} wait for a person"
            );
            return Some(Redriven::Failed(why));
        }
        let value = |entry: Option<Entry<K, V>>| entry.map(|entry| entry.value);
        let (name, key) = (self.name(), pair.key.to_string());
        let found = Found { class, key: pair.key, left: value(pair.left), right: value(pair.right) };
        // Each is logged as it is done: the report comes later, and its node may be lost before that.
        let why = match timeout(LIMIT, called(async { redrive(found).await })).await {
            Ok(Ok(())) => {
                tracing::info!(reconciliation = name, %class, key, "a difference is redriven");
                return Some(Redriven::Done);
            }
            Ok(Err(error)) => chain(&*error),
            Err(_) => format!("it was not done within {LIMIT:?}"),
        };
        tracing::warn!(reconciliation = name, %class, key, error = why, "a difference could not be redriven");
        Some(Redriven::Failed(why))
    }

    fn age(&self, pair: &Pair<K, V>, at: Timestamp) -> Age {
        let is_young = |changed: Timestamp| {
            Duration::try_from(at.duration_since(changed)).map_or(true, |age| age < self.settles)
        };
        let entries = || pair.left.iter().chain(&pair.right);
        if entries().any(|entry| entry.live) {
            return Age::Live;
        }
        match entries().any(|entry| entry.changed.is_some_and(is_young)) {
            true => Age::Young,
            false => Age::Settled,
        }
    }

    /// Whether a transaction that goes on may change a key. `Err`: nobody has said that, and why.
    async fn is_pending(&self, run: &mut Run<K, V>, key: &K) -> Result<bool, String> {
        let Some(touched) = &self.touched else { return Ok(false) };
        if run.silent >= UNSAID {
            return Err(format!(
                "whether it is pending was not asked: of {UNSAID} before nobody has said that"
            ));
        }
        let why = match timeout(LIMIT, called(async { touched(key.clone()).await })).await {
            Ok(Ok(is_pending)) => {
                run.silent = 0;
                return Ok(is_pending);
            }
            Ok(Err(error)) => chain(&*error),
            Err(_) => format!("there was no answer within {LIMIT:?}"),
        };
        run.silent += 1;
        Err(format!("whether it is pending was not said: {why}"))
    }

    /// These, each with whether a person has accepted it.
    async fn accepted_of(
        &self,
        found: Vec<(Class, Pair<K, V>)>,
    ) -> Result<Vec<(bool, (Class, Pair<K, V>))>, ReconcileError> {
        let mut known = Vec::with_capacity(found.len());
        for some in found.chunks(AT_ONCE) {
            let keys = some.iter().map(|(_, pair)| accepted_key(self.name(), &pair.key.to_string()));
            let keys = keys.collect::<Result<Vec<_>, _>>().map_err(StoreError::from)?;
            let rows = self.store.rows(self.tables.accepted.name(), &keys).await?;
            for (row, (class, pair)) in rows.into_iter().zip(some) {
                let row = row.map(|row| self.tables.accepted.decode(row)).transpose()?;
                known.push(row.is_some_and(|row| {
                    row.value.key == pair.key.to_string()
                        && row.value.fingerprint == fingerprint(*class, pair)
                }));
            }
        }
        Ok(known.into_iter().zip(found).collect())
    }
}

/// Whether a key can be judged.
enum Age {
    /// A transaction that goes on may change it.
    Live,
    /// It was changed a moment ago.
    Young,
    Settled,
}

impl<K: Display, V> Run<K, V> {
    /// A key that differs, and is young or has moved: it is pending, unless it was so in some runs before this one.
    fn moves(&mut self, class: Class, pair: Pair<K, V>) {
        let key = format!("{:016x}", xxh3_64(pair.key.to_string().as_bytes()));
        let runs = self.before.get(&key).copied().unwrap_or_default().saturating_add(1);
        if runs > 1 || self.before.len() + self.unsettled.len() < COUNTED {
            self.unsettled.insert(key, runs);
        }
        match runs < TOLD || class == Class::Unsettled {
            true => self.report.pending += 1,
            false => self.found.push((Class::Unsettled, pair)),
        }
    }
}

/// The next one, if a side gives any in time.
async fn next<K, V>(pairs: &mut Pairs<K, V>) -> Result<Option<Pair<K, V>>, ReconcileError> {
    match timeout(QUIET, pairs.try_next()).await {
        Ok(next) => next,
        Err(_) => {
            Err(ReconcileError::Read(BoxError::from(format!("a side has given nothing for {QUIET:?}"))))
        }
    }
}

fn class_of<K, V: PartialEq>(pair: &Pair<K, V>) -> Option<Class> {
    match (&pair.left, &pair.right) {
        _ if pair.is_twice() => Some(Class::Duplicate),
        (None, None) => None,
        (None, Some(_)) => Some(Class::MissingLeft),
        (Some(_), None) => Some(Class::MissingRight),
        (Some(left), Some(right)) => (left.value != right.value).then_some(Class::Mismatch),
    }
}

fn hash<K: Display>(key: &K) -> u128 {
    xxh3_128(key.to_string().as_bytes())
}

fn difference<K: Display, V: Debug>(class: Class, pair: &Pair<K, V>) -> Difference {
    let [left, right] = pair.says().map(|said| said.map(|said| cut(&said)));
    let (key, fingerprint) = (pair.key.to_string(), fingerprint(class, pair));
    Difference { class, key, left, right, fingerprint, redriven: None }
}

/// Of what both sides say.
fn fingerprint<K: Display, V: Debug>(class: Class, pair: &Pair<K, V>) -> String {
    let [left, right] = pair.says();
    let all = format!("{}\0{}\0{left:?}\0{right:?}", class.name(), pair.key);
    format!("{:032x}", xxh3_128(all.as_bytes()))
}
