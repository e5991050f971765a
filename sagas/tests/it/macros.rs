//! What `#[process]` writes, by way of the fixture: every attribute.

use std::time::Duration;

use es_core::command::NamedCommand;
use es_core::memory::MemoryBackend;
use es_core::{App, Recorded};
use sagas::testing::process;
use sagas::{Next, Processes as _, Refused, Timer};
use serde::{Deserialize, Serialize};

use crate::bank::{
    Account, AccountError, Closed, Deposit, Inquired, Opened, Requested, Withdraw, Withdrawn, requested,
    withdrawn,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Transfer {
    asked: Option<Requested>,
    withdrawn: bool,
}

#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Expired {}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

#[sagas::process(name = "transfer", key = String, sends(Withdraw, Deposit))]
impl Transfer {
    #[starts(by = id)]
    fn requested(&mut self, e: &Requested) -> Next<Self> {
        self.asked = Some(e.clone());
        Next::send(&e.from, Withdraw { amount: e.amount, transfer: Some(e.id.clone()) })
            .timer(minutes(5), Expired {})
    }

    #[on(by = transfer, early = stash)]
    fn withdrawn(&mut self, _: Recorded<'_, Withdrawn>) -> Result<Next<Self>, String> {
        self.withdrawn = true;
        let asked = self.asked.as_ref().ok_or("it began with that")?;
        let deposit = Deposit { amount: asked.amount, transfer: Some(asked.id.clone()) };
        Ok(Next::send(&asked.to, deposit).clear::<Expired>().and_end())
    }

    #[refused]
    fn refused(&mut self, r: Refused<Withdraw>) -> Next<Self> {
        assert!(matches!(r.error(), Some(AccountError::Overdrawn { .. }) | None));
        Next::end()
    }

    #[timer]
    fn expired(&mut self, _: Expired) -> Next<Self> {
        Next::end()
    }
}

#[test]
fn the_macro_writes_what_is_written_by_hand() {
    let (ada, bob) = ("ada".to_owned(), "bob".to_owned());
    process::<Transfer>().given(requested(5)).when_elapsed(minutes(5)).then_ended();
    process::<Transfer>()
        .when(requested(5))
        .then_sends(&ada, Withdraw { amount: 5, transfer: Some("t1".to_owned()) })
        .then_timer(minutes(5), Expired {})
        .and()
        .when(withdrawn(5))
        .then_sends(&bob, Deposit { amount: 5, transfer: Some("t1".to_owned()) })
        .then_ended();
    let refused = process::<Transfer>().when(requested(5)).and();
    refused.when_refused::<Withdraw>(AccountError::Overdrawn { balance: 1 }).then_nothing().then_ended();
}

#[test]
fn an_event_that_comes_before_its_instance_waits_for_it() {
    let (ada, bob) = ("ada".to_owned(), "bob".to_owned());
    process::<Transfer>()
        .when(withdrawn(5))
        .then_nothing()
        .then_no_instance(&"t1".to_owned())
        .and()
        .when(requested(5))
        .then_sends(&ada, Withdraw { amount: 5, transfer: Some("t1".to_owned()) })
        .then_sends(&bob, Deposit { amount: 5, transfer: Some("t1".to_owned()) })
        .then_nothing()
        .then_ended();
}

/// Watches an account while it is open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Watch {
    inquiries: u32,
}

#[sagas::process(name = "watch", version = 2, key = String, after_end = again, earlier(WatchV1))]
impl Watch {
    #[starts]
    fn opened(&mut self, e: Recorded<'_, Opened>) -> Next<Self> {
        Next::wait().associate("owner", &e.owner)
    }

    #[on(by = receipt, via = "owner")]
    fn inquired(&mut self, _: &Inquired) -> Next<Self> {
        self.inquiries += 1;
        Next::wait()
    }

    #[on]
    fn closed(&mut self, _: &Closed) -> Next<Self> {
        Next::publish("watches", "all", &self.inquiries).and_end()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct WatchV1 {}

#[sagas::process(name = "watch", key = String)]
impl WatchV1 {
    #[starts]
    fn opened(&mut self, _: &Opened) -> Next<Self> {
        Next::wait()
    }
}

/// Sends nothing itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Quiet {}

#[sagas::process(name = "transfer", version = 2, key = String, earlier(Transfer))]
impl Quiet {
    #[starts(by = id)]
    fn requested(&mut self, _: &Requested) -> Next<Self> {
        Next::wait()
    }
}

#[tokio::test]
async fn commands_of_earlier_definitions_are_known() {
    let app = App::on(MemoryBackend::new()).process::<Quiet>().start().await.unwrap();
    let deposit = Deposit { amount: 1, transfer: None };
    let named = NamedCommand::of(&"ada".to_owned(), &deposit).unwrap();
    app.sender().knows(&named).unwrap();
    app.shutdown(minutes(1)).await;
}

/// As old as one of its definitions, and another process than the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mixed {}

#[sagas::process(name = "transfer", key = String, earlier(Transfer, WatchV1))]
impl Mixed {
    #[starts(by = id)]
    fn requested(&mut self, _: &Requested) -> Next<Self> {
        Next::wait()
    }
}

#[tokio::test]
async fn definitions_that_do_not_belong_together_are_named_at_the_start() {
    let error = App::on(MemoryBackend::new()).process::<Mixed>().start().await.unwrap_err().to_string();
    assert!(error.contains("two of its definitions have version 1"), "{error}");
    let other = "`earlier` lists a definition named \"watch\": all versions of a process have the same name";
    assert!(error.contains(other), "{error}");
}

#[test]
fn one_that_may_begin_again_does_and_knows_nothing_of_before() {
    let (id, opened) = ("a".to_owned(), || Opened { owner: "ada".to_owned() });
    let asked = || Inquired { receipt: "ada".to_owned() };
    process::<Watch>()
        .given_to::<Account>(&id, opened())
        .given(asked())
        .when_to::<Account>(&id, Closed {})
        .then_publishes("watches", "all", &1)
        .then_ended()
        .and()
        // While it ends, what would begin it again waits.
        .when_to::<Account>(&id, opened())
        .then_ended()
        .accepted()
        .then_goes_on()
        .then_state(Watch { inquiries: 0 })
        .and()
        .when(asked())
        .then_state(Watch { inquiries: 1 });
}
