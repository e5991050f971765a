//! How a run begins: once for each key.

use std::time::Duration;

use es_core::engine::Node;
use es_core::store::keys::digest;
use es_core::store::{Commit, CommitError, Committed, RowWrite, StoreError, StoredRow, Won};
use es_core::{Backend, ErrorKind, Timestamp};
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::watch;
use uuid::Uuid;

use super::clock::TRUSTS;
use super::door;
use super::family::{Kin, Parent};
use super::instance::{Change, Instance};
use super::kind::{Handed, Kind, Promise};
use super::outcome::{Handle, Outcome, RunError};
use super::protocol::{Acts, Protocol};
use super::rows::{
    Head, Record, Start, Status, Tables, Wake, Written, head_key, record_key, slice, start_key,
};
use super::staging::Staging;
use crate::data::Data;

/// How often a start is tried that the store loses.
const TRIES: usize = 5;

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Begins a run under a key. Under a key that has one with the same input, gives that one.
    pub(crate) async fn start(
        &self,
        key: &str,
        input: Data,
        deadline: Option<Duration>,
    ) -> Result<Handle, RunError> {
        let node = self.node().ok_or(RunError::NotStarted)?;
        start_key(key)?;
        let (run, mut with_steps) = (node.ids.next(), true);
        let rests = !self.protocol.rests_at_first().is_zero();
        for _ in 0..TRIES {
            let now = self.clock.now(&*self.backend).await?;
            let place = if rests { None } else { self.desks.place(run) };
            let taken = place.is_some() && !self.protocol.calls_once();
            let (begun, rows) = self.begin(run, key, &input, deadline, None, now, taken)?;
            let mut ahead = None;
            if with_steps
                && place.is_some()
                && let Some(first) = self.begins_with(&node, &begun, now)
            {
                // No step runs for a key that stands for a run.
                if let Some(found) = self.found_before(key, &input).await? {
                    return Ok(found);
                }
                ahead = self.ahead(&node, &begun, first, &rows, now).await;
            }
            let is_ahead = ahead.is_some();
            let (outcome, begun, written) = self.commit_start(&node, begun, rows, ahead, now).await?;
            // What proves a commit is its events: steps may give two the same.
            let is_in_doubt = is_ahead && matches!(outcome, Err(CommitError::Unknown(_)));
            let won = Won::after(&*self.backend, outcome).await;
            if is_in_doubt && matches!(won, Ok(Some(Won::Yes(_)))) && !self.stands_for(key, run).await? {
                continue;
            }
            match won {
                Ok(Some(Won::Yes(_))) => {
                    self.numbers.started();
                    self.numbers.wrote(begun.head.value.begun, Duration::ZERO, &written);
                    let mut handle = self.handle(run, key, false);
                    if let Some(place) = place {
                        handle.here = Some(hand_over(place, begun));
                    }
                    return Ok(handle);
                }
                Ok(Some(Won::No(at))) if at.table == *self.tables.starts.name() => {
                    if let Some(found) = self.found_before(key, &input).await? {
                        return Ok(found);
                    }
                }
                // Lost, or the id is taken, which it is not: it is new. Or its first steps decided on another history.
                Ok(None) | Err(CommitError::OtherHistory) => {}
                // What steps have staged is refused, in whatever way: it begins, and they run then.
                Ok(Some(Won::No(_))) => with_steps = false,
                Err(CommitError::Store(error)) if !is_ahead || error.kind() == ErrorKind::Transient => {
                    return Err(error.into());
                }
                Err(CommitError::Unknown(attempt)) => {
                    return Err(StoreError::Unknown { what: "starting a saga", attempt }.into());
                }
                Err(_) if is_ahead => with_steps = false,
                Err(error) if error.kind() == ErrorKind::Transient => {
                    return Err(StoreError::transient("starting a saga", error).into());
                }
                Err(error) => {
                    let (kind, why) = (self.name.to_string(), es_core::chain(&error));
                    return Err(RunError::Input { kind, why });
                }
            }
        }
        let lost = std::io::Error::other("each try was lost");
        Err(StoreError::transient("starting a saga", lost).into())
    }

    /// Commits that a run begins, with the first steps that were made: what came of it, the run, and what was written of those.
    async fn commit_start(
        &self,
        node: &Node,
        mut begun: Instance<P>,
        mut rows: Vec<RowWrite>,
        ahead: Option<(Staging, Change<P>)>,
        now: Timestamp,
    ) -> Result<(Result<Committed, CommitError>, Instance<P>, Vec<Written>), RunError> {
        if let Some((staging, change)) = ahead {
            return Ok((door::commit_tx(node, staging, false).await, change.next, change.written));
        }
        rows.extend(self.lay(&mut begun, now)?);
        let commit = Commit { rows, ..Commit::default() };
        Ok((door::commit(&*self.backend, node, commit).await, begun, Vec::new()))
    }

    /// The rows of a start that goes with another commit, which has these rows already: none if there is such a run.
    pub(crate) async fn stage(
        &self,
        beside: &[RowWrite],
        key: &str,
        input: &Data,
        deadline: Option<Duration>,
    ) -> Result<(Handle, Vec<RowWrite>), RunError> {
        let node = self.node().ok_or(RunError::NotStarted)?;
        let (start, table) = (start_key(key)?, self.tables.starts.name());
        if let Some(row) = beside.iter().find(|row| row.table == *table && row.key == start) {
            return self.staged_before(row, key, input).map(|handle| (handle, Vec::new()));
        }
        if let Some(found) = self.found_before(key, input).await? {
            return Ok((found, Vec::new()));
        }
        let (run, now) = (node.ids.next(), self.clock.now(&*self.backend).await?);
        let (mut begun, mut rows) = self.begin(run, key, input, deadline, None, now, false)?;
        rows.extend(self.lay(&mut begun, now)?);
        Ok((self.handle(run, key, false), rows))
    }

    /// A child, and the rows of its start: none if that step of its parent has begun it before.
    pub(crate) async fn stage_child(
        &self,
        parent: Parent,
        key: &str,
        input: &Data,
        deadline: Option<Duration>,
    ) -> Result<(Kin, Vec<RowWrite>), RunError> {
        let node = self.node().ok_or(RunError::NotStarted)?;
        let of = |run, version| Kin { saga: self.name.to_string(), version, key: key.to_owned(), run };
        if let Some(start) = self.tables.starts.get(&*self.backend, &start_key(key)?).await? {
            let Start { run, version, .. } = start.value;
            let head = self.tables.heads.get(&*self.backend, &head_key(run)?).await?;
            if head.is_some_and(|head| head.value.parent.as_ref() == Some(&parent)) {
                return Ok((of(run, version), Vec::new()));
            }
            return Err(RunError::OtherInput { kind: self.name.to_string(), key: key.to_owned(), run });
        }
        let (run, now) = (node.ids.next(), self.clock.now(&*self.backend).await?);
        let (mut begun, mut rows) = self.begin(run, key, input, deadline, Some(parent), now, false)?;
        rows.extend(self.lay(&mut begun, now)?);
        Ok((of(run, self.version), rows))
    }

    /// A start under the same key goes with the same commit.
    fn staged_before(&self, row: &RowWrite, key: &str, input: &Data) -> Result<Handle, RunError> {
        let data = row.row.clone().unwrap_or_default();
        let row = StoredRow { key: row.key.clone(), rev: row.rev, data };
        let Start { run, fingerprint: before, .. } = self.tables.starts.decode(row)?.value;
        if before == hex(input) {
            return Ok(self.handle(run, key, true));
        }
        Err(RunError::OtherInput { kind: self.name.to_string(), key: key.to_owned(), run })
    }

    /// What a run began with; `None`: it is gone.
    pub(super) async fn input_of(&self, run: Uuid) -> Result<Option<Data>, RunError> {
        let begun = self.tables.journal.get(&*self.backend, &record_key(run, 1)?).await?;
        Ok(begun.and_then(|row| match row.value.record {
            Record::Begun { input, .. } => Some(input),
            _ => None,
        }))
    }

    /// A run that begins, and the rows of its key and of what is written of it. `taken`: by this node.
    #[expect(clippy::too_many_arguments, reason = "all that a run begins with")]
    fn begin(
        &self,
        run: Uuid,
        key: &str,
        input: &Data,
        deadline: Option<Duration>,
        parent: Option<Parent>,
        now: Timestamp,
        taken: bool,
    ) -> Result<(Instance<P>, Vec<RowWrite>), RunError> {
        let tables: &Tables = &self.tables;
        let (version, fingerprint) = (self.version, hex(input));
        let deadline = deadline.and_then(|limit| now.saturating_add(limit).ok());
        let mut records = vec![Record::Begun { input: input.clone(), deadline, parent: parent.clone() }];
        records.extend(taken.then_some(Record::Taken {}));
        let head = Head {
            format: records[0].format(),
            version,
            key: key.to_owned(),
            records: 0,
            status: Status::Running,
            begun: now,
            holder: self.node().filter(|_| taken).map(|node| node.cluster.node()),
            wake: None,
            wake_row: None,
            outcome: None,
            error: None,
            parent,
            says: None,
        };
        let mut instance = Instance::new(&*self.protocol, run, head, self.backend.history());
        let mut rows = vec![tables.starts.insert(start_key(key)?, Start { run, version, fingerprint })?];
        for record in records {
            instance.head.value.records += 1;
            let written = Written { at: now, record };
            rows.push(tables.journal.put_at(record_key(run, instance.head.value.records)?, 0, &written)?);
            let kind = || self.name.to_string();
            self.protocol
                .fold(&mut instance.state, &written)
                .map_err(|why| RunError::Input { kind: kind(), why })?;
        }
        Ok((instance, rows))
    }

    /// The other rows of a run that begins and does nothing yet: its head, and the one that wakes it.
    fn lay(&self, begun: &mut Instance<P>, now: Timestamp) -> Result<[RowWrite; 2], RunError> {
        // Due for everybody, also where the clock of the store is carried on a little less far.
        let (tables, run, now_for_all) = (&self.tables, begun.run, now - TRUSTS);
        let rests = self.protocol.rests_at_first();
        let due = if rests.is_zero() { now_for_all } else { now.saturating_add(rests).unwrap_or(now) };
        let wake = tables.wakes.push(slice(run), due, now_for_all, run, Wake::of(run))?;
        begun.wakes.insert(wake.key.clone(), 1);
        begun.head.value.wake_row = Some(wake.key.clone());
        let head = tables.heads.put(&begun.head)?;
        begun.head.rev += 1;
        Ok([wake, head])
    }

    /// The run that was in the way of a start, unless it is forgotten by now.
    async fn found_before(&self, key: &str, input: &Data) -> Result<Option<Handle>, RunError> {
        let Some(Start { run, fingerprint, .. }) = self.begun_under(key).await? else { return Ok(None) };
        if fingerprint == hex(input) || self.has_input(run, input).await? {
            return Ok(Some(self.handle(run, key, true)));
        }
        // What it began with may have gone meanwhile, and before that its key.
        if self.begun_under(key).await?.is_none_or(|start| start.run != run) {
            return Ok(None);
        }
        Err(RunError::OtherInput { kind: self.name.to_string(), key: key.to_owned(), run })
    }

    /// The run that a key stands for.
    async fn begun_under(&self, key: &str) -> Result<Option<Start>, RunError> {
        Ok(self.tables.starts.get(&*self.backend, &start_key(key)?).await?.map(|start| start.value))
    }

    /// Whether a key stands for this run.
    async fn stands_for(&self, key: &str, run: Uuid) -> Result<bool, RunError> {
        Ok(self.begun_under(key).await?.is_some_and(|start| start.run == run))
    }

    /// Whether a run has an input that this program would write in the same way: fields may have come since.
    async fn has_input(&self, run: Uuid, input: &Data) -> Result<bool, RunError> {
        let Some(before) = self.input_of(run).await? else { return Ok(false) };
        Ok(self.protocol.normal(&before).is_ok_and(|before| fingerprint(&before) == fingerprint(input)))
    }

    pub(crate) fn handle(&self, run: Uuid, key: &str, repeated: bool) -> Handle {
        let (kind, key, heads) = (self.name.clone(), key.to_owned(), self.tables.heads.clone());
        Handle { run, kind, key, repeated, rows: self.backend.clone(), heads, here: None }
    }
}

