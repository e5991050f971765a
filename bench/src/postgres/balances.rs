//! The view that a rebuild fills: a balance for each account.

use es_core::prelude::*;
use es_core::projection::{Change, Projection, View};
use es_core::store::{EventFilter, RecordedEvent};
use serde::{Deserialize, Serialize};

use crate::domain::Deposited;

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Balance {
    pub amount: i64,
}

impl Projection for Balance {
    const NAME: &'static str = "balances";

    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

/// By hand, since the account is named by the stream and not by the event.
impl View for Balance {
    type Key = u64;

    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let Some(deposited) = event.payload::<Deposited>()? else { return Ok(Vec::new()) };
        let (_, account) = event.stream.as_str().rsplit_once('-').ok_or("a stream without an account")?;
        let credit = move |row: &mut Self| {
            row.amount += deposited.amount;
            Ok(())
        };
        Ok(vec![Change::new(account.parse()?, credit)])
    }
}
