//! Whose a build is: which ones this node's code makes, which it takes over, and which it leaves to nodes with another code.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::codes::{self, Standing};
use super::context::Role;
use super::coordinator::Coordinator;
use super::outgrown::Other;
use super::rename::rename;
use super::sight::Sight;
use super::take_over::{RAISE, TakeOver, rekeyed, rekeyed_obstacle};
use crate::cluster::{self, Share, Shares};
use crate::processor::ProcessorError;
use crate::processor::rebuild::{Backfill, begin_backfill, remove_build};
use crate::state::{Build, Checkpoint, CodeRecord};
use crate::store::{Generation, StoreError};

/// For how many leases a program that builds something for itself may be gone before others remove it.
const BACK: u32 = 4;

/// Builds that this node leaves to others; and why it cannot go on with one, if it should.
pub(super) type Left = BTreeMap<Generation, Option<String>>;

/// What this node's code is to a build.
enum Code {
    Makes,
    /// Nodes with another one work on it.
    StandsBy,
    /// That is not known yet: it is just being taken over, or those who made it are not seen any more.
    Changes,
    /// It is newer, and has missed events of the build.
    IsMissing(String),
}

impl Coordinator {
    /// Takes away the builds that this node does not work on, for another code makes them. Those that it leaves to others,
    /// and what could not be settled; that stops no other build.
    pub(super) async fn leave_to_others(
        &mut self,
        roles: &mut BTreeMap<Generation, Role>,
        sight: &Sight,
    ) -> (Left, Result<(), StoreError>) {
        let (mut left, mut settled) = (Left::new(), Ok(()));
        for (generation, role) in std::mem::take(roles) {
            let makes = self.settle_code(generation, &role, sight).await;
            let build = self.build(generation).to_string();
            match makes {
                Ok(Code::Makes) if self.is_outgrown(generation, sight) => {
                    self.cluster.stand_by(&build, true);
                    left.insert(generation, None);
                }
                Ok(Code::Makes) => {
                    self.cluster.stand_by(&build, false);
                    roles.insert(generation, role);
                }
                Ok(Code::StandsBy) => {
                    self.cluster.stand_by(&build, true);
                    left.insert(generation, None);
                }
                Ok(Code::Changes) => {}
                Ok(Code::IsMissing(why)) => {
                    // Others have all of it: it is no member.
                    self.cluster.stand_by(&build, true);
                    left.insert(generation, Some(why));
                }
                Err(error) => settled = settled.and(Err(error)),
            }
        }
        (left, settled)
    }

    /// Whether a build has events that this program does not know, and another node works on it, which may.
    fn is_outgrown(&mut self, generation: Generation, sight: &Sight) -> bool {
        let (build, alive) = (self.build(generation).to_string(), &sight.view.alive);
        let running = self.builds.get(&generation);
        for met in running.map(|running| running.context().take_unknown()).unwrap_or_default() {
            self.outgrown.entry(generation).or_default().meet(met);
        }
        let Some(outgrown) = self.outgrown.get_mut(&generation) else { return false };
        // Of shares that cannot be read, it is said elsewhere.
        let shares = sight.view.shares(&Shares::<Checkpoint>::checkpoints(), &build).unwrap_or_default();
        let is_past = |share: &Share<Checkpoint>| outgrown.is_before(share.progress.position);
        let past: BTreeSet<_> =
            shares.iter().filter(|share| is_past(share)).filter_map(|share| share.owner).collect();
        let passed = !shares.is_empty() && shares.iter().all(is_past);
        let others = cluster::members(alive, &build).into_iter().filter(|node| *node != self.node.node);
        let other = |node| Other {
            node,
            met: alive[&node].unknown.get(&build).cloned().unwrap_or_default(),
            is_past: past.contains(&node),
        };
        let others: Vec<Other> = others.map(other).collect();
        let is_left = outgrown.is_left_to(self.node.node, &others, passed, self.node.settings.lease);
        if passed && !is_left {
            self.outgrown.remove(&generation);
        }
        let met = self.outgrown.get(&generation).map(|outgrown| outgrown.met().clone()).unwrap_or_default();
        self.cluster.says_unknown(&build, &met);
        is_left
    }

