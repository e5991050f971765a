//! Which code makes a build: of two programs with different code, the newer one.
//!
//! A build names the code that makes it, and those that made it before. A code that handles more than another is newer; of two
//! that handle the same, or each something else, the one is newer that the build has not met yet. A node with newer code takes
//! the build over, in one commit that fences the workers of before. A node with older code stands by for as long as a node with
//! the newer one is alive, and takes the build back when none has been for a whole lease. So at any time one code moves the
//! checkpoints of a build.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Alive;
use crate::projection::Code;
use crate::projection::code::ALL;
use crate::state::CodeRecord;
use crate::store::Position;

/// What a node is to a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has the code that makes it.
    Makes,
    /// Its code is newer than that one.
    IsNewer,
    /// Its code is older, and nobody who has the newer one is seen.
    IsLeft,
    /// Its code is older, and it leaves the build to those who have the newer one.
    StandsBy,
}

/// Whether a node with the code of a build is alive, or on its way, at a time of the store's clock.
pub(crate) fn lives(stored: &CodeRecord, processor: &str, alive: &Alive, now: i64) -> bool {
    stored.until > now || alive.values().any(|node| node.codes.get(processor) == Some(&stored.code))
}

/// What a node with a code is to a build of a processor, at a time of the store's clock.
pub(crate) fn standing(
    stored: Option<&CodeRecord>,
    own: &Code,
    processor: &str,
    alive: &Alive,
    now: i64,
) -> Standing {
    let Some(stored) = stored else { return Standing::IsNewer };
    let own = CodeRecord::of(own);
    if stored.code == own.code {
        return Standing::Makes;
    }
    match (is_older(&own, stored), lives(stored, processor, alive, now)) {
        (false, _) => Standing::IsNewer,
        (true, true) => Standing::StandsBy,
        (true, false) => Standing::IsLeft,
    }
}

/// Whether a code is older than the one that makes a build: it handles less, or made the build before.
pub(crate) fn is_older(own: &CodeRecord, stored: &CodeRecord) -> bool {
    match compare(&own.handles, &stored.handles) {
        Some(Ordering::Less) => true,
        Some(Ordering::Greater) => false,
        _ => stored.former.contains(&own.code),
    }
}

/// Whether a code handles all that another one does, in the same shapes or newer ones.
pub(crate) fn covers(own: &CodeRecord, other: &CodeRecord) -> bool {
    matches!(compare(&own.handles, &other.handles), Some(Ordering::Equal | Ordering::Greater))
}

/// The number of the rule by which a code finds the keys of a type of events.
fn rule(keys: &BTreeMap<String, u64>, name: &str) -> u64 {
    keys.get(name).or_else(|| keys.get(ALL)).copied().unwrap_or_default()
}

/// Whether one code handles more than another: further types of events, or newer shapes of them.
fn compare(own: &BTreeMap<String, u32>, other: &BTreeMap<String, u32>) -> Option<Ordering> {
    let covers = |some: &BTreeMap<String, u32>, others: &BTreeMap<String, u32>| {
        let all = some.contains_key(ALL);
        // A shape of 0 is not known.
        others.iter().all(|(name, schema)| match some.get(name) {
            Some(known) => known >= schema || *known == 0,
            None => all,
        })
    };
    match (covers(own, other), covers(other, own)) {
        (true, true) => Some(Ordering::Equal),
        (true, false) => Some(Ordering::Greater),
        (false, true) => Some(Ordering::Less),
        (false, false) => None,
    }
}

impl CodeRecord {
    /// The code of this program, and nothing of before.
    pub(crate) fn of(code: &Code) -> Self {
        let (handles, keys) = (code.handles().clone(), Some(code.keys().clone()));
        Self { code: code.fingerprint(), handles, keys, ..Self::default() }
    }

    /// The same of a build that lacks nothing.
    fn complete(self) -> Self {
        Self { incomplete: false, whole: BTreeSet::new(), ..self }
    }

    /// The same, if it is known.
    pub(crate) fn known(&self) -> Option<&Self> {
        (!self.code.is_empty()).then_some(self)
    }

    /// Whether every type is handled that a code handles.
    pub(crate) fn handles_all_of(&self, code: &Code) -> bool {
        self.passes(code).is_empty()
    }

