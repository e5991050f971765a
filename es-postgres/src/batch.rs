//! A batch of requests as the arguments of `append`, and its answer as outcomes.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use es_core::store::{
    Attempt, Commit, Committed, EventId, ExpectedVersion, Position, RowWrite, StoreError, StreamId, Version,
    envelope, is_hot, with_earlier,
};
use serde::Serialize;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::args::Arg;
use crate::resolve::named_at;
use crate::row::{number, signed};
use crate::stream_cache::{CachedStream, StreamCache};
use crate::types::Known;

/// What `append` is told. Requests and streams are counted from 1 there, from 0 here.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Those that get events, then the others.
    streams: Vec<Stream>,
    written: usize,
    claims: Vec<Claim>,
    /// Of each append of each request: the stream, and how many events of the batch it has by then.
    ends: Vec<Vec<(usize, u64)>>,
    /// Of each request: the number of its last event, from 1; `None` without events.
    last: Vec<Option<u64>>,
    events: Events,
    types: Types,
    /// Of the last event.
    last_id: Uuid,
    conditions: Vec<ConditionRow>,
    marks: Vec<MarkRow>,
    rows: Rows,
    names: Names,
    /// The set of inline projections that all requests with events name.
    inline: u64,
}

#[derive(Debug)]
struct Stream {
    name: StreamId,
    bounds: Bounds,
    /// The last event that its claims name, if one does.
    last: Option<EventId>,
    added: u64,
    /// The last event that is added.
    newest: Option<EventId>,
}

impl Stream {
    /// Whether what is known of it will do.
    fn is_at(&self, known: &CachedStream) -> bool {
        self.bounds.holds(known.version) && (self.last.is_none() || self.last == known.last)
    }
}

/// Where one request wants one stream.
#[derive(Debug)]
struct Claim {
    request: usize,
    stream: usize,
    bounds: Bounds,
    last: Option<EventId>,
}

/// The versions of a stream that will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    low: i64,
    high: i64,
}

impl Bounds {
    const ALL: Self = Self { low: 0, high: i64::MAX };
    const NONE: Self = Self { low: 1, high: 0 };

    /// Where the stream must be before the commit, of which `earlier` events come first.
    fn new(expected: ExpectedVersion, earlier: u64) -> Self {
        match expected {
            ExpectedVersion::Any => Self::ALL,
            ExpectedVersion::Exists if earlier > 0 => Self::ALL,
            ExpectedVersion::Exists => Self { low: 1, ..Self::ALL },
            ExpectedVersion::NoStream | ExpectedVersion::Exact(_) | ExpectedVersion::After(..) => {
                let version = expected.exact().unwrap_or_default().0;
                version.checked_sub(earlier).map_or(Self::NONE, |v| Self { low: signed(v), high: signed(v) })
            }
        }
    }

