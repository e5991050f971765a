//! Locks that a run takes, waits for and leaves.
//!
//! | what | where it is written |
//! | --- | --- |
//! | a run takes locks, or waits for them | in its commit that says that it asks for them |
//! | it does not wait any more | in its commit that decides that it is undone |
//! | it leaves them | in the commit of its end |
//! | who is next has them | in the commit of whoever leaves: with a wake-up in its queue |
//!
//! A wake-up says nothing: the run looks at the rows of its locks.

use std::collections::{BTreeMap, BTreeSet};

use es_core::guarded::caught;
use es_core::store::{RowWrite, StoreError};
use es_core::{Backend, BoxError, Timestamp};
use uuid::Uuid;

use super::drive::{Drive, Left};
use super::family::{Errand, Kin};
use super::instance::Change;
use super::kind::Kind;
use super::outcome::RunError;
use super::protocol::{Acts, Answer, Call, OwnFault};
use super::rows::Record;
use crate::data::Data;
use crate::lock::{self, LockMode, Place, Resource, Taken};

/// Each of them once, in one order, in the stronger mode if it is there in both.
fn sorted(wanted: Vec<Resource>) -> Vec<Resource> {
    let mut all = BTreeMap::<String, LockMode>::new();
    for Resource { name, mode } in wanted {
        let of = all.entry(name).or_insert(mode);
        *of = mode.max(*of);
    }
    all.into_iter().map(|(name, mode)| Resource { name, mode }).collect()
}

impl<B: Backend, P: Acts<B>> Drive<B, P> {
    /// A step takes its locks, or the run waits for them: in the commit that says so.
    pub(super) async fn claim(&mut self, call: Call) -> Result<(), Left> {
        let desk = self.desk.clone();
        let wants = caught(async { desk.protocol.wants(&self.instance.state, call, &self.site) }).await;
        let wanted = match wants.map(|wanted| wanted.map(sorted)) {
            Ok(Ok(wanted)) if let Some(why) = lock::wrong(&wanted) => {
                return self.not_done(call, Answer::Failed(OwnFault::boxed(why))).await;
            }
            Ok(Ok(wanted)) => wanted,
            Ok(Err(error)) => return self.not_done(call, Answer::Failed(error)).await,
            Err(panic) => {
                let error: BoxError = OwnFault::boxed(panic.boxed());
                return self.not_done(call, Answer::Failed(error)).await;
            }
        };
        let (at, own) = (self.now().await?, self.kin());
        match lock::take(&*desk.backend, &desk.node.ids, &own, &wanted, at).await {
            Ok(Taken::Rows { rows, held }) => self.take(call, wanted, rows, held).await,
            Ok(Taken::Refused(why)) => self.not_done(call, Answer::Refused(why.to_string())).await,
            Err(error) => self.pause(&error).await,
        }
    }

    async fn take(
        &mut self,
        call: Call,
        wanted: Vec<Resource>,
        rows: Vec<RowWrite>,
        held: bool,
    ) -> Result<(), Left> {
        let done = self.desk.protocol.answered(&self.instance.state, call, Answer::Done(Data::null()));
        let Record::Done { step, .. } = &done else {
            return Err(Left::Trouble("a lock is not done: a mistake of the engine".to_owned()));
        };
        let mut records = vec![Record::Claimed { step: step.clone(), locks: wanted }];
        records.extend(held.then_some(done));
        let rev = self.instance.head.rev;
        // Whoever gives it a lock that it waits for wakes it.
        self.looks = false;
        let written = self.write(records, Vec::new(), None, rows).await;
        // Another run was faster, or the store was away.
        self.looks |= self.instance.head.rev == rev;
        written
    }

    /// Looks whether it has what it waits for. Whether something came of it.
    pub(super) async fn look_at_locks(&mut self, call: Call, wanted: &[Resource]) -> Result<bool, Left> {
        match lock::place(&*self.desk.backend, self.instance.run, wanted).await {
            Ok(Place::Waits) => Ok(false),
            Ok(Place::Holds) => {
                let done = Answer::Done(Data::null());
                let record = self.desk.protocol.answered(&self.instance.state, call, done);
                self.commit(vec![record], Vec::new()).await?;
                Ok(true)
            }
            // Somebody has removed it: it asks again.
            Ok(Place::Missing) => {
                self.claim(call).await?;
                Ok(true)
            }
            Err(error) => {
                self.looks = true;
                self.pause(&error).await?;
                Ok(true)
            }
        }
    }

    /// Whether it keeps the locks that it asks for in a change: one that is undone, or ends, in the same commit does not.
    pub(super) fn keeps_locks(&self, change: &Change<P>) -> bool {
        let asks = change.written.iter().filter_map(|written| match &written.record {
            Record::Claimed { locks, .. } => Some(locks),
            _ => None,
        });
        let claims = self.desk.protocol.claims(&change.next.state);
        asks.flatten().all(|resource| claims.contains_key(&resource.name))
    }

    /// The rows of the locks that it leaves with a change.
    pub(super) async fn left_locks(
        &self,
        change: &Change<P>,
        at: Timestamp,
    ) -> Result<Vec<RowWrite>, StoreError> {
        let (desk, run) = (&self.desk, self.instance.run);
        let before = desk.protocol.claims(&self.instance.state);
        if before.is_empty() {
            return Ok(Vec::new());
        }
        let after = desk.protocol.claims(&change.next.state);
        let left: BTreeSet<String> = before.into_keys().filter(|name| !after.contains_key(name)).collect();
        lock::leave(&*desk.backend, &desk.node.ids, run, &left, at).await
    }

    fn kin(&self) -> Kin {
        let (saga, version) = (self.desk.kind.to_string(), self.desk.tables.version);
        Kin { saga, version, key: self.site.key.clone(), run: self.instance.run }
    }
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Who has the locks that a run waits for, in words.
    pub(super) async fn in_the_way(
        &self,
        run: Uuid,
        state: &P::State,
        now: Timestamp,
    ) -> Result<String, RunError> {
        let mut told = String::new();
        for call in self.protocol.next(run, state, &BTreeSet::new(), now).calls() {
            if let Some(Errand::Granted(wanted)) = self.protocol.errand(state, call) {
                told += &lock::in_the_way(&*self.backend, run, &wanted).await?;
            }
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_twice_is_taken_once_in_the_stronger_mode() {
        let wanted = vec![
            Resource::shared("b"),
            Resource::exclusive("a"),
            Resource::shared("a"),
            Resource::exclusive("b"),
            Resource::shared("c"),
        ];
        let all = vec![Resource::exclusive("a"), Resource::exclusive("b"), Resource::shared("c")];
        assert_eq!(sorted(wanted), all);
    }
}
