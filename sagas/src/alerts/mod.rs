//! When somebody is to look at sagas: rules as data, kept by the engine itself and by Prometheus.
//!
//! A [`Rule`] says what is measured, from where on it is an alarm, for how long that has to be so, and what to do then.
//! Each node keeps the rules that its own numbers can answer: an alarm is logged once as it begins and once as it ends, and
//! stands in [`Health::engines`](es_core::Health::engines) meanwhile. [`prometheus_rules`] gives the same rules for
//! Prometheus, which sees all nodes: `sagas/alerts/sagas.rules.yml` is that text. Thresholds that do not suit are changed in
//! a copy of that file.
//!
//! # Metrics
//!
//! By the crate `metrics`, with the labels `pattern` (`saga`, `tcc`, `three-phase` or `half`), `kind` and `version` (of the definition):
//!
//! | name | what |
//! | --- | --- |
//! | `es_saga_started_total` | runs that began on this node |
//! | `es_saga_ended_total`, by `outcome` | runs that ended on this node: `completed`, `undone`, `abandoned` |
//! | `es_saga_seconds`, by `outcome` | a histogram: how long they took from their start to their end, without the time for which a saga within another one waited for that |
//! | `es_saga_failed_calls_total` | calls and undos that failed, and are tried again |
//! | `es_saga_held_total` | how often a run began to wait because who it calls had failed, for others as well |
//! | `es_saga_stages_total`, by `stage` | half messages that came to [stand there](crate::half) on this node |
//! | `es_saga_checks_total`, by `answer` | checks of their local transactions |
//! | `es_saga_fenced_total` | writes that were refused because another node has the run |
//! | `es_saga_forgotten_total` | runs that were [forgotten](crate::saga::SagaBuilder::remember) |
//! | `es_saga_open` | runs in the slices of this node that have not ended, about |
//! | `es_saga_parked`, `es_saga_damaged` | those of them that wait for a person, or cannot go on as they are stored; the former counts the latter |
//! | `es_saga_unattended` | runs of versions that no live node has, counted by the nodes with the newest one |
//! | `es_saga_oldest_seconds` | the age of the oldest of them |
//! | `es_saga_unforgotten` | runs that are to be forgotten, and could not be when that was last tried; also 1 for a share whose next ones cannot be read |
//! | `es_saga_deadline_seconds` | the deadline of the definition, if it has one |
//! | `es_saga_looked_timestamp_seconds` | when this node last saw what is due, for the share that is furthest behind |
//!
//! Of [locks](crate::saga::SagaLock), without labels, each node for all of the store:
//!
//! | name | what |
//! | --- | --- |
//! | `es_saga_locks_held`, `es_saga_locks_waiting` | how many are held, and how many runs wait for one; a run counts once for each |
//! | `es_saga_lock_oldest_wait_seconds` | for how long the first of them has waited |
//! | `es_saga_deadlocks_total` | runs that this node has cancelled since they waited for each other |
//! | `es_saga_locks_taken_over_total` | locks that were taken from runs that had ended, or were gone |
//!
//! Those of transactions across databases are in [`two_phase`](crate::two_phase), and that of all that need a person in
//! [`overview`](crate::overview).
//!
//! What stands in rows is counted all the time, 500 rows a second at most, and at most every 15 seconds; 5,000 where nobody has
//! counted before. Install a recorder
//! before the app starts.

mod kept;
mod prometheus;
mod rules;

pub(crate) use self::kept::{Change, Kept, Sample};
pub use self::prometheus::prometheus_rules;
pub(crate) use self::rules::LOCK_WAIT;
pub use self::rules::{Limit, Measure, RULES, Rule, Severity};
