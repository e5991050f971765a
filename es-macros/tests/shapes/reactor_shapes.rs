use crate::bank::{Deposited, Opened, Withdrawn};
use es_core::prelude::*;
use es_core::projection::{OnFailure, React};

struct Welcome;
struct Mailer;
struct Texts;

#[reactor(name = "welcome", on_failure = stop, crate = ::es_core)]
impl Welcome {
    async fn opened(&self, e: Recorded<'_, Opened>, _: &Mailer, _: &Texts) -> Result<(), BoxError> {
        std::future::ready(e.aggregate_id().map(drop)?).await;
        Ok(())
    }

    async fn deposited(&self, _: &Deposited) {}

    fn withdrawn(&self, _: &Withdrawn, _: &Self) -> Result<(), std::fmt::Error> {
        Ok(())
    }

    #[cfg(any())]
    fn gone(&self, _: &Gone) {}
}

fn reacts<R: React<P>, P: Payload>() -> &'static str {
    R::NAME
}

#[test]
fn it_is_what_it_says() {
    assert_eq!(reacts::<Welcome, Opened>(), "welcome");
    assert_eq!(reacts::<Welcome, Deposited>(), "welcome");
    assert_eq!(reacts::<Welcome, Withdrawn>(), "welcome");
    assert_eq!(Welcome::ON_FAILURE, OnFailure::Stop);
}
