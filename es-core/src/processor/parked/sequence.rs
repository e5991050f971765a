//! Parked sequences: events of a key that failed, and those behind it.
//!
//! A sequence is a row that names its key and its error, and a row for each of its events, with the event's position:
//! the events themselves stay in the log. Everything that changes a sequence is written with the checkpoint of its
//! range, so only the owner does; an operator writes a request, and the owner takes it up.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Timestamp;
use crate::processor::kinds::admission::LeftOut;
use crate::slices::Slices;
use crate::state::{Build, ParkedEvent, Request, Sequence, Skipped, sortable};
use crate::store::keys::behind;
use crate::store::{Filling, Position, Row, RowStore, RowWrite, Span, StoreError, StoredRow, is_full};

/// How much of an error is stored, in characters.
const ERROR: usize = 2_000;

/// Sequences that are read together.
const PAGE: usize = 500;

/// A sequence that waits for an operator. Of one whose row cannot be read the key is known, and `error` says that; its other
/// fields are nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedSequence {
    /// Its key: of a view the row's, else the stream.
    pub key: String,
    /// The event that failed; after a reset to a place, the first one that is left, if that lies before it.
    pub position: Position,
    /// Its type.
    pub event: String,
    /// How many events wait, that one included.
    pub events: u64,
    /// What the handler said last, with its sources; cut after 2,000 characters.
    pub error: String,
    /// How often the handler was called for it.
    pub attempts: u32,
    /// When it was parked.
    pub first_at: Timestamp,
    /// When the handler failed last.
    pub last_at: Timestamp,
}

impl From<Row<Sequence>> for ParkedSequence {
    fn from(Row { key, rev: _, value }: Row<Sequence>) -> Self {
        let Sequence { first: _, position, event, events, error, attempts, first_at, last_at } = value;
        Self { key, position, event, events, error, attempts, first_at, last_at }
    }
}

impl ParkedSequence {
    /// One whose row is damaged.
    fn unread(key: String, error: &StoreError) -> Self {
        let (event, error) =
            (String::new(), cut(&format!("its row cannot be read: {}", crate::chain(error))));
        let (first_at, last_at) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        Self { key, position: Position(0), event, events: 0, error, attempts: 0, first_at, last_at }
    }
}

/// A sequence as its owner knows it; revision 0 is one that is not stored yet.
pub(crate) type Parked = Row<Sequence>;

/// The first characters of an error's text.
pub(crate) fn cut(error: &str) -> String {
    match error.char_indices().nth(ERROR) {
        Some((end, _)) => format!("{}..", &error[..end]),
        None => error.to_owned(),
    }
}

/// The same, with what has to be at its end.
pub(crate) fn cut_before(error: &str, end: &str) -> String {
    let kept = ERROR.saturating_sub(end.chars().count() + 2);
    match error.char_indices().nth(kept) {
        Some((at, _)) => format!("{}..{end}", &error[..at]),
        None => format!("{error}{end}"),
    }
}

/// A sequence that begins with an event.
pub(crate) fn begin(
    key: &str,
    position: Position,
    event: String,
    error: &str,
    attempts: u32,
    now: Timestamp,
) -> Parked {
    let (first, error) = (position, cut(error));
    let (first_at, last_at) = (now, now);
    Row::new(key, Sequence { first, position, event, events: 0, error, attempts, first_at, last_at })
}

/// What the keys of its events begin with. Of fixed width, for keys may be any text.
fn prefix(parked: &Parked) -> String {
    format!("{}:{:016x}:", sortable(parked.value.first), xxh3_64(parked.key.as_bytes()))
}

/// The key of the row of one of its events.
pub(crate) fn event_key(parked: &Parked, position: Position) -> String {
    format!("{}{}", prefix(parked), sortable(position))
}

/// The position that the row of an event of a sequence names.
fn position_of(row: &Row<ParkedEvent>) -> Option<Position> {
    row.key.rsplit_once(':')?.1.parse().ok().map(Position)
}

/// Events that are left out for good, each with the reason: for one key, or for [any](ANY_KEY). Of one whose row is damaged,
/// the key is not known, but which one it [is the row](skip_key) of.
pub(crate) type Skips = BTreeMap<(Position, String), String>;

