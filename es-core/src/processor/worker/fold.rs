//! What a worker handles next, and the handling of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::failure::StepError;
use super::run::{IDLE_TIME, Open, POLL, Step, Worker};
use crate::limits::MAX_PAGE;
use crate::processor::feed::SharedPage;
use crate::processor::kinds::admission::{Admission, Failure, LeftOut};
use crate::processor::kinds::runner::{Runner, Session};
use crate::processor::parked::{ANY_KEY, Skips, is_for_any, is_unread};
use crate::slices::Slices;
use crate::state::Undecoded;
use crate::store::{EventFilter, EventStore, Position, RecordedEvent, StoreError};

/// How many positions without a match may pass before the checkpoint is moved over them; over fewer after
/// [`IDLE_TIME`].
const IDLE_MOVE: u64 = 1_000;
/// What may be folded before it is flushed: events, rows, time.
const FOLD: (usize, usize, std::time::Duration) = (100_000, 10_000, std::time::Duration::from_secs(2));
/// How many events are folded first where each may bring a row of whatever size.
const FIRST_FOLD: usize = 16;
/// How long a build that is not read any more waits for the one that is.
pub(super) const FOLLOW: std::time::Duration = std::time::Duration::from_millis(50);

/// What bounds a handful of events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Everything up to here is folded.
    pub(super) seen: Position,
    /// How far the build may go at all.
    pub(super) bound: Position,
    /// Where the replay ends.
    pub(super) replay: Position,
    /// The event that failed: up to it, then it alone.
    pub(super) trouble: Option<Position>,
    /// How many events at once; less than `page` after a flush that failed.
    pub(super) limit: usize,
    pub(super) page: usize,
    /// How many bytes of payload at once, about.
    pub(super) bytes: usize,
    /// How many events at once by the rows that they are likely to bring.
    pub(super) fits: usize,
}

/// How many events are folded at once, so that the rows which they bring fit into memory: known once some were folded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fits(pub(crate) usize);

impl Default for Fits {
    fn default() -> Self {
        Self(FIRST_FOLD)
    }
}

impl Fits {
    /// So many events have brought so many bytes. Never more than twice as many: the next rows may be larger.
    pub(crate) fn learn(&mut self, events: usize, brought: usize, most: usize) {
        let fitting = events.saturating_mul(most) / brought.max(1);
        let upto = if events < self.0 { self.0 } else { 2 * self.0 };
        self.0 = fitting.clamp(1, upto.min(MAX_PAGE));
    }
}

/// What is handled at once.
#[derive(Debug)]
pub(super) struct Next<'p> {
    pub(super) events: Vec<&'p RecordedEvent>,
    /// Everything up to here is done with it.
    pub(super) through: Position,
    /// Where to continue in the page, if there is more of it.
    pub(super) rest: Option<usize>,
    /// Whether it ends because the build that is read has come no further.
    pub(super) bounded: bool,
    /// Whether nothing asks for small steps.
    pub(super) whole: bool,
}

/// The next events of a page, of which some are done: not past what failed, the end of the replay, or the bound.
pub(super) fn next<'p>(
    page: &'p SharedPage,
    done: usize,
    at: &Bounds,
    wants: impl Fn(&RecordedEvent) -> bool,
) -> Next<'p> {
    let mut end = at.bound;
    let replay = at.seen < at.replay;
    if replay {
        end = end.min(at.replay);
    }
    let (mut limit, mut whole) = (at.limit.clamp(1, at.page), at.limit >= at.page);
    if let Some(trouble) = at.trouble {
        whole = false;
        if at.seen.0 + 1 < trouble.0 {
            end = end.min(Position(trouble.0 - 1));
        } else {
            (end, limit) = (end.min(trouble), 1);
        }
    }
    let (mut events, mut rest, mut bytes) = (Vec::new(), None, 0);
    for (i, event) in page.events(replay).iter().enumerate().skip(done) {
        let full = events.len() == limit.min(at.fits) || bytes > 0 && bytes + event.data.len() > at.bytes;
        if event.place() > end || full {
            rest = Some(i);
            break;
        }
        if wants(event) {
            bytes += event.data.len();
            events.push(event);
        }
    }
    let through = match rest {
        Some(i) if page.events[i].place() > end => end,
        Some(_) => events.last().map_or(at.seen, |event: &&RecordedEvent| event.place()),
        None => page.through.min(end),
    };
    let bounded = through >= at.bound && at.bound < page.through;
    // Before the end of what is bounded, the page is asked for again: then there may be more of it.
    let rest = rest.filter(|_| !bounded);
    let cut = through < page.through && rest.is_none() && !bounded;
    let rest = if cut { Some(page.events.len()) } else { rest };
    Next { events, through, rest, bounded, whole }
}

