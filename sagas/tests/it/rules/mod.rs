//! What processes and inboxes promise, a rule a test, on every backend.
//!
//! The letter and number over a rule are those of the table in `docs/rules.md`; its name says it in words.

mod across;
mod atomic;
mod bad_input;
mod beginnings;
mod behind;
mod blame;
mod branches;
mod by_hand;
mod chains;
mod commits;
mod comparing;
mod copies;
mod desk;
mod destinations;
mod family;
mod forgetting;
mod forgotten;
mod found;
mod ground;
mod guards;
mod half;
mod holds;
mod inbox;
mod kept;
mod limits;
mod links;
mod list;
mod lives;
mod locks;
mod operators;
mod order;
mod outages;
mod overview;
mod overview_across;
mod parties;
mod places;
pub(crate) mod play;
mod post;
mod programs;
mod reconciling;
mod recovery;
mod rekeyed;
mod relays;
mod runs;
mod schedule;
mod servers;
pub(crate) mod shaky;
mod sharing;
mod signals;
mod staged;
mod starts;
mod stores;
mod storms;
mod strays;
mod tcc;
mod three_phase;
mod till;
mod timers;
mod torn;
mod trip;
mod undoable;
mod watching;
mod world;

use es_core::Backend;
use es_core::testing::TestClock;

/// What the rules run on. A new value for each test: it can own a folder that its stores live in.
pub(crate) trait Subject: Send + Sync + 'static {
    type Backend: Backend + Clone;
    /// A new, empty store with this clock.
    async fn open(&self, clock: TestClock) -> Self::Backend;
    /// The same store, as another program has it.
    async fn again(&self, backend: &Self::Backend, clock: &TestClock) -> Self::Backend;
}

macro_rules! names {
    ($($file:ident { $($rule:ident)* })*) => {
        &[$($(concat!("sagas::", stringify!($file), "::", stringify!($rule))),*),*]
    };
}
const RULES: [&[&str]; 4] = [
    list::rules!(names),
    list::rules_of_others!(names),
    list::rules_across!(names),
    list::rules_of_servers!(names),
];

#[test]
fn every_rule_stands_in_the_table() {
    let table = include_str!("../../../../docs/rules.md");
    let missing: Vec<_> =
        RULES.concat().into_iter().filter(|rule| !table.contains(&format!("`{rule}`"))).collect();
    assert!(missing.is_empty(), "docs/rules.md lacks: {missing:#?}");
}
