//! What a domain promises, without a store and without a clock. In a test, each line here is a `#[test]`.

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::testing::{Outcome, Recorder, epoch, given, view};
use tour::domain::{
    Account, AccountError, AccountId, Close, Closed, Deposit, Deposited, Open, Withdraw, Withdrawn, opened,
};

use super::view::Balance;

pub async fn run() -> anyhow::Result<()> {
    // Given what happened, when a command comes, then these events or this error.
    let history = (opened("Ada"), Deposited { amount: 10 });
    given::<Account>(history.clone()).when(Withdraw { amount: 4 }).then(Withdrawn { amount: 4 });
    given::<Account>(history.clone())
        .when(Withdraw { amount: 11 })
        .then_error(AccountError::Overdrawn { balance: 10 });
    given::<Account>(history.clone()).when(Open { owner: "Bob".to_owned() }).then_already_exists();
    given::<Account>(()).when(Deposit { amount: 1 }).then_not_found();

    // Time and person are given too. Services are `.with(..)`.
    let closed = Closed { at: epoch(), by: "Ada".to_owned() };
    given::<Account>(history.clone()).by("Ada").at(epoch()).when(Close).then(closed.clone());
    given::<Account>((opened("Ada"), closed)).when(Deposit { amount: 1 }).then_ended();

    // A view: these events of this aggregate, then this row.
    let ada = AccountId::from("ada");
    let row = Balance { amount: 10, changed: Some(epoch()) };
    view::<Balance>().given::<Account>(&ada, history).then_row(&ada, row);

    // Above the domain: a real app in memory, and a record of what was sent.
    let recorder = Recorder::new();
    let app = App::on(MemoryBackend::new()).interceptor(recorder.clone()).start().await?;
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    let sent = recorder.take();
    assert_eq!((sent[0].command, sent[0].outcome), ("open", Outcome::Done));

    crate::say("seven promises, kept");
    Ok(())
}
