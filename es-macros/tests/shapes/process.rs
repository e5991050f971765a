//! Each key and attribute once.

use crate::bank::{self, AccountId, Deposit, Deposited, Opened, Withdraw, Withdrawn};
use es_core::Recorded;
use sagas::testing::process as fixture;
use sagas::{Next, Process as _, Refused, Timer, process};
use serde::{Deserialize, Serialize};

#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[timer(name = "too.late")]
struct Expired {}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Welcome {
    n: u32,
}

#[process(
    name = "welcome",
    version = 2,
    key = AccountId,
    sends(Deposit, bank::Withdraw),
    after_end = again,
    keep_ended_days = 30,
    earlier(WelcomeV1),
    crate = ::sagas
)]
impl Welcome {
    #[starts]
    fn opened(&mut self, e: Recorded<'_, Opened>) -> Next<Self> {
        let next = Next::wait().timer(std::time::Duration::from_secs(1), Expired {});
        next.associate("owner", format!("{:?}", e.stream()))
    }

    #[on(early = stash)]
    fn deposited(&mut self, e: &Deposited) -> Result<Next<Self>, std::fmt::Error> {
        if e.amount == 0 { Err(std::fmt::Error) } else { Ok(Next::wait()) }
    }

    #[on(by = amount, via = "amount")]
    fn withdrawn(&mut self, _: &Withdrawn) -> Next<Self> {
        self.n += 1;
        Next::wait()
    }

    #[refused]
    fn no_deposit(&mut self, _: Refused<Deposit>) -> Next<Self> {
        Next::end()
    }

    #[cfg(any())]
    #[refused]
    fn no_withdrawal(&mut self, _: Refused<Nothing>) -> Next<Self> {
        Next::end()
    }

    #[refused]
    fn no_withdrawal(&mut self, r: Refused<Withdraw>) -> Result<Next<Self>, String> {
        Err(r.id)
    }

    #[timer]
    fn expired(&mut self, _: Expired) -> Next<Self> {
        Next::send(&AccountId::from("a"), Deposit { amount: 1 }).and_end()
    }
}

#[derive(Default, Serialize, Deserialize)]
struct WelcomeV1 {}

#[process(name = "welcome", key = AccountId)]
impl WelcomeV1 {
    #[starts]
    fn opened(&mut self, _: &Opened) -> Next<Self> {
        Next::wait()
    }
}

#[test]
fn it_is_what_it_says() {
    assert_eq!((Welcome::NAME, Welcome::VERSION, Expired::NAME), ("welcome", 2, "too.late"));
    assert!(!Welcome::BY_KEY && WelcomeV1::BY_KEY);
    assert_eq!(Welcome::earlier()[0].version(), 1);
    let a = AccountId::from("a");
    fixture::<Welcome>()
        .given_to::<bank::Account>(&a, Opened { owner: "ada".to_owned() })
        .when_elapsed(std::time::Duration::from_secs(1))
        .then_sends(&a, Deposit { amount: 1 })
        .then_ended();
}
