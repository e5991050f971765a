//! What all commands of an app share.

use std::sync::Arc;
use std::time::Duration;

use crate::command::{Interceptor, RetryPolicy};

/// What all commands of an app share.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) interceptors: Vec<Arc<dyn Interceptor>>,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Duration,
    pub(crate) max_events: usize,
    /// Whether each payload is decoded once before it is stored.
    pub(crate) verify: bool,
}