    /// The types of events that a code handles and this one does not.
    pub(crate) fn passes<'c>(&self, code: &'c Code) -> Vec<&'c str> {
        let all = self.handles.contains_key(ALL);
        let names = code.handles().keys().map(String::as_str);
        names.filter(|name| !all && !self.handles.contains_key(*name)).collect()
    }

    /// The types of events of which the build has all if another code continues it, which may have `missed` some; `None` if it
    /// lacks nothing that this one handles.
    pub(crate) fn whole_for(&self, own: &Self, missed: bool) -> Option<BTreeSet<String>> {
        let mut whole =
            if self.incomplete { self.whole.clone() } else { self.handles.keys().cloned().collect() };
        if !missed && !self.handles.contains_key(ALL) {
            // There has been none of those that are new.
            whole.extend(own.handles.keys().filter(|name| !self.handles.contains_key(*name)).cloned());
        }
        let has_all = whole.contains(ALL) || own.handles.keys().all(|name| whole.contains(name));
        match (has_all, missed) {
            (true, true) => Some(BTreeSet::new()),
            (true, false) => None,
            (false, _) => Some(whole),
        }
    }

    /// Whether a code handles the same types by the same keys.
    pub(crate) fn is_like(&self, code: &Code) -> bool {
        self.handles.keys().eq(code.handles().keys()) && self.rekeyed(code).is_empty()
    }

    /// Whether a code finds the rows of a type of events by other keys.
    pub(crate) fn is_rekeyed(&self, code: &Code, name: &str) -> bool {
        self.keys.as_ref().is_some_and(|keys| rule(keys, name) != rule(code.keys(), name))
    }

    /// The types that both handle and that a code finds by other keys: the rows that are there are not where it looks.
    pub(crate) fn rekeyed<'c>(&'c self, code: &'c Code) -> BTreeSet<&'c str> {
        fn both<'c, T>(
            some: &'c BTreeMap<String, u32>,
            other: &'c BTreeMap<String, T>,
        ) -> impl Iterator<Item = &'c String> {
            some.keys().filter(|name| other.contains_key(*name) || other.contains_key(ALL))
        }
        let Some(keys) = &self.keys else { return BTreeSet::new() };
        let names = both(&self.handles, code.handles()).chain(both(code.handles(), &self.handles));
        // Rows of types that are not handled for now are there all the same.
        let unhandled = both(code.handles(), &self.unhandled).filter(|name| keys.contains_key(*name));
        let names = names.chain(unhandled).map(String::as_str);
        names.filter(|name| self.is_rekeyed(code, name)).collect()
    }

    /// The same, where it is known by which keys they were found.
    pub(crate) fn rekeyed_knowingly<'c>(&'c self, code: &'c Code) -> BTreeSet<&'c str> {
        let known = |name: &&str| self.keys.as_ref().is_some_and(|keys| rule(keys, name) != 0);
        self.rekeyed(code).into_iter().filter(known).collect()
    }
}

/// The record of a build that begins beside the one that is read: the newest code that is known makes it, which is not
/// this program's if an operator asked an older one, or one that only looks on.
pub(crate) fn of_new_build(read: Option<&CodeRecord>, own: Option<&Code>) -> CodeRecord {
    let read_code = || read.map(|read| CodeRecord { unhandled: BTreeMap::new(), ..read.clone().complete() });
    let newer = |own: &Code| read.is_some_and(|read| is_older(&CodeRecord::of(own), read));
    match own {
        Some(own) if !newer(own) => after(read, own, Position(0)),
        _ => read_code().unwrap_or_default(),
    }
}

