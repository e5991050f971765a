//! The pure core, by way of the fixture.

use std::time::Duration;

use sagas::testing::process;

use crate::bank::{
    AccountError, Deposit, Expired, Inquired, LIMIT, Requested, Transfer, Withdraw, requested, withdrawn,
};

fn ada() -> String {
    "ada".to_owned()
}

fn bob() -> String {
    "bob".to_owned()
}

fn deposit(amount: i64) -> Deposit {
    Deposit { amount, transfer: Some("t1".to_owned()) }
}

fn inquired() -> Inquired {
    Inquired { receipt: "receipt-t1".to_owned() }
}

#[test]
fn money_is_withdrawn_then_deposited() {
    let withdraw = Withdraw { amount: 5, transfer: Some("t1".to_owned()) };
    process::<Transfer>()
        .when(requested(5))
        .then_sends(&ada(), withdraw)
        .then_nothing()
        .then_timer(LIMIT, Expired {})
        .then_state(Transfer { asked: Some(requested(5)), ..Transfer::default() })
        .then_goes_on()
        .accepted()
        .and()
        .when(withdrawn(5))
        .then_sends(&bob(), deposit(5))
        .then_publishes("transfers", "t1", &"done")
        .then_nothing()
        .then_no_timer::<Expired>()
        .then_ended();
}

#[test]
fn a_withdrawal_that_is_refused_ends_it() {
    process::<Transfer>()
        .when(requested(5))
        .and()
        .when_refused::<Withdraw>(AccountError::Overdrawn { balance: 1 })
        .then_nothing()
        .then_ended();
}

#[test]
fn a_deposit_that_is_refused_is_given_back_though_the_end_was_said() {
    let then = process::<Transfer>().given(requested(5)).when(withdrawn(5));
    let then = then.and().when_refused_otherwise::<Deposit>("account-bob does not exist");
    then.then_sends(&ada(), Deposit { amount: 5, transfer: None }).then_nothing().then_ended();
}

#[test]
fn a_refusal_that_nobody_takes_parks_the_instance() {
    let then = process::<Transfer>().given(requested(5)).when(withdrawn(5));
    let then = then.and().when_refused_otherwise::<Deposit>("account-bob does not exist");
    let why = then.and().when_refused_otherwise::<Deposit>("account-ada does not exist").then_parked();
    assert_eq!(why, "nobody wants the money");
}

#[test]
fn time_fires_what_is_due_and_nothing_else() {
    let given = || process::<Transfer>().given(requested(5));
    given()
        .when_elapsed(LIMIT - Duration::from_micros(1))
        .then_goes_on()
        .then_timer(Duration::from_micros(1), Expired {});
    given().when_elapsed(LIMIT).then_nothing().then_ended();
    given().given(withdrawn(5)).given_elapsed(2 * LIMIT).when(requested(5)).then_nothing().then_ended();
}

#[test]
fn a_start_that_comes_twice_and_an_event_for_nobody_are_passed() {
    process::<Transfer>().given(requested(5)).when(requested(7)).then_nothing().then_timer(LIMIT, Expired {});
    process::<Transfer>().when(withdrawn(5)).then_nothing().then_no_instance(&"t1".to_owned());
    let begun_and_ended = process::<Transfer>().given(requested(0));
    begun_and_ended.when(requested(5)).then_nothing().then_ended();
}

#[test]
fn an_association_finds_it_until_it_is_taken_away() {
    let asked = |inquiries| Transfer { asked: Some(requested(5)), inquiries, ..Transfer::default() };
    let twice =
        process::<Transfer>().given(requested(5)).given(inquired()).when(inquired()).then_state(asked(2));
    twice.and().when(inquired()).then_nothing().then_state(asked(2));
}

#[test]
fn a_handler_that_panics_parks_its_instance_and_no_other() {
    let other = Requested { id: "t2".to_owned(), ..requested(5) };
    let then = process::<Transfer>().given(other).when(requested(-1));
    let why = then.then_parked();
    assert!(why.contains("a panic: nobody takes less than nothing"), "{why}");
}
