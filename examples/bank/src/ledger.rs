//! What a bank does with an account, within whichever transaction it is asked to. The methods differ in when they ask.

use sagas::saga::{OrRetry as _, StepError};
use sqlx::PgConnection;

use crate::transfer::{AccountId, Order, Refusal};

type Done = Result<(), StepError<Refusal>>;

/// The money leaves the account, if it is there.
pub(crate) async fn take(db: &mut PgConnection, key: &str, order: &Order) -> Done {
    let take = "update accounts set sent = sent + $2 where number = $1 and balance >= $2";
    if !change(db, take, order.from, order.cents).await? {
        return Err(refusal(db, order.from, Refusal::Overdrawn).await?);
    }
    note(db, key, "sent", order.from, order.cents).await
}

/// It comes back, as if it had never left.
pub(crate) async fn give_back(db: &mut PgConnection, key: &str, order: &Order) -> Done {
    let back = "update accounts set sent = sent - $2 where number = $1";
    surely(change(db, back, order.from, order.cents).await?)?;
    note(db, key, "given back", order.from, order.cents).await
}

/// The money arrives, if the bank takes it.
pub(crate) async fn put(db: &mut PgConnection, key: &str, order: &Order) -> Done {
    let put = "update accounts set received = received + $2
        where number = $1 and (select is_open from door)";
    if !change(db, put, order.to, order.cents).await? {
        return Err(refusal(db, order.to, Refusal::Closed).await?);
    }
    note(db, key, "received", order.to, order.cents).await
}

/// The money is set aside, if it is there: nobody else spends it.
pub(crate) async fn reserve(db: &mut PgConnection, order: &Order) -> Done {
    let reserve = "update accounts set reserved = reserved + $2 where number = $1 and balance >= $2";
    match change(db, reserve, order.from, order.cents).await? {
        true => Ok(()),
        false => Err(refusal(db, order.from, Refusal::Overdrawn).await?),
    }
}

/// What was set aside leaves.
pub(crate) async fn spend(db: &mut PgConnection, key: &str, order: &Order) -> Done {
    let spend = "update accounts set reserved = reserved - $2, sent = sent + $2 where number = $1";
    surely(change(db, spend, order.from, order.cents).await?)?;
    note(db, key, "sent", order.from, order.cents).await
}

/// What was set aside stays.
pub(crate) async fn release(db: &mut PgConnection, order: &Order) -> Done {
    let release = "update accounts set reserved = reserved - $2 where number = $1";
    surely(change(db, release, order.from, order.cents).await?)
}

/// The bank promises to take it, if it takes any.
pub(crate) async fn expect(db: &mut PgConnection, order: &Order) -> Done {
    let expect = "update accounts set expected = expected + $2
        where number = $1 and (select is_open from door)";
    match change(db, expect, order.to, order.cents).await? {
        true => Ok(()),
        false => Err(refusal(db, order.to, Refusal::Closed).await?),
    }
}

/// What was expected arrives, also if the bank has closed since then.
pub(crate) async fn accept(db: &mut PgConnection, key: &str, order: &Order) -> Done {
    let accept = "update accounts set expected = expected - $2, received = received + $2 where number = $1";
    surely(change(db, accept, order.to, order.cents).await?)?;
    note(db, key, "received", order.to, order.cents).await
}

/// It will not come.
pub(crate) async fn expect_no_more(db: &mut PgConnection, order: &Order) -> Done {
    let forget = "update accounts set expected = expected - $2 where number = $1";
    surely(change(db, forget, order.to, order.cents).await?)
}

/// Whether it was done.
async fn change(
    db: &mut PgConnection,
    statement: &'static str,
    account: AccountId,
    cents: i64,
) -> Result<bool, StepError<Refusal>> {
    let changed = sqlx::query(statement).bind(account.number).bind(cents).execute(db).await.or_retry()?;
    Ok(changed.rows_affected() == 1)
}

/// What was done to an account before can be undone or confirmed: the account is there.
fn surely(done: bool) -> Done {
    if done { Ok(()) } else { Err(StepError::Retry("the account has gone".into())) }
}

async fn refusal(
    db: &mut PgConnection,
    account: AccountId,
    otherwise: Refusal,
) -> Result<StepError<Refusal>, StepError<Refusal>> {
    let is_there = "select exists (select from accounts where number = $1)";
    let is_there: bool = sqlx::query_scalar(is_there).bind(account.number).fetch_one(db).await.or_retry()?;
    Ok(StepError::Refused(if is_there { otherwise } else { Refusal::NoAccount }))
}

async fn note(db: &mut PgConnection, key: &str, kind: &str, account: AccountId, cents: i64) -> Done {
    let note = "insert into ledger (transfer, kind, account, cents) values ($1, $2, $3, $4)";
    let note = sqlx::query(note).bind(key).bind(kind).bind(account.number).bind(cents);
    note.execute(db).await.or_retry().map(drop)
}
