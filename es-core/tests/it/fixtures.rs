//! The fixtures, and what they say when a test is wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};

use es_core::event::Event;
use es_core::testing::conformance::domain::{
    Account, AccountError, AccountEvent, Close, Closed, Deposit, Deposited, Donate, Gate, Look, Open, Rate,
    Stamp, Verify, Wait, Withdraw, deposited, opened, withdrawn,
};
use es_core::testing::conformance::readside::Balance;
use es_core::testing::{epoch, given, view};

fn ada() -> [AccountEvent; 2] {
    [opened("ada"), deposited(10)]
}

fn closed() -> AccountEvent {
    AccountEvent::Closed(Closed {})
}

#[test]
fn a_command_decides_events_or_nothing() {
    given::<Account>(ada()).when(Withdraw { amount: 10 }).then(withdrawn(10));
    given::<Account>(()).when(Open { owner: "ada".to_owned() }).then(opened("ada"));
    given::<Account>(()).when(Donate { amount: 1 }).then([deposited(1)]);
    given::<Account>(ada()).when(Look {}).then_nothing();
}

#[test]
fn a_command_is_refused_by_the_domain_or_by_the_state_of_its_aggregate() {
    given::<Account>(ada()).when(Withdraw { amount: 11 }).then_error(AccountError::Overdrawn { balance: 10 });
    given::<Account>(()).when(Withdraw { amount: 1 }).then_not_found();
    given::<Account>(ada()).when(Open { owner: "bob".to_owned() }).then_already_exists();
    given::<Account>((opened("ada"), closed())).when(Close {}).then_ended();
    given::<Account>((opened("ada"), closed())).when(Donate { amount: 1 }).then_ended();
}

#[test]
fn a_service_can_fail() {
    let error = given::<Account>(ada()).when(Verify {}).then_service_error();
    assert_eq!(error.to_string(), "the service is down");
}

#[test]
fn a_handler_sees_the_time_and_who_asks() {
    let stamped = |reference: &str| Deposited { amount: 0, reference: Some(reference.to_owned()) };
    given::<Account>(ada()).when(Stamp {}).then(stamped(&format!("{}  ", epoch())));
    given::<Account>(ada())
        .at("2030-01-02T03:04:05Z".parse().unwrap())
        .by("bob")
        .for_tenant("t-1")
        .when(Stamp {})
        .then(stamped("2030-01-02T03:04:05Z bob t-1"));
}

#[tokio::test]
async fn a_handler_that_waits_is_awaited() {
    let gate = Gate::default();
    gate.open();
    given::<Account>(ada()).with(gate).when_async(Wait {}).await.then(deposited(1));
}

#[test]
fn what_is_wrong_with_a_test_is_said_clearly() {
    for (expected, wrong) in [
        (
            "the handler of wait waits for something: use `.when_async(cmd).await`",
            wrong(|| {
                given::<Account>(ada()).with(Gate::default()).when(Wait {}).then(deposited(1));
            }),
        ),
        (
            "no `es_core::testing::conformance::domain::Gate` was provided",
            wrong(|| {
                given::<Account>(ada()).when(Wait {}).then(deposited(1));
            }),
        ),
        (
            "events of withdraw (expected < > decided)",
            wrong(|| {
                given::<Account>(ada()).when(Withdraw { amount: 1 }).then(withdrawn(2));
            }),
        ),
        (
            "withdraw was expected to fail and decided [Withdrawn(Withdrawn { amount: 1 })]",
            wrong(|| {
                given::<Account>(ada()).when(Withdraw { amount: 1 }).then_not_found();
            }),
        ),
        (
            "withdraw was expected to decide events and ended with: Refused(Overdrawn",
            wrong(|| {
                given::<Account>(ada()).when(Withdraw { amount: 11 }).then(withdrawn(11));
            }),
        ),
        (
            "cannot encode event account.rated",
            wrong(|| {
                drop(given::<Account>(ada()).when(Rate { rate: "NaN".to_owned() }));
            }),
        ),
    ] {
        assert!(wrong.contains(expected), "expected {expected:?} in {wrong:?}");
    }
}

fn wrong(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("the test is wrong");
    panic.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn a_view_is_folded_from_recorded_events() {
    let (a, b) = ("a".to_owned(), "b".to_owned());
    view::<Balance>()
        .given::<Account>(&a, ada())
        .given::<Account>(&b, opened("bob"))
        .given::<Account>(&a, withdrawn(3))
        .then_row(&a, Balance { amount: 7, n_payments: 2 })
        .then_row(&b, Balance::default())
        .then_no_row(&"c".to_owned());
}

#[test]
fn every_event_of_the_domain_has_a_name_of_its_own() {
    let mut names: Vec<_> = AccountEvent::TYPES.iter().map(|t| t.name).collect();
    names.dedup();
    assert_eq!(names.len(), AccountEvent::TYPES.len());
}

#[test]
fn deposits_by_donation_need_no_account() {
    given::<Account>(()).when(Deposit { amount: 1 }).then_not_found();
}