/// In the place of a key: the event could not be decoded, or is found under other keys by now. No key is empty.
pub(crate) const ANY_KEY: &str = "";

/// Why an event is left out for a key.
pub(crate) fn reason<'s>(skips: &'s Skips, position: Position, key: &str) -> Option<&'s String> {
    let of = |key: &str| skips.get(&(position, key.to_owned()));
    of(key).or_else(|| of(ANY_KEY)).or_else(|| of(&skip_key(position, key)))
}

/// Whether it is not a key, but says [which row](leave_out_unread) is damaged.
pub(crate) fn is_unread(position: Position, key: &str) -> bool {
    key.strip_prefix(&sortable(position)).is_some_and(|rest| rest.starts_with(':'))
}

/// Whether an event is left out whatever its keys are.
pub(crate) fn is_for_any(skips: &Skips, position: Position) -> bool {
    skips.contains_key(&(position, ANY_KEY.to_owned()))
}

/// The rows of what was left out: events that queue up, and events that are skipped. And the sequences as they are once
/// these rows are written, but for their revisions.
pub(crate) fn write_left_out(
    build: &Build,
    parked: &BTreeMap<String, Parked>,
    skips: &Skips,
    left_out: &[LeftOut],
    now: Timestamp,
) -> Result<(Vec<RowWrite>, Vec<Parked>), StoreError> {
    let mut rows = Vec::with_capacity(left_out.len());
    let mut touched = BTreeMap::<&str, Parked>::new();
    for LeftOut { key, position, parked: queues, undecoded } in left_out {
        if !queues {
            let reason = reason(skips, *position, key).cloned().unwrap_or_default();
            let undecoded = is_for_any(skips, *position);
            let (position, key) = (*position, key.clone());
            let skipped = Skipped { position, key, reason, at: now, undecoded, discarded: false };
            rows.push(skip(build, skipped)?);
            continue;
        }
        let sequence = touched.entry(key).or_insert_with(|| parked[key].clone());
        sequence.value.events += 1;
        let event = ParkedEvent { undecoded: *undecoded };
        rows.push(build.parked_events().insert(event_key(sequence, *position), event)?);
    }
    let sequences: Vec<Parked> = touched.into_values().collect();
    for sequence in &sequences {
        rows.push(build.parked().put(sequence)?);
    }
    Ok((rows, sequences))
}

/// The row of an event that is left out for good.
pub(crate) fn skip(build: &Build, skipped: Skipped) -> Result<RowWrite, StoreError> {
    build.skipped().insert(skip_key(skipped.position, &skipped.key), skipped)
}

/// A key of a row has at most 255 bytes, and this one comes with a position: its hash will do.
pub(crate) fn skip_key(position: Position, key: &str) -> String {
    format!("{}:{:016x}", sortable(position), xxh3_64(key.as_bytes()))
}

/// The position of the event that such a row is of.
pub(crate) fn position_of_skip(row: &str) -> Option<Position> {
    row.split_once(':')?.0.parse().ok().map(Position)
}

/// Why an event is left out of whose row no more is known.
pub(crate) const UNREAD: &str = "its row cannot be read";

/// Which of these events were left out for good, and whether for whatever keys they have: when that was decided, nobody could
/// decode them, and each most likely had this one. `None` if the row that says so cannot be read.
pub(crate) async fn skipped_undecoded(
    store: &dyn RowStore,
    build: &Build,
    events: impl IntoIterator<Item = (Position, &str)>,
) -> Result<BTreeMap<Position, Option<bool>>, StoreError> {
    let (table, mut skipped) = (build.skipped(), BTreeMap::new());
    let (positions, keys): (Vec<Position>, Vec<String>) =
        events.into_iter().map(|(position, key)| (position, skip_key(position, key))).unzip();
    let found = positions.into_iter().zip(store.rows(table.name(), &keys).await?);
    for (position, row) in found.filter_map(|(position, row)| Some((position, row?))) {
        let row = table.decode(row).inspect_err(|error| {
            tracing::warn!(%position, error = crate::chain(error), "an event is not taken in: it may be left out");
        });
        skipped.insert(position, row.ok().map(|row| row.value.undecoded));
    }
    Ok(skipped)
}