impl Worker {
    /// Handles what comes next of a page, of whose events some are done.
    pub(super) async fn take(
        &mut self,
        page: &Arc<SharedPage>,
        done: usize,
        bound: Position,
    ) -> Result<Step, StepError> {
        let started = Instant::now();
        let at = self.bounds(bound);
        let context = self.context.clone();
        let next = next(page, done, &at, |event| context.wants(event));
        let n_handled = self.fold(&next.events, next.through).await?;
        let open = self.open.as_mut().expect("only asked while it is open");
        let (through, rest) = match next.events.get(n_handled) {
            None => (next.through, next.rest),
            Some(next) => {
                let rest = page.events.partition_point(|event| event.place() < next.place());
                (Position(next.place().0 - 1), Some(rest))
            }
        };
        open.seen = through.max(open.seen);
        let more = match rest {
            Some(done) => {
                open.page = Some((page.clone(), done));
                true
            }
            None => page.more && !next.bounded,
        };
        let gap = open.seen.0 - self.share.progress.position.0;
        let (seen, worked) = (open.seen, open.folded > 0);
        let waited_for = next.bounded && self.context.is_held() && gap > 0;
        let fits = open.session.bytes() < context.options.bytes;
        let folds_on = self.context.folds() && next.whole && more && fits;
        let flushes = waited_for || is_due(open, gap, folds_on);
        if flushes && worked && self.flushes_with_due() {
            self.open.as_mut().expect("it is open").flushes_with_due = true;
        } else {
            if flushes {
                self.flush().await?;
            }
            // What is not durable has yet to go well, also if it is only a place.
            if flushes || gap == 0 {
                self.went_well();
            }
            self.show_at(self.state(), seen);
        }
        Ok(match (more, worked) {
            (true, _) => Step::More,
            (false, _) if next.bounded => Step::Rest(FOLLOW),
            // Under load, as long as the page took: so at most half of the time goes into small pages, and they grow.
            (false, true) => Step::Rest(started.elapsed().min(POLL / 2)),
            // It may have been read for another processor, some time ago.
            (false, false) if !page.events.is_empty() => Step::More,
            (false, false) if gap > 0 && !flushes => Step::Idle(Some(IDLE_TIME)),
            (false, false) => Step::Idle(None),
        })
    }

    fn bounds(&self, bound: Position) -> Bounds {
        Bounds {
            seen: self.open().seen,
            bound,
            replay: self.share.progress.replay,
            trouble: self.trouble.as_ref().map(|trouble| trouble.position),
            limit: self.limit,
            page: self.context.execution.page,
            bytes: self.context.options.bytes,
            fits: if self.context.folds() { self.open().fits.0 } else { usize::MAX },
        }
    }

