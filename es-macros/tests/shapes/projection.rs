use crate::bank::{Deposited, Opened};
use es_core::memory::Tx;
use es_core::prelude::*;
use es_core::projection::{On, OnFailure, Partition, Projection};

struct Balances;

#[projection(name = "balances", version = 3, schema = "balances.sql")]
impl Balances {
    async fn opened(&self, e: Recorded<'_, Opened>, tx: &mut Tx) -> Result<(), std::fmt::Error> {
        tx.put("balances", &e.owner, []);
        std::future::ready(Ok(())).await
    }

    fn deposited(&self, _: &Deposited, _: &mut Tx) {}

    #[cfg(any())]
    async fn gone(&self, _: &Gone, _: &mut Tx) {}
}

struct Inline;

#[projection(
    name = "inline",
    schema_sql = "create table a (b text)",
    on_failure = stop,
    partition = stream,
    idempotent,
    crate = ::es_core
)]
impl Inline {
    async fn opened(&self, _: &Opened, _: &mut es_core::memory::Tx) {}
}

fn on<R: On<P, Tx>, P: Payload>() -> (&'static str, u32, &'static str) {
    (R::NAME, R::VERSION, R::SCHEMA)
}

#[test]
fn it_is_what_it_says() {
    let schema = "create table balances (id text primary key);\n";
    assert_eq!(on::<Balances, Opened>(), ("balances", 3, schema));
    assert_eq!(on::<Balances, Deposited>(), ("balances", 3, schema));
    assert_eq!(on::<Inline, Opened>(), ("inline", 1, "create table a (b text)"));
    assert_eq!(
        (Balances::ON_FAILURE, Balances::PARTITION, Balances::IDEMPOTENT),
        (OnFailure::Park, Partition::Whole, false)
    );
    assert_eq!(
        (Inline::ON_FAILURE, Inline::PARTITION, Inline::IDEMPOTENT),
        (OnFailure::Stop, Partition::Stream, true)
    );
}
