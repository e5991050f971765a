//! What a node shows of the builds of a processor: which one queries read and whether they can rely on it, and how far each
//! has come.

use std::sync::Arc;

use super::codes;
use super::context::BuildContext;
use super::coordinator::Coordinator;
use super::makers::Left;
use super::readiness::Readiness;
use super::sight::Sight;
use crate::cluster::{self, Share, Shares};
use crate::processor::status::{ProcessorState, RangeStatus};
use crate::state::{Build, Checkpoint, CodeRecord, Control, Generations};
use crate::store::StoreError;

impl Coordinator {
    /// Shows which build queries read, and lets its workers go on if an operator resumed it.
    pub(super) fn show_current(&self, generations: &Generations, control: &Control) {
        self.handle.keep(&generations.all());
        let board = self.handle.board(generations.current);
        self.handle.current.send_if_modified(|current| {
            let other = !Arc::ptr_eq(current, &board);
            *current = board;
            other
        });
        if self
            .handle
            .resumes
            .send_if_modified(|known| std::mem::replace(known, control.resumes) != control.resumes)
        {
            self.handle.wake_workers();
        }
    }

    /// Whether what queries read may have passed events that this program handles: an older program makes it, or it is being
    /// rebuilt for their sake.
    pub(super) fn is_incomplete(&self, generations: &Generations, sight: &Sight) -> Result<bool, StoreError> {
        let Some(read) = sight.code(&self.build(generations.current).to_string())? else { return Ok(false) };
        let code = self.runner.code();
        let own = CodeRecord::of(&code);
        if read.code == own.code {
            return Ok(read.incomplete);
        }
        // Whichever is older: it does not find what is there.
        if !read.rekeyed(&code).is_empty() {
            return Ok(true);
        }
        if let Some(building) = generations.building.as_ref().filter(|building| building.by_itself) {
            let made_by = sight.code(&self.build(building.generation).to_string())?;
            // After a rollback, it may be the older program that rebuilds.
            let is_own = made_by.is_some_and(|made_by| made_by.code == own.code);
            return Ok(is_own || !codes::is_older(&own, &read));
        }
        // On a node that looks on, nobody may ever take it over.
        Ok(!read.handles_all_of(&code) && !codes::is_older(&own, &read))
    }

    /// Whether what queries read was taken over without events that this program handles.
    pub(super) fn lacks_events(&self, generations: &Generations, sight: &Sight) -> Result<bool, StoreError> {
        let read = sight.code(&self.build(generations.current).to_string())?;
        Ok(read.is_some_and(|read| read.incomplete && read.code == self.runner.code().fingerprint()))
    }

    /// Notes whether the code that makes what queries read passes types of events that this program handles: of two codes of
    /// which each handles something else, it is the newer one. Queries may rely on the rows; who waits for such an event may not.
    /// Of an `incomplete` build, nobody believes anything.
    pub(super) fn note_passed(
        &self,
        generations: &Generations,
        incomplete: bool,
        sight: &Sight,
    ) -> Result<(), StoreError> {
        let read = sight.code(&self.build(generations.current).to_string())?;
        let code = self.runner.code();
        let is_other = |read: &CodeRecord| read.code != code.fingerprint() && !read.handles_all_of(&code);
        let passed_by = read.filter(|read| !incomplete && is_other(read));
        let before = self.handle.passed_by.borrow().clone();
        if passed_by.as_ref() == before.as_deref() {
            return Ok(());
        }
        if let Some(by) = passed_by.as_ref().filter(|_| before.is_none()) {
            let (processor, types) = (&self.handle.name, by.passes(&code));
            tracing::warn!(
                %processor,
                ?types,
                "a program with other code makes what queries read, and passes events that this one handles: whoever waits \
                 for one of them waits in vain"
            );
        }
        self.handle.passed_by.send_replace(passed_by.map(Arc::new));
        Ok(())
    }

