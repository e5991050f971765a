//! Which builds of a projection there are, as a state machine: pure, so that every way through it can be explored.
//!
//! Each step is one [`Change`], written over the row that it was decided on. What may follow what is here and nowhere
//! else: the protocol of a rebuild, a switch, a way back and a removal is the order in which these changes are asked for.

use crate::processor::worker::Role;
use crate::state::{Build, Building, Freeze, Generations, SetBack, generations};
use crate::store::{Generation, Position, Row, RowStore, StoreError};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    /// Another build is begun; its number is the next one.
    Begin(Building),
    /// No node works on the build that queries read, for the sake of a switch; for a report, on the one under way either.
    Freeze(Freeze),
    /// Queries read another build, whose switch froze the one of before.
    Switch { to: Generation, by: uuid::Uuid },
    /// The builds that a report holds are worked on up to a position, and no further.
    Bound { by: uuid::Uuid, at: Position },
    /// The switch or the report ends, whatever it came to.
    Thaw { by: uuid::Uuid },
    /// A switch or a report whose time is over ends.
    Expire { now: i64 },
    /// A build is given up: no node works on it any more.
    Drop(Generation),
    /// Its tables have gone.
    Left(Generation),
    /// A build is set back: no node works on it until that is done.
    SetBack(SetBack),
    /// It is.
    IsSetBack(Generation),
}

/// Why a step cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refused {
    /// This build is under way already.
    Building(Generation),
    /// This one is kept to go back to.
    OlderKept(Generation),
    /// It is the one that queries read.
    InUse,
    /// There is no such build to be read.
    Dropped,
    /// Another switch, or a report, holds them, or one of them is being set back.
    Switching,
    /// The switch or the report has been ended by others: its time was over.
    NotFrozen,
    /// The version was removed, or is about to be.
    Retired,
}

impl Generations {
    /// What is stored of a projection; `None` if it has not begun, or goes, or has gone.
    pub(crate) async fn read(store: &dyn RowStore, processor: &str) -> Result<Option<Row<Self>>, StoreError> {
        Ok(generations().get(store, processor).await?.filter(|row| !row.value.goes()))
    }

    /// Whether the version was removed, or is being removed.
    pub(crate) const fn goes(&self) -> bool {
        self.retiring || self.retired
    }

    /// All that are worked on.
    pub(crate) fn all(&self) -> Vec<Generation> {
        let building = self.building.as_ref().map(|building| building.generation);
        [Some(self.current), building, self.previous].into_iter().flatten().collect()
    }

    /// Where a build is being set back to, if it is.
    pub(crate) fn is_set_back(&self, generation: Generation) -> Option<SetBack> {
        self.set_back.iter().find(|to| to.generation == generation).copied()
    }

    /// What a build is to those who read; `None` for one that no node is to work on.
    pub(crate) fn role(&self, processor: &str, generation: Generation) -> Option<Role> {
        let current = self.build(processor, self.current);
        let frozen = self.freeze.until.is_some();
        let until = self.freeze.at;
        match &self.building {
            _ if self.is_set_back(generation).is_some() => None,
            _ if generation == self.current => {
                (!frozen || until.is_some()).then_some(Role::Current { until })
            }
            _ if Some(generation) == self.previous => Some(Role::Previous { current }),
            Some(building) if building.generation == generation => {
                let stopped = self.freeze.holds && until.is_none();
                let Building { lenient, honours_skips, .. } = *building;
                (!stopped).then_some(Role::Building { current, lenient, honours_skips, until })
            }
            _ => None,
        }
    }

    /// What is to be removed: a build that was replaced by itself, or one whose removal did not come to its end.
    pub(crate) fn gone(&self) -> Option<Generation> {
        self.previous.filter(|_| self.previous_goes).or_else(|| self.leaving.first().copied())
    }

    pub(crate) fn build(&self, processor: &str, generation: Generation) -> Build {
        Build { processor: processor.into(), generation }
    }

    /// The next state.
    pub(crate) fn apply(&self, change: Change) -> Result<Self, Refused> {
        if self.goes() {
            return Err(Refused::Retired);
        }
        let mut next = self.clone();
        match change {
            Change::Begin(building) => next.begin(&building)?,
            Change::Freeze(freeze) => {
                if self.freeze.until.is_some() || !self.set_back.is_empty() {
                    return Err(Refused::Switching);
                }
                next.freeze = freeze;
            }
            Change::Switch { to, by } => next.switch(to, by)?,
            Change::Bound { by, at } => {
                if self.freeze.by != Some(by) || !self.freeze.holds || self.freeze.at.is_some() {
                    return Err(Refused::NotFrozen);
                }
                next.freeze.at = Some(at);
            }
            Change::Thaw { by } => {
                if self.freeze.by != Some(by) {
                    return Err(Refused::NotFrozen);
                }
                next.freeze = Freeze::default();
            }
            Change::Expire { now } => {
                if self.freeze.until.is_none_or(|until| until >= now) {
                    return Err(Refused::NotFrozen);
                }
                next.freeze = Freeze::default();
            }
            Change::Drop(generation) => next.give_up(generation)?,
            Change::Left(generation) => {
                if !self.leaving.contains(&generation) {
                    return Err(Refused::Dropped);
                }
                next.leaving.retain(|leaving| *leaving != generation);
            }
            Change::SetBack(to) => {
                if !self.all().contains(&to.generation) {
                    return Err(Refused::Dropped);
                }
                if self.freeze.until.is_some() || self.is_set_back(to.generation).is_some() {
                    return Err(Refused::Switching);
                }
                next.set_back.push(to);
            }
            Change::IsSetBack(generation) => {
                if self.is_set_back(generation).is_none() {
                    return Err(Refused::Dropped);
                }
                next.set_back.retain(|to| to.generation != generation);
            }
        }
        Ok(next)
    }

    fn begin(&mut self, building: &Building) -> Result<(), Refused> {
        if let Some(building) = &self.building {
            return Err(Refused::Building(building.generation));
        }
        if let Some(previous) = self.previous {
            return Err(Refused::OlderKept(previous));
        }
        self.last += 1;
        self.building = Some(Building { generation: self.last, ..building.clone() });
        Ok(())
    }

    fn switch(&mut self, to: Generation, by: uuid::Uuid) -> Result<(), Refused> {
        if self.freeze.until.is_none() || self.freeze.by != Some(by) || self.freeze.holds {
            return Err(Refused::NotFrozen);
        }
        if to == self.current || !self.all().contains(&to) {
            return Err(Refused::Dropped);
        }
        let built = self.building.take_if(|building| building.generation == to);
        (self.current, self.previous) = (to, Some(self.current));
        self.previous_goes = built.is_some_and(|built| built.by_itself);
        self.freeze = Freeze::default();
        Ok(())
    }

    fn give_up(&mut self, generation: Generation) -> Result<(), Refused> {
        if generation == self.current {
            return Err(Refused::InUse);
        }
        if !self.all().contains(&generation) {
            return Err(Refused::Dropped);
        }
        self.building.take_if(|building| building.generation == generation);
        let previous = self.previous.take_if(|previous| *previous == generation);
        self.previous_goes &= previous.is_none();
        self.set_back.retain(|to| to.generation != generation);
        self.leaving.push(generation);
        Ok(())
    }
}
