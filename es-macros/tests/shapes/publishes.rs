use crate::bank::{Deposited, Opened, Withdrawn};
use es_core::Recorded;
use sagas::publishes;
use sagas::relay::Message;

struct Accounts;

#[publishes(name = "accounts")]
impl Accounts {
    /// In the order of the owner.
    #[on(by = owner)]
    fn opened(&self, e: &Opened) -> Message {
        Message::of(&e.owner).typed("com.example.account.opened")
    }

    fn deposited(&self, e: Recorded<'_, Deposited>) -> Option<Message> {
        (e.amount > 0).then(|| Message::of(&e.amount))
    }

    #[on(by = fee)]
    fn withdrawn(&self, e: &Withdrawn) -> Result<Vec<Message>, std::num::TryFromIntError> {
        let amount = i32::try_from(e.amount)?;
        Ok(vec![Message::of(&amount), Message::of(&e.fee)])
    }
}

#[test]
fn it_is_what_it_says() {
    use sagas::relay::Publishes;
    assert_eq!(Accounts.name(), "accounts");
    let filter = Accounts::filter();
    assert!(filter.matches_parts("account.opened", &[]) && !filter.matches_parts("account.closed", &[]));
}