/// The sequences of a range. One whose row cannot be read is an error, unless it is to be left out.
pub(crate) async fn of_range(
    store: &dyn RowStore,
    build: &Build,
    slices: Slices,
) -> Result<BTreeMap<String, Parked>, StoreError> {
    let mut sequences = BTreeMap::new();
    for row in build.parked().stored(store).await?.into_iter().filter(|row| slices.has(&row.key)) {
        let key = row.key.clone();
        let sequence = match build.parked().decode(row.clone()) {
            Err(_) if is_to_be_discarded(store, build, &key).await? => rebuilt(store, build, row).await?,
            read => read?,
        };
        sequences.insert(key, sequence);
    }
    Ok(sequences)
}

/// Whether an operator wants a sequence to be left out.
async fn is_to_be_discarded(store: &dyn RowStore, build: &Build, key: &str) -> Result<bool, StoreError> {
    let request = build.requests().get(store, key).await?;
    Ok(request.is_some_and(|row| matches!(row.value, Request::Discard { .. })))
}

/// A sequence whose row cannot be read, as far as the rows of its events say what it is: for whoever leaves it out.
async fn rebuilt(store: &dyn RowStore, build: &Build, row: StoredRow) -> Result<Parked, StoreError> {
    let (of, now) = (format!(":{:016x}:", xxh3_64(row.key.as_bytes())), Timestamp::UNIX_EPOCH);
    let mut sequence = begin(&row.key, Position(0), String::new(), UNREAD, 0, now);
    sequence.rev = row.rev;
    let mut after = None::<String>;
    loop {
        let page = build.parked_events().stored_page(store, after.as_deref(), PAGE).await?;
        for event in page.iter().filter(|event| event.key.contains(&of)) {
            if let Some(first) = position_of_skip(&event.key) {
                (sequence.value.first, sequence.value.position) = (first, first);
                sequence.value.events += 1;
            }
        }
        if page.len() < PAGE {
            return Ok(sequence);
        }
        after = page.last().map(|row| row.key.clone());
    }
}

/// A sequence of which an event up to a position waits.
pub(crate) async fn first_up_to(
    store: &dyn RowStore,
    build: &Build,
    position: Position,
) -> Result<Option<Parked>, StoreError> {
    let mut after = None::<String>;
    loop {
        let page = build.parked().page(store, after.as_deref(), PAGE).await?;
        after = page.last().map(|row| row.key.clone());
        let more = page.len() == PAGE;
        let found = one_up_to(store, build, page, position).await?;
        if found.is_some() || !more {
            return Ok(found);
        }
    }
}

/// The same of some. What was taken in late waits behind what has failed, and is before that in the log.
pub(crate) async fn one_up_to(
    store: &dyn RowStore,
    build: &Build,
    mut some: Vec<Parked>,
    position: Position,
) -> Result<Option<Parked>, StoreError> {
    if let Some(i) = some.iter().position(|parked| parked.value.position <= position) {
        return Ok(Some(some.swap_remove(i)));
    }
    let span = |parked: &Parked| {
        let before = Some(event_key(parked, Position(position.0.saturating_add(1))));
        Span { after: prefix(parked), before, limit: 1 }
    };
    for some in some.chunks_mut(PAGE) {
        let spans: Vec<Span> = some.iter().map(span).collect();
        let found = store.scan_many(build.parked_events().name(), &spans).await?;
        if let Some(i) = found.iter().position(|rows| !rows.is_empty()) {
            return Ok(Some(some[i].clone()));
        }
    }
    Ok(None)
}

/// How many sequences of a build are stored, these keys aside.
pub(crate) async fn count(
    store: &dyn RowStore,
    build: &Build,
    aside: &BTreeSet<&str>,
) -> Result<usize, StoreError> {
    let (mut n, mut after) = (0, None::<String>);
    loop {
        let page = build.parked().stored_page(store, after.as_deref(), PAGE).await?;
        n += page.iter().filter(|row| !aside.contains(&*row.key)).count();
        after = page.last().map(|row| row.key.clone());
        if page.len() < PAGE {
            return Ok(n);
        }
    }
}

