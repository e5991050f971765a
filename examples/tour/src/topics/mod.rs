//! A file for each topic. Each has one function, `run`, which asserts what it shows; `cargo test -p tour` runs all.

use futures::future::BoxFuture;

#[derive(Debug)]
pub struct Topic {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn() -> BoxFuture<'static, anyhow::Result<()>>,
}

macro_rules! topics { ($($name:ident: $what:literal)+) => {
    $(mod $name;)+

    pub const ALL: &[Topic] =
        &[$(Topic { name: stringify!($name), what: $what, run: || Box::pin($name::run()) }),+];

    #[cfg(test)]
    mod tests { $(
        #[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            super::$name::run().await
        }
    )+ }
} }

topics! {
    ids: "typed ids, and how they are made"
    load: "the state of an aggregate, now and at a point in its history"
    context: "time, person and tenant inside a command"
    expect_version: "decide only on what the user saw, and metadata on a send"
    idempotency: "a request that is sent twice happens once"
    errors: "what to do with each kind of error"
    services: "a handler that asks a service"
    interceptors: "code around every command: who may, who did"
    by_hand: "a command in another crate than its aggregate"
    tags: "how events are tagged, and found by tag"
    decision: "a rule over several streams"
    view: "a row for each key, on any backend"
    sql_projection: "tables and queries of your own, and reading your own write"
    wait_for: "reading your own write, or knowing that it is not there yet"
    transaction: "events and your own tables in one transaction"
    inline: "rows in the commit of the events, and rows that are stored nowhere"
    rebuild: "a projection filled again from the log"
    online_rebuild: "a projection built anew while it is read"
    parked: "a handler that fails: look, mend, retry"
    watch_query: "an answer now, and another after each change"
    stream_query: "an answer that does not fit in memory"
    gather: "one question to several handlers"
    subscribe: "every event, now and as they come"
    reactor: "effects outside: a mail for each new account"
    mirror: "copies kept in step: a second database, and a cache in each process"
    process: "events that lead to commands, later or at once: a gift for a first deposit"
    schedule: "a command at a time, and how it is called off"
    saga: "several steps, all of them or none: a seat is locked, paid and sold"
    tcc: "two participants hold what they need, and then both take it or neither: a seat and a room"
    half_message: "a message elsewhere if, and only if, a transaction of your own database commits: a payment"
    upcasting: "events that were stored in an old shape"
    snapshots: "when a state is kept, so that a long history loads fast"
    status: "where a processor is, and one that is halted"
    shutdown: "health, and how an app ends"
    testing: "given, when, then: without a store"
    clock: "tests own time"
}
