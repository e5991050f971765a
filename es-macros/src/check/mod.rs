//! The rules that look at more than one token: signatures, and names across an enum or a block.

mod event;
mod params;
mod process;
mod read;
mod request;
mod step;
mod tcc;

pub(crate) use self::event::check as event_enum;
pub(crate) use self::process::{EventHandler, HELPERS as PROCESS_HELPERS, InputHandler, Process};
pub(crate) use self::read::{ReadHandler, ReadRules, one_handler_each};
pub(crate) use self::request::{Output, Request, RequestRules, one_method_each};
pub(crate) use self::step::{StepShape, UndoShape};
pub(crate) use self::tcc::{BranchCall, BranchShape};
