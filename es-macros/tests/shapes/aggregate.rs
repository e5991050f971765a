use es_core::snapshot::SnapshotPolicy;
use es_core::{Aggregate, Event, EventOf};
use serde::{Deserialize, Serialize};

macro_rules! events { ($($enum:ident $payload:ident)*) => { $(
    #[derive(Clone, Serialize, Deserialize)]
    struct $payload {}

    #[derive(Event, Clone)]
    #[event(prefix = "a")]
    enum $enum {
        Payload($payload),
    }
)* } }
events! { PlainEvent Plained NamedEvent Nameded StateEvent Stateded }

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
struct No;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = PlainEvent, error = No)]
struct BankAccount {}

#[derive(Aggregate, Clone, Default, Serialize, Deserialize)]
#[aggregate(id = u64, event = NamedEvent, error = No, name = "renamed.2", snapshot(every = 200, version = 2))]
struct Named(u32);

#[derive(Aggregate, Clone, Default, Serialize, Deserialize)]
#[aggregate(id = u64, event = StateEvent, error = No, snapshots = State::policy, crate = ::es_core)]
enum State {
    #[default]
    New,
}

impl State {
    fn policy() -> SnapshotPolicy<Self> {
        SnapshotPolicy::on_request().with_schema(3)
    }
}

#[test]
fn it_is_what_it_says() {
    assert_eq!(BankAccount::NAME, "bank_account");
    assert!(!BankAccount::snapshots().is_on());
    assert_eq!((Named::NAME, Named::snapshots().schema()), ("renamed.2", 2));
    assert_eq!(State::snapshots().schema(), 3);
    assert_eq!(<<StateEvent as EventOf>::Aggregate as Aggregate>::NAME, "state");
}