    fn and(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    const fn holds(self, version: i64) -> bool {
        self.low <= version && version <= self.high
    }
}

#[derive(Debug, Default)]
struct Events {
    streams: Vec<i32>,
    ranks: Vec<i32>,
    types: Vec<i32>,
    envelopes: Vec<Bytes>,
    data: Vec<Bytes>,
    tags: Vec<String>,
    tag_events: Vec<i32>,
}

#[derive(Debug, Serialize)]
struct ConditionRow {
    request: usize,
    after: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

#[derive(Debug, Serialize)]
struct MarkRow {
    request: usize,
    key: String,
    fingerprint: String,
    stream: String,
    version: i64,
    events: u32,
    refusal: Option<String>,
}

#[derive(Debug, Default)]
struct Rows {
    requests: Vec<i32>,
    tables: Vec<String>,
    keys: Vec<String>,
    revs: Vec<i64>,
    data: Vec<Option<Bytes>>,
    /// How many of them are hot: the last ones.
    hot: i32,
}

/// What the numbers of types stand for, each once.
#[derive(Debug, Default)]
struct Types {
    numbers: Vec<i32>,
    names: Vec<String>,
    schemas: Vec<i32>,
    codecs: Vec<String>,
}

impl Types {
    fn of(events: &Events, known: &Known) -> Self {
        let mut types = Self { numbers: events.types.clone(), ..Self::default() };
        types.numbers.sort_unstable();
        types.numbers.dedup();
        for kind in types.numbers.iter().filter_map(|number| known.kind(*number)) {
            types.names.push(kind.name.to_string());
            types.schemas.push(kind.schema.cast_signed());
            types.codecs.push(kind.codec.to_string());
        }
        types
    }
}

/// What attempts are called, and which of them need a witness: those that write something and no events.
#[derive(Debug, Default)]
struct Names {
    requests: Vec<i32>,
    named: Vec<Uuid>,
    witnesses: Vec<Uuid>,
    /// Whether one of them is called like the batch.
    unnamed: bool,
}

impl Names {
    fn add(&mut self, request: usize, attempt: Uuid) {
        if !attempt.is_nil() {
            self.requests.push(int(request + 1));
            self.named.push(attempt);
        }
    }

    fn witness(&mut self, attempt: Uuid) {
        if attempt.is_nil() {
            self.unnamed = true;
        } else {
            self.witnesses.push(attempt);
        }
    }
}

/// How many arguments of `append` are always given, in order.
pub(crate) const FIRST: usize = 16;
/// Arguments that come behind those, by their names: what the asker has decided on.
pub(crate) const PROOF: [&str; 5] = ["lasts", "type_numbers", "type_names", "type_schemas", "type_codecs"];

/// Whether the store still has the history of this token; to be called beside `append`.
pub(crate) fn same_history(token: i64) -> String {
    format!("{{es}}.same_history({token})")
}

/// A call of `append` with these, each as SQL says it.
pub(crate) fn call(args: &[String]) -> String {
    let (first, rest) = args.split_at(FIRST);
    let (proof, rest) = rest.split_at(PROOF.len());
    let named = PROOF.iter().zip(proof).map(|(name, arg)| format!("{name} => {arg}"));
    first.iter().chain(rest).cloned().chain(named).collect::<Vec<_>>().join(", ")
}

impl Batch {
    /// The types of the events must be known.
    pub(crate) fn new(commits: &[&Commit], types: &Known) -> Self {
        let mut batch = Self::default();
        let mut index = HashMap::new();
        // Streams that get events come first.
        let appends = commits.iter().flat_map(|c| &c.appends);
        let written = appends.clone().filter(|a| !a.events.is_empty()).map(|a| &a.stream);
        written.for_each(|stream| batch.name(&mut index, stream));
        batch.written = batch.streams.len();
        let looked_at =
            appends.map(|a| &a.stream).chain(commits.iter().flat_map(|c| &c.checks).map(|c| &c.stream));
        looked_at.for_each(|stream| batch.name(&mut index, stream));
        for (request, commit) in commits.iter().enumerate() {
            batch.add(request, commit, &index, types);
        }
        batch.rows = Rows::of(commits);
        batch.types = Types::of(&batch.events, types);
        batch
    }

    /// A transaction of the user's own: what it wrote itself needs a witness as well, and `append` sees whether it has.
    pub(crate) fn of_transaction(staged: &Commit, types: &Known) -> Self {
        let mut batch = Self::new(&[staged], types);
        if staged.only_looks() {
            batch.names.witness(staged.attempt);
        }
        batch
    }

    fn name<'c>(&mut self, index: &mut HashMap<&'c StreamId, usize>, stream: &'c StreamId) {
        index.entry(stream).or_insert_with(|| {
            let name = stream.clone();
            self.streams.push(Stream { name, bounds: Bounds::ALL, last: None, added: 0, newest: None });
            self.streams.len() - 1
        });
    }