    /// What this node is to a build; it is taken over if it is to.
    async fn settle_code(
        &mut self,
        generation: Generation,
        role: &Role,
        sight: &Sight,
    ) -> Result<Code, StoreError> {
        if let Some(other) = sight.renamed(&self.handle.name) {
            return self.settle_renamed(generation, other, sight).await;
        }
        let (build, code, lease) = (self.build(generation), self.runner.code(), self.node.settings.lease);
        let stored = sight.code(&build.to_string())?;
        let (name, view) = (self.handle.name.clone(), &sight.view);
        let standing = codes::standing(stored.as_ref(), &code, &name, &view.alive, view.now);
        let under_way = matches!(role, Role::Building { .. });
        let alone = stored.as_ref().is_none_or(|stored| !codes::lives(stored, &name, &view.alive, view.now));
        let since = self.alone_since(generation, alone && standing != Standing::Makes);
        // One look is not enough: all leases run out when the store is away.
        let is_young = stored.is_some() && since.is_some_and(|since| since.elapsed() < lease);
        if is_young && (under_way || standing == Standing::IsLeft) {
            return Ok(Code::Changes);
        }
        let (backend, runner, over) = (&*self.node.backend, &*self.runner, TakeOver::from(stored.as_ref()));
        match standing {
            Standing::Makes if under_way && self.is_superseded(sight)? => {
                // It was built for a program of before, while nobody ran the newer one.
                self.remove(generation).await?;
            }
            Standing::Makes => return Ok(Code::Makes),
            Standing::StandsBy => return Ok(Code::StandsBy),
            // Its rows come from one code.
            _ if under_way && stored.is_some() => {
                if !alone {
                    return Ok(Code::StandsBy);
                }
                let by_itself = sight.generations(&name)?.building.is_some_and(|building| building.by_itself);
                if by_itself && standing == Standing::IsLeft {
                    // A newer program began it for itself, and has gone. Hours of work, perhaps: it may be back soon.
                    if since.is_some_and(|since| since.elapsed() < lease * BACK) {
                        return Ok(Code::Changes);
                    }
                    self.remove(generation).await?;
                } else {
                    let why = "no program is alive with the code that began it";
                    self.unless_stopped(over.begin_again(backend, runner, &build, lease, why)).await?;
                }
            }
            Standing::IsNewer | Standing::IsLeft => {
                if self.options.backfill != Backfill::Skip
                    && let Some(why) = self.rekeyed(&build, stored.as_ref()).await?
                {
                    return Ok(Code::IsMissing(why));
                }
                if let Some(why) = self.take_over(&build, stored.as_ref()).await? {
                    let over = self.over(stored.as_ref());
                    // Not under other keys: rows that each have a part are worse than rows that stay as they were.
                    let alone = alone && stored.is_none_or(|stored| stored.rekeyed(&code).is_empty());
                    return self.catch_up_on(&build, role, over, alone, why).await;
                }
            }
        }
        // What is there then is seen with the next look.
        self.cluster.wake();
        Ok(Code::Changes)
    }

    /// Taking a build over, as it was chosen.
    fn over(&self, stored: Option<&CodeRecord>) -> TakeOver {
        let over = TakeOver::from(stored);
        if self.options.backfill == Backfill::Skip { over.with_other_keys() } else { over }
    }

    /// Why this code cannot continue a build by its keys, in words.
    async fn rekeyed(
        &self,
        build: &Build,
        stored: Option<&CodeRecord>,
    ) -> Result<Option<String>, StoreError> {
        // What was found out otherwise is not to depend on one more read.
        if rekeyed(&*self.runner, stored, &self.runner.code()).is_empty() {
            return Ok(None);
        }
        let (backend, shares) = (&*self.node.backend, Shares::<Checkpoint>::checkpoints());
        let of_build = shares.of(backend, &build.to_string()).await?;
        rekeyed_obstacle(backend, &*self.runner, build, stored, &of_build).await
    }