    /// Handles these, or the first of them; how many.
    ///
    /// A handler of SQL holds the one writer of an embedded store: when the first of them have held it for long enough, the
    /// others wait for the next transaction. When the worker is stopped, too: then they are left to the next owner.
    async fn fold(&mut self, events: &[&RecordedEvent], through: Position) -> Result<usize, StepError> {
        if events.is_empty() {
            return Ok(0);
        }
        let skips = self.context.skips(events, self.open().seen, through).await?;
        let started = Instant::now();
        self.crowd = events.len() > 1;
        let open = self.open.as_mut().expect("only asked while it is open");
        open.skips.extend(skips.clone());
        let mut admission = Admission::of_range(self.share.slices, &open.parked, &open.skips);
        let span = tracing::debug_span!(
            "es.processor.fold",
            build = %self.context.build,
            slices = %self.share.slices,
            events = events.len(),
            through = through.0,
        );
        let before = open.session.bytes();
        // One by one, where it is bounded how long they take together.
        let holds = self.context.holds();
        let step = if holds.is_some() { 1 } else { events.len() };
        let folding = async {
            let mut n_handled = 0;
            for events in events.chunks(step) {
                match open.session.fold(events, &mut admission).await {
                    Ok(()) => n_handled += events.len(),
                    Err(failure) if failure.is_interruption() => {
                        n_handled += events.partition_point(|event| event.place() < failure.position);
                        break;
                    }
                    Err(failure) => return Err(failure),
                }
                let held = open.session.held().unwrap_or_else(|| started.elapsed());
                if holds.is_some_and(|longest| held >= longest) || self.stop.is_cancelled() {
                    break;
                }
            }
            Ok(n_handled)
        };
        let n_handled = folding.instrument(span).await.map_err(StepError::Handler)?;
        let brought = open.session.bytes().saturating_sub(before);
        open.fits.learn(n_handled, brought, self.context.options.bytes);
        let is_handled = |position| events.get(n_handled).is_none_or(|event| position < event.place());
        let slices = self.share.slices;
        let passed = admission.undecoded();
        open.undecoded.extend(undecoded(passed, &events[..n_handled], slices, &*self.context.runner));
        let told = told_elsewhere(&skips, &events[..n_handled], slices, &*self.context.runner);
        open.elsewhere.extend(told);
        let mut left_out = admission.left_out();
        left_out.extend(left_out_elsewhere(&skips, slices, &left_out));
        open.left_out.extend(left_out.into_iter().filter(|left| is_handled(left.position)));
        let Some(last) = events[..n_handled].last() else { return Ok(0) };
        if open.folded == 0 {
            open.since = started;
        }
        open.folded += n_handled;
        open.last = Some((*last).clone());
        Ok(n_handled)
    }
}

/// What is noted of events that were handled together, and passed undecoded, each with a guess of its key.
fn undecoded<'p>(
    passed: Vec<(Position, String)>,
    handled: &'p [&RecordedEvent],
    slices: Slices,
    runner: &'p dyn Runner,
) -> impl Iterator<Item = (Position, Undecoded)> + 'p {
    passed.into_iter().filter_map(move |(position, key)| {
        let at = handled.binary_search_by_key(&position, |event| event.place()).ok()?;
        let untold = runner.keys(handled[at]).is_ok();
        Some((position, Undecoded { key, first: slices.first, last: slices.last, untold }))
    })
}

/// What the build that is read leaves out for keys which are not met here: the next build is to know it too.
fn left_out_elsewhere(skips: &Skips, slices: Slices, met: &[LeftOut]) -> Vec<LeftOut> {
    let met: BTreeSet<_> = met.iter().map(|left| (left.position, &*left.key)).collect();
    let of_range = skips.keys().filter(|(_, key)| key != ANY_KEY && slices.has(key));
    let is_key = |(position, key): &&(Position, String)| !is_unread(*position, key);
    let elsewhere = of_range.filter(is_key).filter(|(position, key)| !met.contains(&(*position, key)));
    let left_out = |(position, key): &(Position, String)| LeftOut {
        key: key.clone(),
        position: *position,
        parked: false,
        undecoded: false,
    };
    elsewhere.map(left_out).collect()
}

/// What this range says that it is left out, under a key that the event may not have any more: each with a key that it has, of
/// another range. That one may have handled it before it was left out.
fn told_elsewhere(
    skips: &Skips,
    handled: &[&RecordedEvent],
    slices: Slices,
    runner: &dyn Runner,
) -> Vec<(String, Position)> {
    let told = skips
        .keys()
        .filter(|(position, key)| key != ANY_KEY && slices.has(key) && is_for_any(skips, *position));
    let told: BTreeSet<Position> = told.map(|(position, _)| *position).collect();
    let of_event = |event: &&RecordedEvent| {
        let (position, keys) = (event.place(), runner.keys(event).unwrap_or_default());
        keys.into_iter().filter(move |key| !slices.has(key)).map(move |key| (key, position))
    };
    handled.iter().filter(|event| told.contains(&event.place())).flat_map(of_event).collect()
}