    fn add(&mut self, request: usize, commit: &Commit, index: &HashMap<&StreamId, usize>, types: &Known) {
        let Commit { appends, checks, condition, outcomes, rows: _, inline, explain: _, attempt } = commit;
        for check in checks {
            self.claim(request, index[&check.stream], check.expected, 0);
        }
        let mut ends = Vec::with_capacity(appends.len());
        for (append, earlier) in with_earlier(appends) {
            let stream = index[&append.stream];
            self.claim(request, stream, append.expected, earlier.events);
            for event in &append.events {
                let id = types.id(event).expect("types are provided before");
                let number = self.events.add(stream, &mut self.streams[stream].added, id, event);
                self.streams[stream].newest = Some(event.id);
                self.events.tag(number, event);
                self.last_id = event.id;
            }
            ends.push((stream, self.streams[stream].added));
        }
        self.ends.push(ends);
        let any = appends.iter().any(|a| !a.events.is_empty());
        if any {
            self.inline = *inline;
        }
        self.last.push(any.then_some(self.events.streams.len() as u64));
        self.names.add(request, *attempt);
        if commit.needs_witness(false) {
            self.names.witness(*attempt);
        }
        if let Some(condition) = condition {
            let items = condition.fail_if_events_match.items();
            let row = |types, tags| ConditionRow {
                request: request + 1,
                after: signed(condition.after.0),
                types,
                tags,
            };
            if items.is_empty() {
                self.conditions.push(row(Vec::new(), Vec::new()));
            }
            self.conditions.extend(items.iter().map(|item| {
                let types = item.types().iter().map(ToString::to_string).collect();
                row(types, item.tags().iter().map(|tag| tag.as_str().to_owned()).collect())
            }));
        }
        for mark in outcomes {
            let outcome = &mark.outcome;
            self.marks.push(MarkRow {
                request: request + 1,
                key: mark.key.as_str().to_owned(),
                fingerprint: format!("{:032x}", outcome.fingerprint),
                stream: outcome.stream.as_str().to_owned(),
                version: signed(outcome.version.0),
                events: outcome.events,
                refusal: outcome.refusal.as_ref().map(|bytes| hex(bytes)),
            });
        }
    }

    /// `earlier`: how many events the same request has added to the stream before this.
    fn claim(&mut self, request: usize, stream: usize, expected: ExpectedVersion, earlier: u64) {
        let of = &mut self.streams[stream];
        let (mut bounds, mut last) = (Bounds::new(expected, earlier), expected.event());
        if last.is_some() && earlier > 0 {
            // It is one of the request's own.
            bounds = if last == of.newest { bounds } else { Bounds::NONE };
            last = None;
        }
        let agree = last.is_none() || of.last.is_none() || last == of.last;
        of.last = of.last.or(last);
        of.bounds = of.bounds.and(if agree { bounds } else { Bounds::NONE });
        self.claims.push(Claim { request, stream, bounds, last });
    }

