//! A deposit whose boundary is a tag, not a stream.

use es_core::event::Tag;
use es_core::prelude::*;
use es_core::store::{EventFilter, RecordedEvent};
use es_core::{Decided, Decision};

use crate::domain::{Account, AccountError, Credited, deposit};

#[derive(Clone)]
pub struct Credit {
    account: u64,
    tag: Tag,
}

impl Credit {
    pub fn new(account: u64) -> anyhow::Result<Self> {
        Ok(Self { account, tag: Tag::new("account", account)? })
    }
}

impl Decision for Credit {
    type State = i64;
    type Error = AccountError;

    fn scope(&self) -> EventFilter {
        EventFilter::of::<Credited>().tagged(&self.tag)
    }

    fn apply(&self, balance: &mut i64, event: &RecordedEvent) -> Result<(), BoxError> {
        *balance += event.payload::<Credited>()?.map_or(0, |credited| credited.amount);
        Ok(())
    }

    fn decide(self, _: &i64) -> Result<Vec<Decided>, AccountError> {
        let deposit = deposit();
        let credited = Credited { account: self.account, amount: deposit.amount, note: deposit.note };
        Ok(vec![Decided::on::<Account>(&self.account, credited)])
    }
}
