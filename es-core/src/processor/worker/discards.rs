//! What was discarded in the build that queries read, after a build under way had passed it.
//!
//! What was discarded before that is left out page by page. Here the rows of its keys are rebuilt, or, where rows cannot be told
//! apart or are under other keys, the build begins again. A row next to those of what was left out says that it is done: queries
//! are not switched before. A range that says so of an event whose keys have changed asks the ranges of its other keys whether
//! they have left it out too.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{BuildContext, Role};
use super::failure::StepError;
use super::run::Worker;
use super::take_over::TakeOver;
use crate::processor::parked::{self, Parked};
use crate::state::{Afresh, Build, ParkedEvent, Request, Skipped, afresh, sortable};
use crate::store::{Position, RecordedEvent, Row, RowStore, RowWrite, Span, StoreError, StoredRow, at_first};

/// Events, or keys of one, that are looked at together.
const SOME: usize = 500;
/// The same where each event may have many keys.
const FEW: usize = 100;

impl Worker {
    /// Leaves out what was discarded since this range has passed it. `false` if the build begins again for that.
    pub(super) async fn leave_out_discarded(&mut self) -> Result<bool, StepError> {
        let context = self.context.clone();
        let Role::Building { current, honours_skips: true, .. } = &context.role else { return Ok(true) };
        if !self.leave_out_as_asked().await? {
            return Ok(false);
        }
        let backend = context.backend();
        // Of this build too: a switch that finds something left to do makes it look again.
        let own = parked::times_asked(backend, &context.build).await?;
        let asked = Some((own, parked::times_asked(backend, current).await?));
        // What is being discarded is left out once all of it is: its request goes then, and that is heard.
        if self.discards == asked || parked::discarding(backend, current).await?.is_some() {
            return Ok(true);
        }
        let (seen, mut after) = (self.open().seen, String::new());
        loop {
            let (page, more) = parked::skipped_up_to(backend, current, &after, seen).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.key);
            let late = self.discarded_late(read(&context, current, page).await?).await?;
            if !late.is_empty() && !self.leave_out_late_ones(current, late).await? {
                return Ok(false);
            }
            if !more {
                break;
            }
        }
        self.discards = asked;
        Ok(true)
    }

    /// Answers ranges that ask whether this one has left out what they have. `false` if it has handled any of it: then the build
    /// begins again.
    async fn leave_out_as_asked(&mut self) -> Result<bool, StepError> {
        let (context, table) = (self.context.clone(), afresh(&self.context.build));
        let mut asked = self.asked_afresh().await?;
        asked.retain(|row| !row.value.without.is_empty());
        if asked.is_empty() {
            return Ok(true);
        }
        // What it handles after this it looks up before.
        self.flush_folded().await?;
        let reached = self.share.progress.position;
        let passed = |row: &Row<Afresh>| {
            let without = row.value.without.iter().filter(|position| **position <= reached);
            without.map(|position| (row.key.clone(), *position)).collect::<Vec<_>>()
        };
        if !not_left_out(&context, asked.iter().flat_map(passed)).await?.is_empty() {
            return self.begin_again().await.map(|()| false);
        }
        self.flush_with(asked.iter().map(|row| table.delete(row)).collect()).await.map(|()| true)
    }

    /// Those of a page that this range has passed and not left out.
    async fn discarded_late(&mut self, page: Vec<Row<Skipped>>) -> Result<Vec<Skipped>, StepError> {
        let slices = self.share.slices;
        let is_late = |row: &Row<Skipped>| row.value.discarded && slices.has(&row.value.key);
        let passed: Vec<Row<Skipped>> = page.into_iter().filter(is_late).collect();
        if passed.is_empty() {
            return Ok(Vec::new());
        }
        // It says what was left out.
        self.flush_folded().await?;
        let keys: Vec<String> = passed.iter().map(|row| row.key.clone()).collect();
        let known = self.context.backend().rows(self.context.build.skipped().name(), &keys).await?;
        let late = passed.into_iter().zip(known).filter(|(_, known)| known.is_none());
        Ok(late.map(|(row, _)| row.value).collect())
    }

    async fn leave_out_late_ones(&mut self, current: &Build, late: Vec<Skipped>) -> Result<bool, StepError> {
        let (context, folds) = (self.context.clone(), self.context.folds());
        let build = &context.build;
        let mut rows =
            late.iter().map(|skipped| parked::skip(build, skipped.clone())).collect::<Result<Vec<_>, _>>()?;
        let mut events = events_of(&context, &late).await?;
        let rekeyed = context.rekeyed(current, &events).await?;
        let (unparked, sequences, handled) = unpark(&context, &self.open().parked, &late).await?;
        let is_handled = |event: &RecordedEvent| handled.iter().any(|late| late.position == event.place());
        let begins_again = !rekeyed.is_empty() || !folds && events.iter().any(is_handled);
        if begins_again || waits_elsewhere(&context, &late, &events).await? {
            return self.begin_again().await.map(|()| false);
        }
        rows.extend(unparked);
        if folds {
            let mut keys: BTreeSet<String> = handled.iter().map(|skipped| skipped.key.clone()).collect();
            // Of those that could not be decoded, the key is a guess.
            let undecoded = late.iter().filter(|skipped| skipped.undecoded).map(|skipped| skipped.position);
            let undecoded: BTreeSet<Position> = undecoded.collect();
            events.retain(|event| undecoded.contains(&event.place()));
            keys.extend(events.iter().flat_map(|event| context.runner.keys(event).unwrap_or_default()));
            rows.extend(ask_afresh(&context, keys).await?);
        }
        self.flush_with(rows).await?;
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        for (key, sequence) in sequences {
            match sequence.value.events {
                0 => drop(parked.remove(&key)),
                _ => drop(parked.insert(key, sequence.written())),
            }
        }
        Ok(true)
    }

    /// The build begins again from the start of the log, if it is this program's still, and the range this worker's.
    pub(super) async fn begin_again(&mut self) -> Result<(), StepError> {
        let context = self.context.clone();
        self.open = None;
        let over = TakeOver::of_worker(&context.runner.code(), &self.share);
        let (lease, why) = (context.node.settings.lease, "an event that it has handled was discarded");
        Ok(over.begin_again(context.backend(), &*context.runner, &context.build, lease, why).await?)
    }
}