    /// The arguments of `append`: the first ones in order, then the [`PROOF`], then the others in order. Those at the end
    /// that stand for nothing are left out.
    pub(crate) fn args(self, attempt: Uuid, at: Option<i64>, known: &StreamCache) -> (Vec<Arg>, Pending) {
        // Sent also where no place is: if it still holds, what is known of other streams does.
        let (stamp, places) = (known.stamp, self.known(known));
        let Self {
            streams,
            written,
            claims,
            ends,
            last,
            events,
            types,
            last_id,
            conditions,
            marks,
            rows,
            names: Names { requests, named, mut witnesses, unnamed },
            inline,
        } = self;
        witnesses.extend(unnamed.then_some(attempt));
        let names = |streams: &[Stream]| streams.iter().map(|s| s.name.as_str().to_owned()).collect();
        let mut args = vec![
            Arg::Uuid(Some(attempt)),
            Arg::Long(at),
            Arg::Long(Some(signed(inline))),
            Arg::Int(int(written)),
            Arg::Texts((!streams.is_empty()).then(|| names(&streams))),
            Arg::Longs(streams.iter().map(|s| s.bounds.low).collect()),
            Arg::Longs(streams.iter().map(|s| s.bounds.high).collect()),
            Arg::Long(stamp.map(|(position, _)| position)),
            Arg::Uuid(stamp.map(|(_, id)| id)),
            Arg::MaybeLongs(stamp.map(|_| places.iter().map(|p| p.map(|p| p.id)).collect())),
            Arg::MaybeLongs(stamp.map(|_| places.iter().map(|p| p.map(|p| p.version)).collect())),
            Arg::Ints(events.streams),
            Arg::Ints(events.ranks),
            Arg::Ints(events.types),
            Arg::Bytes(events.envelopes),
            Arg::Bytes(events.data),
            Arg::MaybeUuids(
                streams.iter().any(|s| s.last.is_some()).then(|| streams.iter().map(|s| s.last).collect()),
            ),
            Arg::Ints(types.numbers),
            Arg::Texts(Some(types.names)),
            Arg::Ints(types.schemas),
            Arg::Texts(Some(types.codecs)),
        ];
        let rest = [
            Arg::Texts((!events.tags.is_empty()).then_some(events.tags)),
            Arg::Ints(events.tag_events),
            Arg::json(&conditions),
            Arg::json(&marks),
            Arg::Ints(rows.requests),
            Arg::Texts((!rows.tables.is_empty()).then_some(rows.tables)),
            Arg::Texts(Some(rows.keys)),
            Arg::Longs(rows.revs),
            Arg::MaybeBytes(rows.data),
            Arg::Ints(requests),
            Arg::Uuids(named),
            Arg::Uuids(witnesses.clone()),
            Arg::MaybeLongs(
                (!witnesses.is_empty()).then(|| witnesses.iter().map(|w| named_at(*w)).collect()),
            ),
            Arg::Int(rows.hot),
        ];
        if rest.iter().any(|arg| !arg.is_nothing()) {
            args.extend(rest);
        }
        (args, Pending { streams, claims, ends, last, places, last_id })
    }

    /// What is known of the streams, if it will do: what would refuse a request is looked up.
    fn known(&self, known: &StreamCache) -> Vec<Option<CachedStream>> {
        let places: Vec<Option<CachedStream>> =
            self.streams.iter().map(|stream| known.get(&stream.name)).collect();
        let fit = places.iter().zip(&self.streams).all(|(p, s)| p.is_none_or(|p| s.is_at(&p)));
        if fit { places } else { vec![None; places.len()] }
    }
}

impl Rows {
    /// In the order of tables and keys, hot tables after the others, which are in a table of their own: no two writers of
    /// rows wait for each other.
    fn of(commits: &[&Commit]) -> Self {
        let numbered = (1..)
            .zip(commits)
            .flat_map(|(request, commit)| commit.rows.iter().map(move |row| (request, row)));
        let mut writes: Vec<(usize, &RowWrite)> = numbered.collect();
        writes.sort_by(|(_, a), (_, b)| {
            (is_hot(&a.table), &a.table, &a.key).cmp(&(is_hot(&b.table), &b.table, &b.key))
        });
        let mut rows = Self::default();
        for (request, RowWrite { table, key, rev, row }) in writes {
            rows.requests.push(int(request));
            rows.tables.push(table.to_string());
            rows.keys.push(key.clone());
            rows.revs.push(signed(*rev));
            rows.data.push(row.clone());
            rows.hot += i32::from(is_hot(table));
        }
        rows
    }
}

/// The rows of a commit as the arguments of `write_staged`.
pub(crate) fn rows(commit: &Commit) -> [Arg; 5] {
    let Rows { requests: _, tables, keys, revs, data, hot } = Rows::of(&[commit]);
    [Arg::Texts(Some(tables)), Arg::Texts(Some(keys)), Arg::Longs(revs), Arg::MaybeBytes(data), Arg::Int(hot)]
}

impl Events {
    /// Gives the number of the event, from 1.
    fn add(&mut self, stream: usize, rank: &mut u64, kind: i32, event: &es_core::store::NewEvent) -> i32 {
        *rank += 1;
        let mut packed = Vec::with_capacity(49);
        envelope::pack(event, &mut packed);
        self.streams.push(int(stream + 1));
        self.ranks.push(int(usize::try_from(*rank).unwrap_or(usize::MAX)));
        self.types.push(kind);
        self.envelopes.push(packed.into());
        self.data.push(event.data.clone());
        int(self.streams.len())
    }