    /// Takes a build over, or says what events this code has missed of it. The log is not asked again what it has said.
    async fn take_over(
        &mut self,
        build: &Build,
        stored: Option<&CodeRecord>,
    ) -> Result<Option<String>, StoreError> {
        let (generation, from) = (build.generation, stored.map(|stored| stored.code.clone()));
        if let Some((code, why)) = self.missing.get(&generation)
            && *code == from
        {
            return Ok(Some(why.clone()));
        }
        let (backend, runner, lease) = (&*self.node.backend, &*self.runner, self.node.settings.lease);
        let taken = self.over(stored).take(backend, runner, build, lease);
        let why = self.unless_stopped(taken).await?.err();
        if let Some(why) = &why {
            self.missing.insert(generation, (from, why.clone()));
        }
        Ok(why)
    }

    async fn remove(&self, generation: Generation) -> Result<(), StoreError> {
        let removed = async {
            let removed = remove_build(&self.node, &*self.runner, generation).await;
            removed.or_else(ProcessorError::in_store)
        };
        self.unless_stopped(removed).await
    }

    /// Whether this program builds something for itself, while another one with newer code runs what queries read.
    fn is_superseded(&self, sight: &Sight) -> Result<bool, StoreError> {
        let generations = sight.generations(&self.handle.name)?;
        let by_itself = generations.building.as_ref().is_some_and(|building| building.by_itself);
        let read = sight.code(&self.build(generations.current).to_string())?;
        let is_newer = |read: CodeRecord| {
            codes::is_older(&CodeRecord::of(&self.runner.code()), &read)
                && codes::lives(&read, &self.handle.name, &sight.view.alive, sight.view.now)
        };
        Ok(by_itself && read.is_some_and(is_newer))
    }

    /// Since when nobody has been seen with the code of a build, if that is so.
    fn alone_since(&mut self, generation: Generation, is_alone: bool) -> Option<Instant> {
        if !is_alone {
            self.alone.remove(&generation);
            return None;
        }
        Some(*self.alone.entry(generation).or_insert_with(Instant::now))
    }

    /// What is done about events that this code has missed of a build.
    async fn catch_up_on(
        &self,
        build: &Build,
        role: &Role,
        over: TakeOver,
        alone: bool,
        why: String,
    ) -> Result<Code, StoreError> {
        let (backend, runner, lease) = (&*self.node.backend, &*self.runner, self.node.settings.lease);
        let over = match self.options.backfill {
            Backfill::Refuse => return Ok(Code::IsMissing(format!("{why}: {RAISE}"))),
            Backfill::Skip => {
                tracing::warn!(%build, why, "goes on without the events that were passed");
                over.skipping()
            }
            Backfill::Online if runner.keeps().tables().is_none() => {
                tracing::warn!(%build, why, "goes on without the events that were passed");
                over.skipping()
            }
            Backfill::Online => {
                if matches!(role, Role::Current { .. })
                    && let Err(in_the_way) = begin_backfill(&self.node, &self.runner).await?
                {
                    return Ok(Code::IsMissing(format!("{why}; {in_the_way}")));
                }
                // Until queries are switched to the other one, it is kept up by those who have made it; or by this program,
                // as well as it goes.
                let since = self.alone.get(&build.generation).map(Instant::elapsed);
                if !alone || since.is_none_or(|since| since < lease) {
                    return Ok(Code::StandsBy);
                }
                over.incomplete()
            }
        };
        drop(self.unless_stopped(over.take(backend, runner, build, lease)).await?);
        self.cluster.wake();
        Ok(Code::Changes)
    }

    /// Another program has renamed the processor: it is taken back once no node has run it under that name for a lease.
    async fn settle_renamed(
        &mut self,
        generation: Generation,
        other: &str,
        sight: &Sight,
    ) -> Result<Code, StoreError> {
        let (lease, view) = (self.node.settings.lease, &sight.view);
        let starts = [&*self.handle.name, other].into_iter().any(|name| sight.starts(name));
        if starts || view.alive.values().any(|node| node.codes.contains_key(other)) {
            self.alone.remove(&generation);
        } else if self.alone.entry(generation).or_insert_with(Instant::now).elapsed() >= lease {
            let renamed = rename(&*self.node.backend, &*self.runner, other, lease, self.options.backfill);
            match self.unless_stopped(renamed).await {
                Err(error @ StoreError::Misuse { .. }) => {
                    return Ok(Code::IsMissing(crate::chain(&error)));
                }
                renamed => renamed?,
            }
            self.cluster.wake();
        }
        Ok(Code::StandsBy)
    }
}