/// What rows say that was left out. The key of one that is damaged tells its event, and which of its keys was meant; if none was,
/// the row is in the way of a switch.
async fn read(
    context: &BuildContext,
    current: &Build,
    rows: Vec<StoredRow>,
) -> Result<Vec<Row<Skipped>>, StoreError> {
    let (mut read, mut damaged) = (Vec::new(), BTreeSet::new());
    for row in rows {
        let key = row.key.clone();
        match current.skipped().decode(row) {
            Ok(row) => read.push(row),
            Err(_) => drop(damaged.insert(key)),
        }
    }
    let positions = damaged.iter().filter_map(|row| parked::position_of_skip(row)).collect();
    for event in events_at(context, positions).await? {
        let (position, at) = (event.place(), context.now());
        for key in context.runner.keys(&event).unwrap_or_default() {
            if let Some(row) = damaged.take(&parked::skip_key(position, &key)) {
                let reason = parked::UNREAD.to_owned();
                let value = Skipped { position, key, reason, at, undecoded: false, discarded: true };
                read.push(Row { key: row, rev: 0, value });
            }
        }
    }
    Ok(read)
}

/// The events of some that were left out, as far as they are handled.
async fn events_of(context: &BuildContext, late: &[Skipped]) -> Result<Vec<RecordedEvent>, StoreError> {
    events_at(context, late.iter().map(|skipped| skipped.position).collect()).await
}

async fn events_at(
    context: &BuildContext,
    positions: BTreeSet<Position>,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let positions: Vec<Position> = positions.into_iter().collect();
    let (mut all, mut left) = (Vec::new(), &positions[..]);
    while !left.is_empty() {
        let (events, answered) = at_first(context.backend(), left).await?;
        all.extend(events.into_iter().filter(|event| context.filter().matches(event)));
        left = &left[answered..];
    }
    Ok(all)
}