    /// An event may name a tag twice.
    fn tag(&mut self, number: i32, event: &es_core::store::NewEvent) {
        for (i, tag) in event.tags.iter().enumerate() {
            if !event.tags[..i].contains(tag) {
                self.tags.push(tag.as_str().to_owned());
                self.tag_events.push(number);
            }
        }
    }
}

/// What is needed to understand the answer.
#[derive(Debug)]
pub(crate) struct Pending {
    streams: Vec<Stream>,
    claims: Vec<Claim>,
    ends: Vec<Vec<(usize, u64)>>,
    last: Vec<Option<u64>>,
    places: Vec<Option<CachedStream>>,
    last_id: Uuid,
}

/// What `append` answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All of them were written, in order; and the head from now on, 0 if no event was.
    Written(Vec<Committed>, Position),
    /// Nothing was written; whether each request was refused.
    Refused(Vec<bool>),
}

impl Pending {
    /// The answer, and what is known from now on.
    pub(crate) fn answer(self, row: &PgRow, known: &mut StreamCache) -> Result<Answer, sqlx::Error> {
        let head = number(row.try_get("head")?);
        let written: bool = row.try_get("written")?;
        if !row.try_get::<bool, _>("known")? {
            known.forget();
        }
        let places = match row.try_get::<Option<Vec<i64>>, _>("versions")? {
            Some(versions) => {
                let ids: Vec<Option<i64>> = row.try_get("ids")?;
                let stored = |((id, version), stream): ((Option<i64>, i64), &Stream)| {
                    let id = id.unwrap_or_default();
                    if version < 0 {
                        CachedStream { id, version: -1 - version, last: None }
                    } else {
                        CachedStream { id, version, last: stream.last }
                    }
                };
                ids.into_iter().zip(versions).zip(&self.streams).map(stored).collect()
            }
            None => self.places.into_iter().flatten().collect::<Vec<_>>(),
        };
        if !written {
            let mut refused = vec![false; self.last.len()];
            // What was refused before the streams were looked at says nothing of them.
            let holds = |claim: &Claim| {
                places.get(claim.stream).filter(|_| places.len() == self.streams.len()).is_none_or(|place| {
                    claim.bounds.holds(place.version) && (claim.last.is_none() || claim.last == place.last)
                })
            };
            for claim in self.claims.iter().filter(|claim| !holds(claim)) {
                refused[claim.request] = true;
            }
            if row.try_get("outdated")? {
                refused.iter_mut().zip(&self.last).for_each(|(refused, last)| *refused |= last.is_some());
            }
            for request in row.try_get::<Option<Vec<i32>>, _>("refused")?.unwrap_or_default() {
                refused[usize::try_from(request - 1).map_err(|e| sqlx::Error::Decode(e.into()))?] = true;
            }
            return Ok(Answer::Refused(refused));
        }
        let outcome = |(ends, last): (Vec<(usize, u64)>, Option<u64>)| Committed {
            position: Position(head + last.unwrap_or_default()),
            versions: ends.into_iter().map(|(s, added)| Version(number(places[s].version) + added)).collect(),
        };
        let end = self.last.iter().filter_map(|last| *last).max().map_or(0, |last| head + last);
        let outcomes = self.ends.into_iter().zip(self.last).map(outcome).collect();
        if end > 0 {
            known.stamp = Some((signed(end), self.last_id));
            for (Stream { name, added, newest, .. }, place) in
                self.streams.into_iter().zip(places).filter(|(_, p)| p.id > 0)
            {
                let (version, last) = (place.version + signed(added), newest.or(place.last));
                known.learn(name, CachedStream { version, last, ..place });
            }
        }
        Ok(Answer::Written(outcomes, Position(end)))
    }
}