/// The record of a build that a code makes from a position on; before that, another one did. What the build lacked of what
/// that one handled, it lacks still, if this one handles it too.
pub(crate) fn after(before: Option<&CodeRecord>, code: &Code, from: Position) -> CodeRecord {
    let CodeRecord { code: print, handles, mut keys, .. } = CodeRecord::of(code);
    let before = before.cloned().unwrap_or_default();
    let mut unhandled = before.unhandled;
    // What it lacks may be of any of them.
    let since = if before.incomplete { Position(0) } else { from };
    let handled: BTreeSet<String> = before.handles.into_keys().collect();
    for name in &handled {
        unhandled.insert(name.clone(), since);
    }
    unhandled.values_mut().for_each(|since| *since = (*since).min(from));
    unhandled.retain(|name, _| !handles.contains_key(name) && !handles.contains_key(ALL));
    if let (Some(keys), Some(before)) = (&mut keys, &before.keys)
        && from > Position(0)
    {
        // Where their rows are, for whoever handles them again: of those that have some.
        let has_rows = |name: &&String| handled.contains(*name) || before.contains_key(*name);
        keys.extend(unhandled.keys().filter(has_rows).map(|name| (name.clone(), rule(before, name))));
    }
    let former = before.former.into_iter().chain([before.code]);
    let former = former.filter(|former| *former != print && !former.is_empty()).collect();
    CodeRecord { code: print, handles, keys, unhandled, former, ..CodeRecord::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NodeRecord;
    use crate::store::EventFilter;

    fn alive(codes: &[&Code]) -> Alive {
        let node = |(i, code): (usize, &&Code)| {
            let codes = BTreeMap::from([("p/1".to_owned(), code.fingerprint())]);
            let (runs, [whole, stands_by]) = (["p/1".to_owned()].into(), [const { BTreeSet::new() }; 2]);
            (
                uuid::Uuid::from_u128(i as u128 + 1),
                NodeRecord { until: 1, runs, whole, codes, stands_by, unknown: BTreeMap::new() },
            )
        };
        codes.iter().enumerate().map(node).collect()
    }

    fn stands(stored: &CodeRecord, own: &Code, nodes: &[&Code]) -> Standing {
        standing(Some(stored), own, "p/1", &alive(nodes), 5)
    }

    fn handling(text: u64, types: &[&str]) -> Code {
        types.iter().fold(Code::new(text), |code, name| code.with(name, 1))
    }

    #[test]
    fn the_newer_code_makes_a_build_for_as_long_as_somebody_has_it() {
        let [a, b, c] = [1, 2, 3].map(|text| handling(text, &["x"]));
        assert_eq!(standing(None, &a, "p/1", &alive(&[]), 5), Standing::IsNewer, "it has no code yet");
        let old = after(None, &a, Position(0));
        assert_eq!(stands(&old, &a, &[&a]), Standing::Makes);
        assert_eq!(stands(&old, &b, &[&a, &b]), Standing::IsNewer, "b is new to it");
        let new = after(Some(&old), &b, Position(7));
        assert_eq!(stands(&new, &a, &[&a, &b]), Standing::StandsBy, "also if it starts again");
        assert_eq!(stands(&new, &a, &[&a]), Standing::IsLeft, "rolled back");
        let starting = CodeRecord { until: 6, ..new.clone() };
        assert_eq!(stands(&starting, &a, &[&a]), Standing::StandsBy, "a node with b is on its way");
        let back = after(Some(&new), &a, Position(9));
        assert_eq!(stands(&back, &b, &[&a, &b]), Standing::StandsBy, "until the last of them has gone");
        assert_eq!(stands(&back, &c, &[&a, &b, &c]), Standing::IsNewer);
    }

    #[test]
    fn a_new_build_is_made_by_the_newest_code_that_is_known() {
        let (less, more) = (handling(1, &["x"]), handling(2, &["x", "y"]));
        let read = after(None, &more, Position(0));
        assert_eq!(of_new_build(Some(&read), Some(&less)).code, more.fingerprint(), "asked by an older one");
        assert_eq!(of_new_build(Some(&read), None).code, more.fingerprint(), "asked by one that looks on");
        let keyed = after(None, &handling(2, &["x", "y"]).keyed_by(2), Position(0));
        assert_eq!(
            of_new_build(Some(&keyed), Some(&less)).keys,
            keyed.keys,
            "its rows are where that one looks"
        );
        let old = after(None, &less, Position(0));
        assert_eq!(of_new_build(Some(&old), Some(&more)).code, more.fingerprint());
        assert_eq!(of_new_build(None, Some(&less)).code, less.fingerprint());
        assert_eq!(of_new_build(None, None), CodeRecord::default(), "then it is the first to come");
    }

    #[test]
    fn other_keys_are_those_of_types_that_both_handle() {
        let made = after(None, &handling(1, &["x", "y"]).keyed_by(1), Position(0));
        let rekeyed = |code: &Code| made.rekeyed(code).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(rekeyed(&handling(2, &["x", "z"]).keyed_by(1)), [""; 0]);
        assert_eq!(rekeyed(&handling(2, &["x", "z"]).keyed_by(2)), ["x"], "z has no rows yet");
        assert_eq!(rekeyed(&handling(1, &["x", "y"])), ["x", "y"], "no rule is a rule too");
        assert_eq!(rekeyed(&Code::of(&EventFilter::all()).keyed_by(2)), ["x", "y"]);
        let unknown = CodeRecord { keys: None, ..made.clone() };
        assert!(unknown.rekeyed(&handling(2, &["x"]).keyed_by(2)).is_empty(), "it was stored without");
        let back = after(Some(&made), &handling(3, &["x"]).keyed_by(1), Position(9));
        assert!(back.rekeyed(&handling(4, &["x", "y"]).keyed_by(1)).is_empty());
        let other = handling(4, &["x", "y"]).keyed_by(2);
        assert!(back.rekeyed(&other).contains("y"), "its rows are where the first one put them");
        let anew = after(Some(&back), &handling(3, &["x"]).keyed_by(1), Position(0));
        assert_eq!(anew.rekeyed(&other), ["x"].into(), "a build that begins again has none of it");
    }

    #[test]
    fn other_keys_are_remembered_of_what_was_handled_only() {
        let first = after(None, &handling(1, &["x", "y"]), Position(0));
        let second = after(Some(&first), &handling(2, &["x"]), Position(0));
        let third = after(Some(&second), &handling(3, &["x"]), Position(9));
        assert!(third.rekeyed(&handling(4, &["x", "y"]).keyed_by(2)).contains("x"));
        assert!(!third.rekeyed(&handling(4, &["x", "y"]).keyed_by(2)).contains("y"), "it never had a row");
    }

    #[test]
    fn a_code_that_handles_more_is_newer_whatever_came_first() {
        let (less, more, other) = (handling(1, &["x"]), handling(2, &["x", "y"]), handling(3, &["x", "z"]));
        let made = after(None, &more, Position(0));
        assert_eq!(stands(&made, &less, &[&more]), Standing::StandsBy, "though the build has not met it");
        let back = after(Some(&made), &less, Position(9));
        assert_eq!(stands(&back, &more, &[&less]), Standing::IsNewer, "though it made the build before");
        assert_eq!(stands(&made, &other, &[&more]), Standing::IsNewer, "each handles something else");
        let newer = Code::new(2).with("x", 2);
        assert_eq!(stands(&back, &newer, &[&less]), Standing::IsNewer, "a newer shape");
    }

    #[test]
    fn what_a_build_lacks_is_known_to_every_code_that_handles_it() {
        let code = |handles: &[&str]| CodeRecord::of(&handling(1, handles));
        let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
        let [less, more] = [code(&["x"]), code(&["x", "y"])];
        assert_eq!(less.whole_for(&more, false), None, "there was none");
        let whole = less.whole_for(&more, true);
        assert_eq!(whole, set(&["x"]));
        let lacking = CodeRecord { incomplete: true, whole: whole.unwrap_or_default(), ..more };
        assert_eq!(lacking.whole_for(&code(&["x", "y", "z"]), false), set(&["x", "z"]));
        assert_eq!(lacking.whole_for(&code(&["y"]), false), set(&["x"]));
        assert_eq!(lacking.whole_for(&less, false), None, "it has all that this one handles");
        let all = CodeRecord::of(&Code::of(&EventFilter::all()));
        let whole = less.whole_for(&all, true).unwrap_or_default();
        let lacking = CodeRecord { incomplete: true, whole, ..all };
        assert_eq!(lacking.whole_for(&code(&["x", "y"]), false), set(&["x"]));
        assert_eq!(lacking.whole_for(&less, false), None);
        let unknown = CodeRecord { whole: BTreeSet::new(), ..lacking };
        assert_eq!(unknown.whole_for(&less, false), set(&[]), "it was stored without");
    }

    #[test]
    fn what_is_not_handled_any_more_is_remembered_from_where_it_was() {
        let (less, more) = (handling(1, &["x"]), handling(2, &["x", "y"]));
        let back = after(Some(&after(None, &more, Position(0))), &less, Position(9));
        assert_eq!(back.unhandled, BTreeMap::from([("y".to_owned(), Position(9))]));
        let again = after(Some(&back), &handling(4, &["x"]), Position(20));
        assert_eq!(again.unhandled, back.unhandled, "from the first place on");
        let anew = after(Some(&again), &handling(5, &["x"]), Position(0));
        assert_eq!(anew.unhandled["y"], Position(0), "a build that begins again has not handled it");
        assert!(after(Some(&again), &more, Position(30)).unhandled.is_empty());
    }
}
