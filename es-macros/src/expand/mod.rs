//! What each macro writes. Everything here could be written by hand.

mod aggregate;
mod aggregate_id;
mod commands;
mod dispatch;
mod event;
mod event_codec;
mod process;
mod projection;
mod publishes;
mod queries;
mod reactor;
mod services;
mod step;
mod tcc;
mod timer;
mod view;

pub(crate) use self::aggregate::expand as aggregate;
pub(crate) use self::aggregate_id::expand as aggregate_id;
pub(crate) use self::commands::{HELPERS as COMMANDS_HELPERS, expand as commands};
pub(crate) use self::event::expand as event;
pub(crate) use self::process::{HELPERS as PROCESS_HELPERS, expand as process};
pub(crate) use self::projection::expand as projection;
pub(crate) use self::publishes::{HELPERS as PUBLISHES_HELPERS, expand as publishes};
pub(crate) use self::queries::{HELPERS as QUERIES_HELPERS, expand as queries};
pub(crate) use self::reactor::expand as reactor;
pub(crate) use self::step::expand as step;
pub(crate) use self::tcc::expand as tcc;
pub(crate) use self::timer::expand as timer;
pub(crate) use self::view::{HELPERS as VIEW_HELPERS, expand as view};