/// What comes of taking events out of the sequences that they are parked in: rows, the sequences as they are then, and those
/// that were not parked but handled.
type Unparked<'l> = (Vec<RowWrite>, BTreeMap<String, Parked>, Vec<&'l Skipped>);

async fn unpark<'l>(
    context: &BuildContext,
    all: &BTreeMap<String, Parked>,
    late: &'l [Skipped],
) -> Result<Unparked<'l>, StoreError> {
    let build = &context.build;
    let (mut rows, mut sequences, mut handled) = (Vec::new(), BTreeMap::new(), Vec::new());
    let table = build.parked_events();
    for skipped in late {
        let Skipped { key, position, .. } = skipped;
        // What a sequence has no more was handled since.
        let Some((parked, event)) = parked_event(context, all.get(key), *position).await? else {
            handled.push(skipped);
            continue;
        };
        rows.push(table.delete(&event));
        sequences.entry(key.clone()).or_insert(parked).value.events -= 1;
    }
    for (key, sequence) in &sequences {
        if sequence.value.events == 0 {
            rows.push(build.parked().delete(sequence));
            continue;
        }
        rows.push(build.parked().put(sequence)?);
        // What it failed with is left out: nothing but that kept back what is behind it.
        let is_first = |late: &Skipped| late.key == *key && late.position == sequence.value.position;
        if late.iter().any(is_first) {
            let standing = context.backend().rows(build.requests().name(), std::slice::from_ref(key)).await?;
            let rev = standing.into_iter().flatten().next().map_or(0, |row| row.rev);
            rows.push(build.requests().put(&Row { key: key.clone(), rev, value: Request::Retry })?);
        }
    }
    Ok((rows, sequences, handled))
}

/// The row of an event of a sequence, if it is one of those that wait there; and the sequence.
async fn parked_event(
    context: &BuildContext,
    sequence: Option<&Parked>,
    position: Position,
) -> Result<Option<(Parked, Row<ParkedEvent>)>, StoreError> {
    let Some(sequence) = sequence else { return Ok(None) };
    let (table, row) = (context.build.parked_events(), parked::event_key(sequence, position));
    let event = table.get(context.backend(), &row).await?;
    Ok(event.map(|event| (sequence.clone(), event)))
}