/// Sequences of a build in the order of their keys, after one, at most `limit` of them. Of one that cannot be read there is its
/// key, and why.
pub(crate) async fn list(
    store: &dyn RowStore,
    build: &Build,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ParkedSequence>, StoreError> {
    let table = build.parked();
    let page = table.stored_page(store, after, limit).await?;
    let shown = |row: StoredRow| {
        let key = row.key.clone();
        table.decode(row).map_or_else(|error| ParkedSequence::unread(key, &error), Into::into)
    };
    Ok(page.into_iter().map(shown).collect())
}

/// One of them, by its key.
pub(crate) async fn show(
    store: &dyn RowStore,
    build: &Build,
    key: &str,
) -> Result<Option<ParkedSequence>, StoreError> {
    let table = build.parked();
    let row = store.rows(table.name(), &[key.to_owned()]).await?.pop().flatten();
    Ok(row.map(|row| {
        table.decode(row).map_or_else(|error| ParkedSequence::unread(key.to_owned(), &error), Into::into)
    }))
}

/// The same as [`list`] without those that cannot be read.
pub(crate) async fn list_readable(
    store: &dyn RowStore,
    build: &Build,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ParkedSequence>, StoreError> {
    let (mut found, mut after) = (Vec::new(), after.map(str::to_owned));
    loop {
        let left = limit - found.len();
        let page = build.parked().stored_page(store, after.as_deref(), left).await?;
        let full = page.len() == left;
        after = page.last().map(|row| row.key.clone());
        found.extend(readable(build, page));
        if !full || found.len() == limit {
            return Ok(found);
        }
    }
}

/// Those sequences that can be read: one that is damaged stands in the way of no other.
pub(super) fn readable(
    build: &Build,
    rows: impl IntoIterator<Item = StoredRow>,
) -> impl Iterator<Item = ParkedSequence> {
    let table = build.parked();
    rows.into_iter().filter_map(move |row| match table.decode(row) {
        Ok(row) => Some(row.into()),
        Err(error) => {
            tracing::warn!(error = crate::chain(&error), "a parked sequence is left out");
            None
        }
    })
}

/// One sequence.
pub(crate) async fn one(
    store: &dyn RowStore,
    build: &Build,
    key: &str,
) -> Result<Option<Parked>, StoreError> {
    build.parked().get(store, key).await
}

/// The same, also of one whose row cannot be read.
pub(crate) async fn one_or_rest(
    store: &dyn RowStore,
    build: &Build,
    key: &str,
) -> Result<Option<Parked>, StoreError> {
    let Some(row) = store.rows(build.parked().name(), &[key.to_owned()]).await?.pop().flatten() else {
        return Ok(None);
    };
    match build.parked().decode(row.clone()) {
        Ok(sequence) => Ok(Some(sequence)),
        Err(_) => Ok(Some(rebuilt(store, build, row).await?)),
    }
}

/// Events of a sequence, each with its position.
pub(crate) type Places = Vec<(Row<ParkedEvent>, Position)>;

/// The positions of the events of a sequence, after one, at most `limit` of them.
pub(crate) async fn positions(
    store: &dyn RowStore,
    build: &Build,
    parked: &Parked,
    after: Position,
    limit: usize,
) -> Result<Places, StoreError> {
    let (prefix, after) = (prefix(parked), event_key(parked, after));
    Ok(placed(build.parked_events().below(store, &prefix, Some(&after), limit).await?))
}

/// The same of whole sequences, which are read together; `None` of one that may have `limit` events or more.
pub(crate) async fn whole_sequences(
    store: &dyn RowStore,
    build: &Build,
    sequences: &[&Parked],
    limit: usize,
) -> Result<Vec<Option<Places>>, StoreError> {
    let table = build.parked_events();
    let span = |parked: &&Parked| {
        let after = prefix(parked);
        Span { before: Some(behind(&after)), after, limit }
    };
    let spans: Vec<Span> = sequences.iter().map(span).collect();
    let whole = |page: Vec<StoredRow>| {
        let mut filling = Filling::shared(spans.len());
        let is_whole = page.iter().all(|row| filling.takes(row)) && !filling.is_full() && page.len() < limit;
        let rows = is_whole.then(|| page.into_iter().map(|row| table.decode(row)).collect());
        Ok(rows.transpose()?.map(placed))
    };
    store.scan_many(table.name(), &spans).await?.into_iter().map(whole).collect()
}

fn placed(rows: Vec<Row<ParkedEvent>>) -> Places {
    rows.into_iter().filter_map(|row| position_of(&row).map(|position| (row, position))).collect()
}

/// What a build leaves out for good of the events behind a position and up to another one.
pub(crate) async fn skips_between(
    store: &dyn RowStore,
    build: &Build,
    after: Position,
    through: Position,
) -> Result<Skips, StoreError> {
    let (table, mut skips) = (build.skipped(), Skips::new());
    let mut last = sortable(Position(after.0.saturating_add(1)));
    loop {
        let (page, more) = skipped_up_to(store, build, &last, through).await?;
        for row in page {
            last.clone_from(&row.key);
            match table.decode(row) {
                Ok(row) => leave_out(&mut skips, row.value),
                Err(error) => leave_out_unread(&mut skips, &last, &error),
            }
        }
        if !more {
            return Ok(skips);
        }
    }
}

/// A page of the rows of what a build leaves out for good, behind a key and up to a position; and whether there are more.
pub(crate) async fn skipped_up_to(
    store: &dyn RowStore,
    build: &Build,
    after: &str,
    through: Position,
) -> Result<(Vec<StoredRow>, bool), StoreError> {
    let before = Some(sortable(Position(through.0.saturating_add(1))));
    let span = Span { after: after.to_owned(), before, limit: PAGE };
    let page = store.scan_many(build.skipped().name(), &[span]).await?.pop().unwrap_or_default();
    let more = is_full(&page, PAGE);
    Ok((page, more))
}

/// The same, as a range leaves them out.
pub(crate) async fn skips(store: &dyn RowStore, build: &Build) -> Result<Skips, StoreError> {
    skips_between(store, build, Position(0), Position(u64::MAX)).await
}

fn leave_out(skips: &mut Skips, Skipped { position, key, reason, undecoded, .. }: Skipped) {
    if undecoded {
        skips.insert((position, ANY_KEY.to_owned()), reason.clone());
    }
    skips.insert((position, key), reason);
}

/// The same of a row that is damaged: its key says which event it is of.
fn leave_out_unread(skips: &mut Skips, row: &str, error: &StoreError) {
    let Some(position) = position_of_skip(row) else { return };
    tracing::warn!(row, error = crate::chain(error), "an event is left out, though its row cannot be read");
    skips.insert((position, row.to_owned()), UNREAD.to_owned());
}

/// Events that were left out for good.
pub(crate) async fn skipped(store: &dyn RowStore, build: &Build) -> Result<Vec<Skipped>, StoreError> {
    Ok(build.skipped().all(store).await?.into_iter().map(|row| row.value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;
    use crate::store::write_rows;

    #[tokio::test]
    async fn what_is_left_out_of_a_part_of_the_log_is_read_page_by_page() {
        let (backend, build) = (MemoryBackend::new(), Build::first("p/1"));
        let last = 3 * PAGE as u64;
        let skipped = |n| Skipped {
            position: Position(n),
            key: "a".to_owned(),
            reason: "as it is to".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            undecoded: false,
            discarded: false,
        };
        for n in 1..=last {
            let row = skip(&build, skipped(n)).unwrap();
            assert!(write_rows(&backend, vec![row]).await.unwrap().is_yes());
        }
        let (after, through) = (Position(10), Position(last - 10));
        let found = skips_between(&backend, &build, after, through).await.unwrap();
        let positions: Vec<u64> = found.into_keys().map(|(position, _)| position.0).collect();
        assert_eq!(positions, (11..=last - 10).collect::<Vec<_>>(), "more than two pages of them");
    }
}