/// For how long `append` has waited for the gate, if it needed it. What was said in a transaction is empty in the next one.
pub(crate) fn waited(row: &PgRow) -> Option<Duration> {
    let micros = row.try_get::<Option<String>, _>("waited").ok()??;
    micros.parse().ok().map(Duration::from_micros)
}

/// What a commit of a batch is called: by its own name, if it has one.
pub(crate) fn attempt(batch: Uuid, commit: &Commit) -> Attempt {
    let id = if commit.attempt.is_nil() { batch } else { commit.attempt };
    Attempt::of(id, commit)
}

/// Bytes of one commit at most: the server takes no message of a gigabyte, and text doubles what is sent with a COMMIT.
const MAX_BYTES: usize = 256 << 20;

/// Refuses what cannot be sent.
pub(crate) fn check(commit: &Commit) -> Result<(), StoreError> {
    let size = size(commit);
    if size <= MAX_BYTES {
        return Ok(());
    }
    let what = format!("the commit has {size} bytes, over the limit of {MAX_BYTES}: commit it in parts");
    Err(StoreError::misuse(what))
}

/// About how many bytes a commit is on its way: what can be large of it.
pub(crate) fn size(commit: &Commit) -> usize {
    let Commit { appends, checks: _, condition: _, outcomes, rows, inline: _, explain: _, attempt: _ } =
        commit;
    let events = appends.iter().flat_map(|a| &a.events).map(|event| {
        // They are in an index as well.
        let tags: usize = event.tags.iter().map(|tag| tag.as_str().len()).sum();
        event.size() + tags
    });
    let marks = outcomes.iter().map(|mark| mark.outcome.refusal.as_ref().map_or(0, |bytes| 2 * bytes.len()));
    let rows = rows.iter().map(|write| write.key.len() + write.row.as_ref().map_or(0, Bytes::len));
    events.chain(marks).chain(rows).sum()
}

/// A count that the limits keep small.
fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use es_core::store::kinds::{Kind, Kinds};
    use es_core::store::{Append, NewEvent};

    use super::*;
    use crate::admission::Admission;

    #[test]
    fn eight_times_as_many_appends_are_not_prepared_in_sixty_times_the_time() {
        let event = |i: usize| NewEvent {
            id: Uuid::from_u128(i as u128 + 1),
            name: "done".into(),
            schema: 1,
            codec: "json".into(),
            data: "{}".into(),
            tags: Vec::new(),
            metadata: Arc::default(),
        };
        let kinds = Kinds::<i32>::default();
        kinds.learn(1, Kind::of(&event(0)));
        let time = |appends: usize| {
            let append = |i| Append {
                stream: StreamId::new(format!("s-{i}")).unwrap(),
                expected: ExpectedVersion::NoStream,
                events: vec![event(i)],
            };
            let commit = Commit { appends: (0..appends).map(append).collect(), ..Commit::default() };
            let once = |_| {
                let began = Instant::now();
                assert!(Admission::new([&commit].into_iter()).admits(&commit));
                assert_eq!(Batch::new(&[&commit], &kinds.known()).events.data.len(), appends);
                began.elapsed()
            };
            (0..7).map(once).min().unwrap()
        };
        let (few, many) = (time(1_000), time(8_000));
        assert!(many < few * 30, "{few:?} and {many:?}");
    }
}
