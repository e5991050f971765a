//! Which code writes an inline projection: of two programs, the one that handles more.
//!
//! Its record is that of the asynchronous build which it was, and which it will be. It is not rebuilt in place: a program that
//! handles what commits of before did not write is told to retire it. If there is nothing of that in the log, it takes the
//! projection over, and the set of inline projections gets another generation, so that programs which handle less commit
//! nothing more. Programs that handle the same write next to each other, each with its own code.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::handover::{PATIENCE, shut_out, went_through};
use super::start::{Starting, patiently};
use crate::cluster;
use crate::processor::{
    Backfill, Looked, NodeContext, RACES, Runner, Standing, TakeOver, Wired, made_by, standing,
};
use crate::projection::Code;
use crate::projection::code::ALL;
use crate::state::{CodeRecord, Generations, InlineSet};
use crate::store::{AppendCondition, Commit, CommitError, EventFilter, Position, Row, RowWrite, StoreError};

/// What is written so that this program's codes are the ones that write.
#[derive(Default)]
pub(super) struct Changes {
    rows: Vec<RowWrite>,
    /// The rows that are to be written over.
    before: Vec<Row<CodeRecord>>,
    /// Whether programs of before must not commit any more.
    fences: bool,
    /// Whether one is taken from a program that handles more, of which nobody is seen.
    pub(super) left: bool,
    /// How far the log is looked at.
    head: Position,
    /// Types of events that were not in the log as far as it was looked at.
    absent: Vec<String>,
    /// What is in the way, a line each.
    wrong: Vec<String>,
}

/// Takes over the inline projections that older programs write; if something is in the way of one, none of them. Gives the
/// set whose generation commits may name. It fits what the app is wired with, and so does every set that is written over it.
///
/// # Errors
///
/// What is in the way, a line each.
pub(super) async fn take_over(starting: &Starting<'_>) -> Result<InlineSet, Vec<String>> {
    let one = |error: StoreError| vec![crate::chain(&error)];
    let node = starting.node;
    for tried in 1..=RACES {
        // Before the codes: whoever takes one over after this, changes the generation.
        let set = starting.known().await?;
        let Changes { mut rows, before, fences, absent, head, .. } = changes(starting, &set).await?;
        if rows.is_empty() || node.settings.looks_on {
            return Ok(set);
        }
        if fences {
            rows.push(set.write().map_err(one)?);
        }
        let all = absent.iter().any(|name| name == ALL);
        let filter = if all { EventFilter::all() } else { EventFilter::types(absent.clone()) };
        let condition = AppendCondition { fail_if_events_match: filter, after: head };
        let condition = (!absent.is_empty()).then_some(condition);
        let written = match node.backend.commit(Commit { rows, condition, ..Commit::default() }).await {
            // Of all events, those count too that are handled already, and come all the time.
            Err(CommitError::ConditionFailed { .. }) if tried.is_multiple_of(PATIENCE) => {
                shut_out(node, &set).await.map(|_| false)
            }
            outcome => went_through(node, outcome).await,
        };
        // Either way, what is there then is looked at.
        if written.map_err(one)? {
            before.into_iter().for_each(|before| starting.taken.from(before));
        }
    }
    Err(vec!["the inline projections change all the time: start it again".to_owned()])
}

/// What is to change for the inline projections of a set.
///
/// # Errors
///
/// What is in the way, a line each. Nothing was changed.
pub(super) async fn changes(starting: &Starting<'_>, set: &InlineSet) -> Result<Changes, Vec<String>> {
    let one = |error: StoreError| vec![crate::chain(&error)];
    let Starting { node, runners, looked, .. } = starting;
    let inline: Vec<_> = runners.iter().filter(|(runner, _)| set.names.contains(&runner.name())).collect();
    if inline.is_empty() {
        return Ok(Changes::default());
    }
    let head = patiently(node, || node.backend.head()).await.map_err(one)?;
    let mut changes = Changes { head, ..Changes::default() };
    for wired in inline {
        changes.add(patiently(node, || Changes::of(node, wired, head, looked)).await.map_err(one)?);
    }
    if changes.wrong.is_empty() && node.settings.looks_on && changes.fences {
        let what = "this app only looks on, and handles other events in its inline projections: start one that works first";
        changes.wrong.push(what.to_owned());
    }
    if changes.wrong.is_empty() { Ok(changes) } else { Err(changes.wrong) }
}

