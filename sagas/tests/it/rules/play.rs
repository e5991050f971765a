//! What the rules are about: events that say what a process is to do, and a ledger in which its commands leave a trace.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use es_core::prelude::*;
use sagas::{Next, OnTimer, Process, Refused, Sends, Timer};
use serde::{Deserialize, Serialize};

/// What cannot be entered now: its command panics. Tests share this; each has texts of its own.
static BROKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Until it is dropped, this cannot be entered.
#[must_use]
pub(crate) struct Broken(String);

pub(crate) fn breaks(what: &str) -> Broken {
    BROKEN.lock().unwrap().insert(what.to_owned());
    Broken(what.to_owned())
}

impl Drop for Broken {
    fn drop(&mut self) {
        BROKEN.lock().unwrap().remove(&self.0);
    }
}

/// Keys of one slice, so many, of so many bytes.
pub(crate) fn keys_of_one_slice(n: usize, bytes: usize) -> Vec<String> {
    let keys = (0..).map(|n| format!("{n:0bytes$}"));
    keys.filter(|key| es_core::processor::slice_of(key) == 7).take(n).collect()
}

/// One thing that a handler is told to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Act {
    /// An entry, in the ledger of this name.
    Enter(String, String),
    /// An entry that is refused.
    Refused(String),
    /// An entry that comes back as an event for the instance.
    Ask(String),
    Publish(String),
    /// A timer, so many seconds from now, and what it does.
    Bell(u64, Vec<Self>),
    /// Another one.
    Gong(u64, Vec<Self>),
    Clear,
    Associate(String),
    Dissociate(String),
    /// So many entries.
    Many(usize),
    /// So many entries, of so many bytes each.
    Post(usize, usize),
    /// A state of so many bytes.
    Swell(usize),
    /// A timer, some time from now, that holds so many bytes.
    Weigh(usize),
    Fail,
    Panic,
    End,
}

macro_rules! events {
    ($($event:ident { $($field:ident: $of:ty),* })*) => { $(
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub(crate) struct $event { $(pub(crate) $field: $of),* }
    )* };
}

events! {
    Began { key: String, label: String, acts: Vec<Act> }
    Replied { key: String, label: String, acts: Vec<Act> }
    Went { keys: Vec<String>, label: String, acts: Vec<Act> }
    Called { value: String, label: String, acts: Vec<Act> }
    Entered { what: String, asked: Option<String> }
    Enter { what: String, refuse: bool, asked: Option<String> }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "stage")]
pub(crate) enum StageEvent {
    Began(Began),
    Replied(Replied),
    Went(Went),
    Called(Called),
}

fn owned(text: &str) -> String {
    text.to_owned()
}

/// Starts an instance.
pub(crate) fn began(key: &str, label: &str, acts: Vec<Act>) -> StageEvent {
    StageEvent::Began(Began { key: owned(key), label: owned(label), acts })
}

/// For an instance, now or once it has started.
pub(crate) fn replied(key: &str, label: &str, acts: Vec<Act>) -> StageEvent {
    StageEvent::Replied(Replied { key: owned(key), label: owned(label), acts })
}

/// For an instance, if there is one.
pub(crate) fn went(key: &str, label: &str, acts: Vec<Act>) -> StageEvent {
    went_to(&[key], label, acts)
}

pub(crate) fn went_to(keys: &[&str], label: &str, acts: Vec<Act>) -> StageEvent {
    StageEvent::Went(Went { keys: keys.iter().map(|key| owned(key)).collect(), label: owned(label), acts })
}

/// For the instances with this association.
pub(crate) fn called(value: &str, label: &str, acts: Vec<Act>) -> StageEvent {
    StageEvent::Called(Called { value: owned(value), label: owned(label), acts })
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "ledger")]
pub(crate) enum LedgerEvent {
    Entered(Entered),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{0:?} is not entered")]
pub(crate) struct NotEntered(String);

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = LedgerEvent, error = NotEntered)]
pub(crate) struct Ledger;

impl Apply for Ledger {
    fn apply(&mut self, _: &LedgerEvent) {}
}

#[commands]
impl Ledger {
    #[create_if_missing]
    fn enter(&self, cmd: Enter) -> Result<Entered, NotEntered> {
        let Enter { what, refuse, asked } = cmd;
        let is_broken = BROKEN.lock().unwrap().contains(&what);
        assert!(!is_broken, "the ledger is broken");
        if refuse { Err(NotEntered(what)) } else { Ok(Entered { what, asked }) }
    }
}

#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bell {
    pub(crate) acts: Vec<Act>,
}

#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gong {
    pub(crate) acts: Vec<Act>,
}

/// What an instance remembers: what it took in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    key: String,
    pub(crate) took: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    fat: String,
}

