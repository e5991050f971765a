//! Each key once, and the same written by hand.

use std::time::Duration;

use crate::order::Order;
use es_core::BoxError;
use es_core::memory::Tx;
use sagas::saga::{Call, Cx, Journal, Ran, Remote, Retry, StepError};
use sagas::tcc::{Tcc, TccTransaction, tcc};

struct Hold {
    url: &'static str,
}

#[tcc(
    name = "hold",
    retry = Retry::default().tries(3),
    limit = Duration::from_secs(5),
    destination = self.url,
    refuses_for_good,
    crate = ::sagas
)]
impl Hold {
    async fn reserve(&self, cx: Cx<'_, Order>, call: &mut Call) -> Result<u64, StepError<String>> {
        match self.url.is_empty() {
            true => Err(StepError::Refused(call.key().to_owned())),
            false => Ok(cx.input.cents),
        }
    }

    async fn confirm(&self, _: Cx<'_, Order>, _held: u64, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }

    async fn cancel(&self, _: Cx<'_, Order>, held: Ran<u64>, _: &mut Call) -> Result<(), BoxError> {
        drop(held == Ran::Maybe);
        Ok(())
    }
}

struct ByHand {
    url: &'static str,
}

impl Tcc<Order> for ByHand {
    const NAME: &'static str = "by_hand";
    type Held = u64;
    type Refusal = String;
    type Place = Remote;
    async fn reserve(&self, cx: Cx<'_, Order>, call: &mut Call) -> Result<u64, StepError<String>> {
        match self.url.is_empty() {
            true => Err(StepError::Refused(call.key().to_owned())),
            false => Ok(cx.input.cents),
        }
    }
    async fn confirm(&self, _: Cx<'_, Order>, _held: u64, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
    async fn cancel(&self, _: Cx<'_, Order>, _: Ran<u64>, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        Retry::default().tries(3)
    }
    fn limit(&self) -> Duration {
        Duration::from_secs(5)
    }
    fn destination(&self) -> Option<&str> {
        Some(self.url)
    }
    fn refuses_for_good(&self) -> bool {
        true
    }
}

struct Note;

/// Not async, and where it lives said.
#[tcc(name = "note", place = Journal<Tx>)]
impl Note {
    fn reserve(&self, cx: Cx<'_, Order>, tx: &mut Tx) -> Result<(), StepError<String>> {
        tx.put("notes", cx.key, "held");
        Ok(())
    }

    fn confirm(&self, cx: Cx<'_, Order>, (): (), tx: &mut Tx) -> Result<(), BoxError> {
        tx.put("notes", cx.key, "used");
        Ok(())
    }

    fn cancel(&self, cx: Cx<'_, Order>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        tx.delete("notes", cx.key);
        Ok(())
    }
}

/// What is said of a branch.
fn says<B: Tcc<Order>>(branch: &B) -> (Retry, Duration, bool, Option<&str>) {
    (branch.retry(), branch.limit(), branch.refuses_for_good(), branch.destination())
}

fn lives_in_the_journal<B: Tcc<Order, Place = Journal<Tx>, Held = ()>>() -> &'static str {
    B::NAME
}

#[test]
fn it_is_what_it_says() {
    let (hold, by_hand) = (Hold { url: "http://pay" }, ByHand { url: "http://pay" });
    assert_eq!(says(&hold), says(&by_hand));
    assert_eq!(lives_in_the_journal::<Note>(), "note");
    let tcc: TccTransaction<Order, Tx> =
        TccTransaction::new("order", 1).branch(hold).branch(by_hand).branch(Note).build();
    drop(tcc);
}
