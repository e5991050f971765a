//! One look of a node at all who wait: runs that wait for each other, of which one gives way, and locks of runs that are gone.
//!
//! Any number of nodes may look. What they write goes by what they have read: a lock is taken over once, and of runs that wait
//! for each other all nodes choose the same one, which is asked more than once at worst.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::engine::Node;
use es_core::store::{Row, StoreError, StoredRow, is_full, write_rows};
use es_core::{Backend, ErrorKind, Timestamp, chain};
use tokio::time::Instant;
use uuid::Uuid;

use super::change::{self, take_over};
use super::graph::{Graph, Victim};
use super::owners::{Owners, goes_forward};
use super::row::Lock;
use super::rows::{LockTables, Owner};
use crate::transaction::{Kin, cancels};

/// Rows that are read at once.
const PAGE: usize = 500;
/// Of those who wait so many are looked at, at most; the others at the next look.
const PAGES: usize = 20;
/// How often the next of those who have locks are counted, and looked at.
const COUNTS: Duration = Duration::from_secs(10);
/// For how long one that was asked to give way is taken for gone.
const ASKED: Duration = Duration::from_secs(30);
/// So many are named of those that one gives way for.
const NAMED: usize = 4;
/// Who has a run cancelled that gives way.
const ACTOR: &str = "the engine";

/// What a look has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// How many wait.
    pub(super) waiting: u64,
    /// Since when the first of them does.
    pub(super) oldest: Option<Timestamp>,
    /// How many were asked to give way.
    pub(super) deadlocks: u64,
    /// How many locks were taken from runs that are gone.
    pub(super) taken_over: u64,
    /// How many are held, once all of them were counted.
    pub(super) held: Option<u64>,
}

/// What a node remembers from look to look.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Behind which key of those who wait it goes on, if they are too many for one look.
    waits_after: Option<String>,
    /// The same of those who have locks, and how many there were up to there.
    held_after: Option<String>,
    held: u64,
    /// When they were counted last.
    counted: Option<Instant>,
    /// Who was asked to give way, and when.
    asked: BTreeMap<Uuid, Instant>,
}

impl Looks {
    pub(super) async fn look<B: Backend>(&mut self, backend: &B, node: &Node) -> Result<Found, StoreError> {
        let tables = LockTables::new()?;
        let now = backend.now().await?;
        let waits = self.waits(backend, &tables).await?;
        let mut found = Found {
            waiting: waits.len() as u64,
            oldest: waits.iter().map(|wait| wait.since).min(),
            ..Found::default()
        };
        let resources: BTreeSet<String> = waits.iter().map(|wait| wait.resource.clone()).collect();
        let (locks, mut owners) = seen(backend, &tables, &resources).await?;
        found.taken_over += see_to(backend, node, &tables, &locks, &owners.gone, now).await?;
        let circles = Circles::of(backend, &locks, &mut owners).await?;
        found.deadlocks = self.break_up(backend, node, &tables, circles, now).await?;
        if self.counted.is_some_and(|at| at.elapsed() < COUNTS) {
            return Ok(found);
        }
        let resources = self.count(backend, &tables, &mut found).await?;
        let (locks, owners) = seen(backend, &tables, &resources).await?;
        found.taken_over += see_to(backend, node, &tables, &locks, &owners.gone, now).await?;
        Ok(found)
    }

    /// Those who wait.
    async fn waits<B: Backend>(
        &mut self,
        backend: &B,
        tables: &LockTables,
    ) -> Result<Vec<Owner>, StoreError> {
        let mut waits = Vec::new();
        for _ in 0..PAGES {
            let page = tables.waits.stored_page(backend, self.waits_after.as_deref(), PAGE).await?;
            self.waits_after = page.last().map(|row| row.key.clone()).filter(|_| is_full(&page, PAGE));
            waits.extend(owners_of(tables, page));
            if self.waits_after.is_none() {
                break;
            }
        }
        Ok(waits)
    }

    /// The next ones of those who have locks: what they have.
    async fn count<B: Backend>(
        &mut self,
        backend: &B,
        tables: &LockTables,
        found: &mut Found,
    ) -> Result<BTreeSet<String>, StoreError> {
        self.counted = Some(Instant::now());
        let page = tables.held.stored_page(backend, self.held_after.as_deref(), PAGE).await?;
        self.held += page.len() as u64;
        self.held_after = page.last().map(|row| row.key.clone()).filter(|_| is_full(&page, PAGE));
        if self.held_after.is_none() {
            found.held = Some(std::mem::take(&mut self.held));
        }
        Ok(owners_of(tables, page).map(|owner| owner.resource).collect())
    }

    /// Asks one of each circle to give way, if it still stands.
    async fn break_up<B: Backend>(
        &mut self,
        backend: &B,
        node: &Node,
        tables: &LockTables,
        mut circles: Circles,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.asked.retain(|_, at| at.elapsed() < ASKED);
        self.asked.keys().for_each(|run| circles.graph.remove(*run));
        let mut asked = 0;
        for victim in circles.victims(backend).await? {
            // What was read one after the other may never have been so at one time.
            if !circles.stands(backend, tables, &victim).await? {
                continue;
            }
            let Some(kin) = circles.names.get(&victim.run) else { continue };
            let with = circles.told(&victim);
            tracing::warn!(run = %kin, with, "runs wait for each other's locks: this one gives way");
            let request = cancels(kin, ACTOR, format!("deadlock with {with}"), &node.ids, now)?;
            // Its key is new: nobody else has written it.
            let _won = write_rows(backend, vec![request]).await?;
            self.asked.insert(victim.run, Instant::now());
            asked += 1;
        }
        Ok(asked)
    }
}