impl Changes {
    /// Of one inline projection, with the log up to `head`.
    async fn of(
        node: &NodeContext,
        (runner, backfill): &Wired,
        head: Position,
        looked: &Looked,
    ) -> Result<Self, StoreError> {
        let nothing = Self { head, ..Self::default() };
        let refused = |why: String| Self { wrong: vec![why], head, ..Self::default() };
        let (backend, name, code) = (&*node.backend, runner.name(), runner.code());
        let known = Generations::read(backend, &name).await?.map(|row| row.value).unwrap_or_default();
        let build = known.build(&name, known.current);
        let stored = made_by(backend, &build).await?;
        let (before, now) = (stored.value.known(), backend.now().await?.as_microsecond());
        let is_like = before.is_some_and(|before| before.is_like(&code));
        let alive = cluster::alive(backend).await?;
        // Any that writes it may be like the one that is noted, and handle more.
        let is_other = |known: &String| *known != code.fingerprint();
        let others = alive.values().any(|node| node.codes.get(&name).is_some_and(is_other));
        let standing = match standing(before, &code, &name, &alive, now) {
            Standing::IsLeft if others => Standing::StandsBy,
            standing => standing,
        };
        let left = standing == Standing::IsLeft;
        match standing {
            Standing::Makes => return Ok(nothing),
            Standing::StandsBy if is_like => return Ok(nothing),
            Standing::StandsBy => {
                return Ok(refused(format!(
                    "{name} is inline, and a program is alive that handles more of it, or finds its rows by other keys: start \
                     that one; or stop it first, if this one is to take its place"
                )));
            }
            Standing::IsNewer | Standing::IsLeft => {}
        }
        let absent = match looked.find(backend, &**runner, &build, before, head).await? {
            Some(why) if *backfill != Backfill::Skip => {
                return Ok(refused(format!(
                    "{name}: {why}; what is inline is not rebuilt in place: end that with `.retire_inline({name:?})`, let a \
                     processor rebuild it, and make it inline again"
                )));
            }
            Some(why) => {
                tracing::warn!(projection = name, why, "goes on without the events that were passed");
                Vec::new()
            }
            None => before.into_iter().flat_map(|before| absent(before, &code)).collect(),
        };
        let fences = before.is_some() && !is_like;
        let row = TakeOver::from(before).record(backend, &stored, &code, head, node.settings.lease).await?;
        Ok(Self { rows: vec![row], before: vec![stored], fences, left, head, absent, wrong: Vec::new() })
    }

    fn add(&mut self, other: Self) {
        let Self { rows, before, fences, left, head: _, absent, wrong } = other;
        self.rows.extend(rows);
        self.before.extend(before);
        self.fences |= fences;
        self.left |= left;
        self.absent.extend(absent);
        self.wrong.extend(wrong);
    }
}

/// The types that a code handles otherwise than the one of before: that one did not, or by other keys.
fn absent<'c>(before: &'c CodeRecord, code: &'c Code) -> impl Iterator<Item = String> + use<'c> {
    let is_new = |name: &&String| !before.handles.contains_key(*name);
    let new = code.handles().keys().filter(is_new).cloned();
    new.chain(before.rekeyed(code).into_iter().map(str::to_owned))
}

/// The codes of inline projections, by name, for other nodes to see.
pub(crate) fn codes_of(runners: impl Iterator<Item = Arc<dyn Runner>>) -> BTreeMap<String, String> {
    runners.map(|runner| (runner.name(), runner.code().fingerprint())).collect()
}