/// Whether what was folded is flushed now.
fn is_due(open: &Open, gap: u64, folds_on: bool) -> bool {
    if open.folded > 0 {
        let (events, rows, time) = FOLD;
        return !folds_on
            || open.folded >= events
            || open.session.waiting() >= rows
            || open.since.elapsed() >= time;
    }
    gap >= IDLE_MOVE || gap > 0 && open.flushed.elapsed() >= IDLE_TIME
}

/// A part of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch<'s> {
    pub(crate) filter: &'s EventFilter,
    /// Behind this position.
    pub(crate) after: Position,
    /// Up to this one.
    pub(crate) end: Position,
    /// How many events are read at once.
    pub(crate) page: usize,
    /// Events up to here are delivered as those of a replay.
    pub(crate) replay: Position,
}

/// How far a part of the log was folded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folded {
    pub(crate) through: Position,
    pub(crate) events: usize,
    /// Whether there is more of it now.
    pub(crate) more: bool,
}

/// Reads the next page of a part of the log and folds it.
pub(crate) async fn fold_between(
    store: &dyn EventStore,
    session: &mut dyn Session,
    stretch: Stretch<'_>,
    admission: &mut Admission<'_>,
) -> Result<Result<Folded, Failure>, StoreError> {
    let Stretch { filter, after, end, page, replay } = stretch;
    let mut page = store.read(filter, after, page).await?;
    page.events.retain(|event| event.place() <= end);
    page.events.iter_mut().for_each(|event| event.replay = event.place() <= replay);
    let events: Vec<&RecordedEvent> = page.events.iter().collect();
    let through = page.through.min(end);
    let folded = Folded { through, events: events.len(), more: page.more && through < end };
    Ok(session.fold(&events, admission).await.map(|()| folded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Page;

    const FAR: Position = Position(u64::MAX);

    /// A page of one-byte events at these positions, that looked so far.
    fn page(positions: &[u64], through: u64) -> SharedPage {
        let event = |position: &u64| {
            let event = crate::store::NewEvent {
                id: crate::id::Ids::default().next(),
                name: "noted".into(),
                schema: 1,
                codec: "json".into(),
                data: "1".into(),
                tags: Vec::new(),
                metadata: Arc::default(),
            };
            let stream = crate::StreamId::new(format!("s-{position}")).unwrap();
            let at = crate::Timestamp::UNIX_EPOCH;
            event.into_recorded(stream, crate::Version(1), Some(Position(*position)), at)
        };
        let events = positions.iter().map(event).collect();
        SharedPage::new(Position(0), Page { events, through: Position(through), more: false }, false)
    }

    fn at(seen: u64) -> Bounds {
        let (seen, bound, replay) = (Position(seen), FAR, Position(0));
        Bounds { seen, bound, replay, trouble: None, limit: 100, page: 100, bytes: usize::MAX, fits: 100 }
    }

    /// What is handled: the positions, how far that goes, where the page continues, whether it is bounded.
    fn taken(page: &SharedPage, done: usize, at: &Bounds) -> (Vec<u64>, u64, Option<usize>, bool) {
        let next = next(page, done, at, |event| !event.place().0.is_multiple_of(10));
        let events = next.events.iter().map(|event| event.place().0).collect();
        (events, next.through.0, next.rest, next.bounded)
    }

    #[test]
    fn a_page_is_handled_whole_unless_something_bounds_it() {
        let page = page(&[2, 3, 10, 12, 15], 20);
        assert_eq!(taken(&page, 0, &at(0)), (vec![2, 3, 12, 15], 20, None, false), "10 is not wanted");
        assert_eq!(taken(&page, 3, &at(10)), (vec![12, 15], 20, None, false), "a part was done");
        let limit = Bounds { limit: 2, ..at(0) };
        assert_eq!(taken(&page, 0, &limit), (vec![2, 3], 3, Some(2), false));
        let bytes = Bounds { bytes: 3, ..at(0) };
        assert_eq!(taken(&page, 0, &bytes), (vec![2, 3, 12], 12, Some(4), false));
        let tiny = Bounds { bytes: 0, ..at(0) };
        assert_eq!(taken(&page, 0, &tiny), (vec![2], 2, Some(1), false), "at least one");
        let large = Bounds { fits: 2, ..at(0) };
        assert_eq!(taken(&page, 0, &large), (vec![2, 3], 3, Some(2), false));
        assert!(next(&page, 0, &large, |_| true).whole, "nothing is flushed for that");
    }

    #[test]
    fn as_many_events_are_folded_as_bring_rows_that_fit() {
        let mut fits = Fits(16);
        fits.learn(16, 0, 100);
        assert_eq!(fits.0, 32, "what brings nothing fits; still it grows step by step");
        fits.learn(3, 3, 100);
        assert_eq!(fits.0, 32, "few that fit say nothing of many");
        fits.learn(32, 800, 100);
        assert_eq!(fits.0, 4);
        fits.learn(4, 4_000, 100);
        assert_eq!(fits.0, 1, "at least one");
        for _ in 0..100 {
            fits.learn(fits.0, 0, 100);
        }
        assert_eq!(fits.0, MAX_PAGE);
    }

    #[test]
    fn a_page_goes_on_behind_a_position_that_it_covers() {
        let page = page(&[2, 3, 12], 20);
        let behind = |position| page.behind(Position(position));
        assert_eq!(
            [behind(0), behind(2), behind(7), behind(12), behind(20)],
            [Some(0), Some(1), Some(2), None, None]
        );
        let later =
            SharedPage::new(Position(1), Page { events: page.events.clone(), ..Page::default() }, false);
        assert_eq!(later.behind(Position(0)), None, "there may be events before it");
    }

    #[test]
    fn a_replay_ends_where_it_ends() {
        let page = page(&[2, 3, 12], 20);
        let replay = Bounds { replay: Position(5), ..at(0) };
        assert_eq!(taken(&page, 0, &replay), (vec![2, 3], 5, Some(2), false));
        assert!(next(&page, 0, &replay, |_| true).events.iter().all(|event| event.replay));
        assert_eq!(taken(&page, 2, &Bounds { seen: Position(5), ..replay }), (vec![12], 20, None, false));
        assert!(!next(&page, 2, &Bounds { seen: Position(5), ..replay }, |_| true).events[0].replay);
        let beyond = Bounds { replay: Position(50), ..at(0) };
        assert_eq!(taken(&page, 0, &beyond), (vec![2, 3, 12], 20, None, false));
    }

    #[test]
    fn what_failed_is_handled_alone_and_after_what_comes_before_it() {
        let page = page(&[2, 3, 12, 15], 20);
        let trouble = Bounds { trouble: Some(Position(12)), ..at(0) };
        assert_eq!(taken(&page, 0, &trouble), (vec![2, 3], 11, Some(2), false));
        let alone = Bounds { seen: Position(11), ..trouble };
        assert_eq!(taken(&page, 2, &alone), (vec![12], 12, Some(3), false));
        assert!(!next(&page, 2, &alone, |_| true).whole);
    }

    #[test]
    fn a_build_that_follows_stops_where_the_other_one_is() {
        let page = page(&[2, 3, 12, 15], 20);
        let bound = |bound: u64, seen: u64| Bounds { bound: Position(bound), ..at(seen) };
        assert_eq!(taken(&page, 0, &bound(3, 0)), (vec![2, 3], 3, None, true), "the page is asked for again");
        assert_eq!(taken(&page, 0, &bound(1, 1)), (vec![], 1, None, true));
        assert_eq!(taken(&page, 0, &bound(20, 0)), (vec![2, 3, 12, 15], 20, None, false));
        assert_eq!(taken(&page, 0, &bound(18, 0)), (vec![2, 3, 12, 15], 18, None, true));
    }
}