/// Whether an event that was left out for every key, for nobody could decode it, waits under another one than was known then.
async fn waits_elsewhere(
    context: &BuildContext,
    late: &[Skipped],
    events: &[RecordedEvent],
) -> Result<bool, StoreError> {
    let undecoded = late.iter().filter(|skipped| skipped.undecoded);
    let known: BTreeMap<Position, &String> =
        undecoded.map(|skipped| (skipped.position, &skipped.key)).collect();
    for event in events {
        let Some(known) = known.get(&event.place()) else { continue };
        for key in context.runner.keys(event).unwrap_or_default().iter().filter(|key| key != known) {
            let sequence = parked::one(context.backend(), &context.build, key).await?;
            if parked_event(context, sequence.as_ref(), event.place()).await?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether an event waits under one of some keys though it is left out for good: it was discarded for whatever keys it has, and
/// the range that found that out did not see yet that this one parks it.
pub(super) async fn parks_left_out(
    context: &BuildContext,
    all: &BTreeMap<String, Parked>,
    keys: &[Row<Afresh>],
) -> Result<bool, StoreError> {
    let (backend, build) = (context.backend(), &context.build);
    let parked: Vec<&Parked> = keys.iter().filter_map(|row| all.get(&row.key)).collect();
    if parked.is_empty() {
        return Ok(false);
    }
    let skips = parked::skips(backend, build).await?;
    for sequence in parked {
        let mut last = Position(0);
        loop {
            let page = parked::positions(backend, build, sequence, last, SOME).await?;
            let Some((_, end)) = page.last() else { break };
            last = *end;
            if page.iter().any(|(_, at)| parked::reason(&skips, *at, &sequence.key).is_some()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Which of some events a build has not left out, each for a key.
async fn not_left_out(
    context: &BuildContext,
    events: impl IntoIterator<Item = (String, Position)>,
) -> Result<Vec<(String, Position)>, StoreError> {
    let events: Vec<_> = events.into_iter().collect();
    let rows: Vec<_> = events.iter().map(|(key, position)| parked::skip_key(*position, key)).collect();
    let known = context.backend().rows(context.build.skipped().name(), &rows).await?;
    Ok(events.into_iter().zip(known).filter_map(|(event, known)| known.is_none().then_some(event)).collect())
}

/// The requests to other ranges to say whether they have left out some events, each for a key, that did not say so yet.
pub(super) async fn ask_elsewhere(
    context: &BuildContext,
    events: &[(String, Position)],
) -> Result<Vec<RowWrite>, StoreError> {
    let Role::Building { current, .. } = &context.role else { return Ok(Vec::new()) };
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let discarded = discarded(context.backend(), current, events.iter().map(|(_, at)| *at)).await?;
    let events = events.iter().filter(|(_, position)| discarded.contains(position)).cloned();
    let mut asks = BTreeMap::<String, BTreeSet<Position>>::new();
    for (key, position) in not_left_out(context, events).await? {
        asks.entry(key).or_default().insert(position);
    }
    let (table, keys) = (afresh(&context.build), asks.keys().cloned().collect::<Vec<_>>());
    let known = context.backend().rows(table.name(), &keys).await?;
    let ask = |((key, mut without), known): ((String, BTreeSet<Position>), Option<StoredRow>)| {
        let rev = known.as_ref().map_or(0, |row| row.rev);
        match known.map(|row| table.decode(row)) {
            None => {}
            // It is to be rebuilt in any case.
            Some(Ok(known)) if known.value.without.is_empty() => return None,
            Some(Ok(known)) => without.extend(known.value.without),
            // So may one be that cannot be read.
            Some(Err(_)) => without.clear(),
        }
        Some(table.put(&Row { key, rev, value: Afresh { without, ..Afresh::default() } }))
    };
    asks.into_iter().zip(known).filter_map(ask).collect()
}

/// Which of some events a build leaves out because they were discarded, or nobody can read why. What was only skipped is in no
/// switch's way.
async fn discarded(
    store: &dyn RowStore,
    build: &Build,
    positions: impl Iterator<Item = Position> + Send,
) -> Result<BTreeSet<Position>, StoreError> {
    let (table, mut discarded) = (build.skipped(), BTreeSet::new());
    let positions: Vec<Position> = positions.collect::<BTreeSet<_>>().into_iter().collect();
    let of = |position: &Position| {
        let before = Some(sortable(Position(position.0.saturating_add(1))));
        Span { after: sortable(*position), before, limit: SOME }
    };
    let counts = |row| table.decode(row).map_or(true, |row| row.value.discarded);
    for some in positions.chunks(FEW) {
        let spans: Vec<Span> = some.iter().map(of).collect();
        let found = some.iter().zip(store.scan_many(table.name(), &spans).await?);
        discarded.extend(found.filter(|(_, rows)| rows.iter().cloned().any(counts)).map(|(at, _)| *at));
    }
    Ok(discarded)
}

/// The requests to rebuild the rows of some keys, of whichever range.
async fn ask_afresh(context: &BuildContext, keys: BTreeSet<String>) -> Result<Vec<RowWrite>, StoreError> {
    let (table, keys) = (afresh(&context.build), keys.into_iter().collect::<Vec<_>>());
    let known = context.backend().rows(table.name(), &keys).await?;
    let ask = |(key, known): (String, Option<StoredRow>)| {
        let rev = known.map_or(0, |row| row.rev);
        table.put(&Row { key, rev, value: Afresh::default() })
    };
    keys.into_iter().zip(known).map(ask).collect()
}
