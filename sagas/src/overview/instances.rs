//! Instances of a process.

use std::time::Duration;

use async_trait::async_trait;
use es_core::store::StoreError;

use super::act::{Act, ActError, ActName};
use super::filter::Filter;
use super::listed::{Listed, Pattern, Status, Which};
use super::source::{Part, READS, Source};
use crate::operate::{InstanceStatus, Instances, Life};
use crate::transaction::{born, fingerprint};
use crate::verb::{Answer, Verb};

/// How many instances are read at once.
const AT_ONCE: usize = 500;

/// Those of one process.
pub(crate) struct OfProcess {
    pub(crate) name: &'static str,
    pub(crate) instances: Instances,
}

#[async_trait]
impl Source for OfProcess {
    fn pattern(&self) -> Pattern {
        Pattern::PROCESS
    }

    fn kind(&self) -> &str {
        self.name
    }

    fn knows(&self) -> &'static [ActName] {
        &[ActName::Retry, ActName::Skip, ActName::Cancel]
    }

    async fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Result<Part, StoreError> {
        let (mut part, mut after, mut n) = (Part::default(), after.map(str::to_owned), 0);
        if !filter.wants_any(&[Status::Running, Status::Parked, Status::Damaged, Status::Done]) {
            return Ok(part);
        }
        loop {
            let page = self.instances.page(after.as_deref(), AT_ONCE).await?;
            let is_last = page.len() < AT_ONCE;
            n += page.len();
            for instance in page {
                after = Some(instance.key.clone());
                part.listed.extend(Some(listed(self.name, instance)).filter(|listed| filter.wants(listed)));
                if part.listed.len() == limit {
                    part.next = after;
                    return Ok(part);
                }
            }
            if is_last {
                return Ok(part);
            }
            if n >= READS {
                part.next = after;
                return Ok(part);
            }
        }
    }

    async fn waits_for(&self, which: &Which) -> Result<Vec<String>, ActError> {
        let shown = self.instances.show(&which.key).await?;
        let shown = shown.filter(|shown| which.is(shown.status.id));
        let shown = shown.ok_or_else(|| ActError::Missing(which.clone()))?;
        Ok(shown.waits.iter().map(ToString::to_string).collect())
    }

    async fn ask(
        &self,
        which: &Which,
        act: Act,
        (actor, reason): (String, String),
        limit: Duration,
    ) -> Result<(), ActError> {
        let is_it = |id| which.is(id);
        let asked = self.instances.ask_of(&which.key, is_it, verb(act)?, &actor, &reason).await;
        let ticket = match asked {
            Ok(ticket) => ticket,
            Err(error) => {
                self.is_there(which).await?;
                return Err(error.into());
            }
        };
        match self.instances.answer(&ticket, limit).await? {
            Some(Answer::Done { .. }) => Ok(()),
            Some(Answer::Refused { why }) => Err(ActError::Declined { why }),
            None => {
                let why = format!("it was not done within {limit:?}, and the request stands");
                Err(StoreError::transient("a request", std::io::Error::other(why)).into())
            }
        }
    }

    async fn dry_run(&self, which: &Which, act: Act, _: (String, String)) -> Result<String, ActError> {
        let verb = verb(act)?;
        self.is_there(which).await?;
        self.instances.check(&which.key, &verb).await?;
        Ok(format!("{verb}: its next input"))
    }
}

impl OfProcess {
    async fn is_there(&self, which: &Which) -> Result<(), ActError> {
        let found = self.instances.get(&which.key).await?.filter(|found| which.is(found.id));
        found.map(drop).ok_or_else(|| ActError::Missing(which.clone()))
    }
}

fn listed(process: &str, instance: InstanceStatus) -> Listed {
    let InstanceStatus { key, id, version, life, timers, .. } = instance;
    let which = Which::new(Pattern::PROCESS, process, key).with_id(id);
    let (status, reason, since) = match life {
        Life::Running | Life::Ending => (Status::Running, None, None),
        Life::Ended => (Status::Done, None, None),
        Life::Parked { since, error, .. } => (Status::Parked, Some(error), Some(since)),
        Life::Unreadable { error } => (Status::Damaged, Some(error), None),
    };
    let (error, wakes) = (reason.as_deref().map(fingerprint::of), timers.into_values().min());
    Listed { reason, begun: born(id), since, wakes, error, ..Listed::new(which, version, status) }
}

fn verb(act: Act) -> Result<Verb, ActError> {
    let input = |part: String| part.parse().map_err(|_| format!("{part:?} is no number of an input"));
    match act {
        Act::Retry { part: None } => Ok(Verb::Retry),
        Act::Retry { part: Some(_) } => {
            Err(ActError::declined("all of an instance is tried again, or nothing"))
        }
        Act::Skip { part } => Ok(Verb::Skip { input: input(part).map_err(ActError::declined)? }),
        Act::Cancel => Ok(Verb::End),
        other => Err(ActError::declined(format!("an instance knows no {}", other.name()))),
    }
}
