//! Processors: what keeps projections, views and reactors up to date.
//!
//! Events are read once for all processors near the head (`feed`), folded and flushed by a worker for each range of slices
//! (`worker`), and each flush moves the range's checkpoint in the same commit: exactly once for rows in the same database.
//! Nodes that run the same processor share its slices ([`cluster`](crate::cluster)); a node that is gone is replaced once
//! its lease has run out, and whatever it still writes is fenced off.
//!
//! | where | what |
//! | --- | --- |
//! | `handle`, `error`, `options`, `status`, `wait` | what a program does with a processor |
//! | `desk` | the same, for a tool that knows its stored name |
//! | `readiness` | whether queries can rely on it |
//! | `versions` | versions of a projection next to each other |
//! | `feed` | pages of the log |
//! | `worker` | what a node works on, and how a range is worked on |
//! | `kinds` | SQL projections, keyed views, reactors |
//! | `parked` | what failed, and waits for an operator |
//! | `rebuild` | builds next to each other, the switch between them, some rows rebuilt |
//!
//! Spans, at the level `debug`: `es.processor.fold` (`build`, `slices`, `events`, `through`) around the handlers of a page,
//! `es.processor.flush` (`build`, `slices`, `events`, `position`) around the commit of what they led to.
//!
//! Fields of log lines: `build` (`name/version~generation`), `slices`, `position`, `key`, `attempts`, `error`,
//! `processor`, `node`. Metrics, each with the label `processor`: `es_processor_events_total`,
//! `es_processor_flush_seconds`, `es_processor_visible_seconds` (from append to flush), `es_processor_parked_total`,
//! `es_processor_skipped_total`, `es_processor_halted_total`; and with the labels `generation` and `role` (`current`,
//! `building` or `previous`) as well: `es_processor_position`, `es_processor_lag`, `es_processor_parked`.

mod desk;
mod error;
mod feed;
mod forget;
mod handle;
mod kinds;
mod options;
mod parked;
mod rebuild;
mod status;
mod wait;
mod worker;

pub use self::desk::{Desk, KnownBuilds};
pub use self::error::ProcessorError;
pub(crate) use self::feed::Pages;
pub(crate) use self::forget::forget;
pub use self::handle::Processor;
pub use self::kinds::admission::{Admission, Failure};
pub use self::kinds::effects::Calls;
pub use self::kinds::runner::{Execution, Keeps, Opening, Rebuildable, Runner, Session};
pub(crate) use self::kinds::{ProjectionRunner, ReactorRunner, ViewRunner};
pub use self::options::{ParkingLimits, ProcessorOptions};
pub use self::parked::{LeftOutForGood, ParkedFilter, ParkedSequence, RetriedAll, handles_all};
#[cfg(feature = "testing")]
pub(crate) use self::rebuild::PORTION;
pub use self::rebuild::{
    Backfill, Progress, Rebuild, RebuildOptions, RebuildReport, RebuildStep, VersionStatus,
};
pub(crate) use self::rebuild::{finish_set_back, prepare, remove_build, schema_obstacle};
pub use self::status::{ProcessorState, ProcessorStatus, RangeStatus};
pub use self::wait::{Receipt, WaitError};
pub use self::worker::Reset;
#[cfg(feature = "testing")]
pub(crate) use self::worker::remove_version;
pub(crate) use self::worker::{
    AnyBackend, BY_ITSELF, Fits, Folded, Looked, NodeContext, NodeSettings, RACES, Readiness, Standing,
    Stretch, TakeOver, Taken, Wired, alive_during, fold_between, give_names, inline_version, judge, left_out,
    made_by, name_obstacle, noted, other_name, others, prepare_named, standing, start, stored_versions,
    take_over_all, wanted_by_any,
};
pub use crate::blame::{Definite, NotTheEvent};
pub use crate::slices::{SLICES, SliceSet, Slices, slice_of};
pub use crate::state::{Build, Skipped};