impl Memory {
    pub(crate) fn take<P>(&mut self, label: &str, acts: &[Act]) -> Result<Next<P>, String>
    where
        P: Process + Sends<Enter> + OnTimer<Bell> + OnTimer<Gong>,
    {
        self.took.push(label.to_owned());
        acts.iter().try_fold(Next::wait(), |next, act| self.act(next, act))
    }

    fn act<P>(&mut self, next: Next<P>, act: &Act) -> Result<Next<P>, String>
    where
        P: Process + Sends<Enter> + OnTimer<Bell> + OnTimer<Gong>,
    {
        let enter = |next: Next<P>, ledger: &str, what: String, refuse, asked| {
            next.and_send(&ledger.to_owned(), Enter { what, refuse, asked })
        };
        Ok(match act {
            Act::Enter(ledger, what) => enter(next, ledger, what.clone(), false, None),
            Act::Refused(what) => enter(next, "strict", what.clone(), true, None),
            Act::Ask(what) => enter(next, "desk", what.clone(), false, Some(self.key.clone())),
            Act::Publish(what) => next.and_publish("stage", &self.key, what),
            Act::Bell(seconds, acts) => {
                next.timer(Duration::from_secs(*seconds), Bell { acts: acts.clone() })
            }
            Act::Gong(seconds, acts) => {
                next.timer(Duration::from_secs(*seconds), Gong { acts: acts.clone() })
            }
            Act::Clear => next.clear::<Bell>(),
            Act::Associate(value) => next.associate("name", value),
            Act::Dissociate(value) => next.dissociate("name", value),
            Act::Many(n) => (0..*n).fold(next, |next, n| enter(next, "many", n.to_string(), false, None)),
            Act::Post(n, bytes) => {
                (0..*n).fold(next, |next, _| enter(next, "post", "x".repeat(*bytes), false, None))
            }
            Act::Swell(bytes) => {
                self.fat = "x".repeat(*bytes);
                next
            }
            Act::Weigh(bytes) => {
                let acts = vec![Act::Refused("x".repeat(*bytes))];
                next.timer(Duration::from_secs(1_000_000), Gong { acts })
            }
            Act::Fail => return Err("it was told to fail".to_owned()),
            Act::Panic => panic!("it was told to panic"),
            Act::End => next.and_end(),
        })
    }
}

macro_rules! plays {
    ($process:ident, [$($args:tt)*], { $($more:tt)* }) => {
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub(crate) struct $process(pub(crate) Memory);

        #[sagas::process($($args)*, key = String, sends(Enter))]
        impl $process {
            #[starts(by = key)]
            fn began(&mut self, e: &Began) -> Result<Next<Self>, String> {
                self.0.key = e.key.clone();
                self.0.take(&e.label, &e.acts)
            }

            #[on(by = key, early = stash)]
            fn replied(&mut self, e: &Replied) -> Result<Next<Self>, String> {
                self.0.take(&e.label, &e.acts)
            }

            #[on(by = keys)]
            fn went(&mut self, e: &Went) -> Result<Next<Self>, String> {
                self.0.take(&e.label, &e.acts)
            }

            #[on(by = asked)]
            fn entered(&mut self, e: &Entered) -> Result<Next<Self>, String> {
                self.0.take(&e.what, &[])
            }

            $($more)*

            #[refused]
            fn refused(&mut self, r: Refused<Enter>) -> Result<Next<Self>, String> {
                if r.command.what == "unbearable" {
                    return Err("it cannot be borne".to_owned());
                }
                self.0.take(&format!("refused {}", r.command.what), &[])
            }

            #[timer]
            fn bell(&mut self, t: Bell) -> Result<Next<Self>, String> {
                self.0.take("bell", &t.acts)
            }

            #[timer]
            fn gong(&mut self, t: Gong) -> Result<Next<Self>, String> {
                self.0.take("gong", &t.acts)
            }
        }
    };
}

// Each event names its keys: nodes share them.
plays!(ByKey, [name = "by_key"], {});
// One whose keys may begin again.
plays!(Again, [name = "again", after_end = again], {});
// And ones whose instances are forgotten a day after their end.
plays!(Brief, [name = "brief", keep_ended_days = 1], {});
plays!(BriefAgain, [name = "brief_again", after_end = again, keep_ended_days = 1], {});
// The definition after `ByKey`: its labels differ.
plays!(Newer, [name = "by_key", version = 2, earlier(ByKey)], {});
// And one that knows no definition of before.
plays!(Alone, [name = "by_key", version = 2], {});
// One that is found by associations: in one slice.
plays!(Found, [name = "found"], {
    #[on(by = value, via = "name")]
    fn called(&mut self, e: &Called) -> Result<Next<Self>, String> {
        self.0.take(&e.label, &e.acts)
    }
});
