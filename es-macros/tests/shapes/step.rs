//! Each key once, and the same written by hand.

use std::convert::Infallible;
use std::time::Duration;

use crate::order::{Order, Reserve};
use es_core::BoxError;
use es_core::memory::Tx;
use sagas::saga::{Call, Cx, Journal, Ran, Remote, Retry, Saga, Step, StepError, Undo, Unknown, step};

struct Charge {
    url: &'static str,
}

#[step(
    name = "charge",
    undo = refund,
    unknown = fence,
    retry = Retry::default().tries(3),
    limit = Duration::from_secs(5),
    destination = self.url,
    refuses_for_good,
    crate = ::sagas
)]
impl Charge {
    async fn charge(&self, cx: Cx<'_, Order, (Reserve,)>, call: &mut Call) -> Result<u64, StepError<String>> {
        let (_reserved,): (String,) = cx.needs;
        match self.url.is_empty() {
            true => Err(StepError::Refused(call.key().to_owned())),
            false => Ok(cx.input.cents),
        }
    }

    async fn refund(
        &self,
        _: Cx<'_, Order, (Reserve,)>,
        ran: Ran<u64>,
        _: &mut Call,
    ) -> Result<(), BoxError> {
        drop(ran == Ran::Maybe);
        Ok(())
    }
}

struct ByHand {
    url: &'static str,
}

impl Step<Order> for ByHand {
    const NAME: &'static str = "by_hand";
    type Needs = (Reserve,);
    type Output = u64;
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Order, (Reserve,)>, call: &mut Call) -> Result<u64, StepError<String>> {
        match self.url.is_empty() {
            true => Err(StepError::Refused(call.key().to_owned())),
            false => Ok(cx.input.cents),
        }
    }
    fn retry(&self) -> Retry {
        Retry::default().tries(3)
    }
    fn limit(&self) -> Duration {
        Duration::from_secs(5)
    }
    fn unknown(&self) -> Unknown {
        Unknown::Fence
    }
    fn refuses_for_good(&self) -> bool {
        true
    }
    fn destination(&self) -> Option<&str> {
        Some(self.url)
    }
}

impl Undo<Order> for ByHand {
    async fn undo(&self, _: Cx<'_, Order, (Reserve,)>, _: Ran<u64>, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Mail;

/// Not async, and without an undo.
#[step(name = "mail", place = Journal<Tx>)]
impl Mail {
    fn mail(&self, cx: Cx<'_, Order>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
        tx.put("mails", cx.key, "sent");
        Ok(())
    }
}

/// What is said of a step.
fn says<S: Step<Order>>(step: &S) -> (Retry, Duration, Unknown, bool, Option<&str>) {
    (step.retry(), step.limit(), step.unknown(), step.refuses_for_good(), step.destination())
}

fn lives_in_the_journal<S: Step<Order, Place = Journal<Tx>, Needs = ()>>() -> &'static str {
    S::NAME
}

#[test]
fn it_is_what_it_says() {
    let (charge, by_hand) = (Charge { url: "http://pay" }, ByHand { url: "http://pay" });
    assert_eq!(says(&charge), says(&by_hand));
    assert_eq!(lives_in_the_journal::<Mail>(), "mail");
    let saga: Saga<Order, Tx> =
        Saga::new("place-order", 1).step(Reserve).both(charge, by_hand).pivot(Mail).build();
    drop(saga);
}