/// A run that has begun goes to whoever drives it, who tells how it ends.
fn hand_over<P: Protocol>(
    (permit, promise): (OwnedPermit<Handed<P>>, Promise<P>),
    begun: Instance<P>,
) -> watch::Receiver<Option<Outcome>> {
    let outcome = begun.head.value.outcome.clone();
    let (has_ended, (teller, here)) = (outcome.is_some(), watch::channel(outcome));
    if !has_ended {
        // If it closes now, the wake-up is there.
        drop(permit.send((begun, promise, teller)));
    }
    here
}

fn hex(input: &Data) -> String {
    format!("{:032x}", fingerprint(input))
}

/// A stable number for an input: the order of fields and of entries of maps says nothing.
fn fingerprint(input: &Data) -> u128 {
    let canonical = input.canonical();
    digest([canonical.as_deref().unwrap_or_else(|| input.text()).as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_pinned() {
        let print = |text: &str| hex(&Data::parse(text.to_owned()).unwrap());
        assert_eq!(print(r#"{"b":[1,-2,0.1,1e300],"a":"\u00e4\n"}"#), "e700640b65bb4ddb53c7f470c27818cd");
        assert_eq!(
            print(r#"{"b":[1,-2,0.1,1e300],"a":"\u00e4\n"}"#),
            print(r#"{"a":"ä\n", "b":[1,-2,0.1,1e300]}"#)
        );
        let large = 10_u128.pow(20);
        assert_ne!(print(&large.to_string()), print(&(large + 1).to_string()));
    }
}