fn owners_of(tables: &LockTables, page: Vec<StoredRow>) -> impl Iterator<Item = Owner> {
    // One that cannot be read is in the way of nobody: the row of its lock says who waits.
    page.into_iter().filter_map(|row| tables.held.decode(row).ok()).map(|row| row.value)
}

/// Locks, and what is known of those who have them or wait.
async fn seen<B: Backend>(
    backend: &B,
    tables: &LockTables,
    resources: &BTreeSet<String>,
) -> Result<(Vec<Row<Lock>>, Owners), StoreError> {
    let resources: Vec<String> = resources.iter().cloned().collect();
    let mut locks = Vec::new();
    for some in resources.chunks(PAGE) {
        locks.extend(change::readable(backend, tables, some).await?);
    }
    let mut runs = Vec::new();
    for lock in &locks {
        runs.extend(lock.value.entries().map(|entry| entry.of.clone()));
    }
    let owners = Owners::look(backend, runs).await?;
    Ok((locks, owners))
}

/// Takes locks from those that are gone. How many that were.
async fn see_to<B: Backend>(
    backend: &B,
    node: &Node,
    tables: &LockTables,
    locks: &[Row<Lock>],
    gone: &BTreeSet<Uuid>,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let mut taken = 0;
    for lock in locks {
        let left: BTreeSet<Uuid> =
            lock.value.entries().map(|entry| entry.of.run).filter(|run| gone.contains(run)).collect();
        if left.is_empty() {
            continue;
        }
        let rows = take_over(tables, lock, &left, &node.ids, now)?;
        match write_rows(backend, rows).await {
            Ok(won) if won.is_yes() => {
                let resource = &lock.value.resource;
                tracing::warn!(
                    resource,
                    runs = left.len(),
                    "a lock is taken from runs that have ended, or are gone"
                );
                taken += left.len() as u64;
            }
            // It has changed since: it is looked at again.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown) => {
                tracing::debug!(error = chain(&error), "a lock is taken over later");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Who waits for whom, and by which locks.
#[derive(Debug, Default)]
struct Circles {
    graph: Graph,
    /// Those that wait for a lock, and have not decided.
    may: BTreeSet<Uuid>,
    names: BTreeMap<Uuid, Kin>,
    /// By which lock one waits for another one, if it is by a lock.
    by: BTreeMap<(Uuid, Uuid), Row<Lock>>,
}

impl Circles {
    async fn of<B: Backend>(
        backend: &B,
        locks: &[Row<Lock>],
        owners: &mut Owners,
    ) -> Result<Self, StoreError> {
        let mut circles = Self::default();
        for lock in locks {
            for waiter in &lock.value.queue {
                let run = waiter.of.run;
                for other in lock.value.before(run).filter(|other| !owners.gone.contains(&other.of.run)) {
                    circles.graph.waits(run, other.of.run);
                    circles.by.insert((run, other.of.run), lock.clone());
                }
                if owners.running.contains(&run) {
                    circles.may.insert(run);
                }
            }
            circles.names.extend(lock.value.entries().map(|entry| (entry.of.run, entry.of.clone())));
        }
        for (child, parent, is_waited_for) in owners.families(backend).await? {
            match is_waited_for {
                true => circles.graph.waits(child, parent.run),
                false => circles.graph.waits(parent.run, child),
            }
            circles.names.insert(parent.run, parent);
        }
        Ok(circles)
    }

    /// Who gives way. One that a person has sent forward does only if all others of its circle that may were as well.
    async fn victims<B: Backend>(&self, backend: &B) -> Result<Vec<Victim>, StoreError> {
        let (mut victims, mut forward) = (self.graph.victims(&self.may), BTreeSet::new());
        loop {
            let known = forward.len();
            for victim in &victims {
                let Some(kin) = self.names.get(&victim.run) else { continue };
                if !forward.contains(&victim.run) && goes_forward(backend, kin).await? {
                    forward.insert(victim.run);
                }
            }
            if forward.len() == known {
                return Ok(victims);
            }
            let mut left = self.graph.clone();
            victims = left.victims(&self.may.difference(&forward).copied().collect());
            victims.iter().for_each(|victim| left.remove(victim.run));
            victims.extend(left.victims(&self.may));
        }
    }

    /// Whether all locks of its circle are as they were read: so they were like that at one time.
    async fn stands<B: Backend>(
        &self,
        backend: &B,
        tables: &LockTables,
        victim: &Victim,
    ) -> Result<bool, StoreError> {
        let way: Vec<Uuid> = std::iter::once(victim.run).chain(victim.with.iter().copied()).collect();
        let next = way.iter().cycle().skip(1);
        let locks: Vec<&Row<Lock>> =
            way.iter().zip(next).filter_map(|(run, other)| self.by.get(&(*run, *other))).collect();
        let resources: Vec<String> = locks.iter().map(|lock| lock.value.resource.clone()).collect();
        let now = change::readable(backend, tables, &resources).await?;
        Ok(now.len() == locks.len() && now.iter().zip(locks).all(|(now, before)| now == before))
    }

    /// With whom a run is in a circle.
    fn told(&self, victim: &Victim) -> String {
        let name = |run: &Uuid| self.names.get(run).map_or_else(|| run.to_string(), Kin::to_string);
        let named: Vec<String> = victim.with.iter().take(NAMED).map(name).collect();
        match victim.with.len().saturating_sub(NAMED) {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    }
}
