//! What processors are fed with: pages of the log.

mod pages;

pub(crate) use self::pages::{Pages, SharedPage};