    /// Says whether queries may rely on what they read.
    pub(super) fn show_readiness(&mut self, sight: &Sight) {
        let current = self.handle.current.borrow().now().generation;
        let rebuildable = self.runner.keeps().tables().is_some();
        let caught_up = self.catching_up.look(self.position_of(current), sight.head);
        let readiness = if caught_up || !rebuildable { Readiness::Ready } else { Readiness::Behind };
        self.handle.readiness.send_if_modified(|known| std::mem::replace(known, readiness) != readiness);
    }

    /// Builds that this node does not work on: those that are left to others, one that is frozen or set back, and all of a
    /// processor that is paused.
    pub(super) async fn show_idle(
        &mut self,
        sight: &Sight,
        generations: &Generations,
        control: &Control,
        left: &Left,
    ) -> Result<(), StoreError> {
        let shares = Shares::<Checkpoint>::checkpoints();
        let idle = generations.all().into_iter().filter(|generation| !self.builds.contains_key(generation));
        for generation in idle.collect::<Vec<_>>() {
            let build = self.build(generation);
            let (state, unsettled) = match (control.paused, left.get(&generation)) {
                (Some(since), _) => (ProcessorState::Paused { since }, None),
                (None, Some(why)) => (ProcessorState::StandingBy, why.as_deref()),
                (None, None) if generations.is_set_back(generation).is_some() => {
                    (ProcessorState::Starting, None)
                }
                (None, None) => continue,
            };
            let status = |share: Share<Checkpoint>| {
                let position = share.progress.position;
                let state =
                    halted(&share).filter(|_| control.paused.is_none()).unwrap_or_else(|| state.clone());
                RangeStatus::new(share.slices, share.owner, position, state, share.rev)
            };
            let stored = sight.renamed(&self.handle.name).map_or_else(|| build.clone(), Build::first);
            let ranges = sight.view.shares(&shares, &stored.to_string())?;
            // The store may not have answered when it was to be given back.
            let own = |share: &Share<Checkpoint>| share.owner == Some(self.node.node);
            if ranges.iter().any(own) && !self.node.settings.looks_on {
                cluster::give_back(&self.cluster, &shares, &build.to_string()).await;
            }
            let board = self.handle.board(generation);
            let mut ranges: Vec<RangeStatus> = ranges.into_iter().map(status).collect();
            if control.paused.is_some() {
                let revisions = ranges.iter().map(|range| range.rev).collect();
                let parked = self.gauges.parked(&*self.node.backend, &stored, revisions).await?;
                ranges.iter_mut().take(1).for_each(|first| first.parked = Some(parked));
            }
            if board.reshape_unsettled(ranges, unsettled)
                && let Some(why) = unsettled
            {
                tracing::error!(%build, why, "this program has newer code, and cannot go on with it");
            }
            board.at_head(sight.head);
            self.gauges.show(&build, &board.now(), sight.head);
        }
        Ok(())
    }
}

/// What the node that works on a range has halted at.
pub(crate) fn halted(share: &Share<Checkpoint>) -> Option<ProcessorState> {
    let halt = share.progress.halt.as_ref()?;
    Some(ProcessorState::Halted { since: halt.since, error: halt.error.clone() })
}

/// Shows the shares of a build: those of this node as its workers show them, those of others as they are stored.
pub(super) fn show(context: &BuildContext, shares: &[Share<Checkpoint>]) {
    let before = context.board.now();
    let status = |share: &Share<Checkpoint>| {
        let known = before.ranges.iter().find(|known| known.slices == share.slices);
        let own = share.owner == Some(context.node.node) && !context.node.settings.looks_on;
        if let Some(known) = known.filter(|known| own && known.owner == share.owner) {
            return known.clone();
        }
        let idle = if own { ProcessorState::Starting } else { ProcessorState::Elsewhere };
        let state = halted(share).filter(|_| !own).unwrap_or(idle);
        RangeStatus::new(share.slices, share.owner, share.progress.position, state, share.rev)
    };
    context.board.reshape(shares.iter().map(status).collect());
}
