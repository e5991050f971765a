//! An account's statement, from a copy of the journal in the bank's own database.

use std::time::Duration;

use anyhow::Context as _;
use es_core::prelude::*;
use sagas::mirror::{Mirror, Mirroring as _, Mirrors as _};

use crate::banks::{Banks, Databases};
use crate::report::{dollars, line};
use crate::transfer::{AccountId, Bank, Transfer, TransferId};

const TABLE: &str = "create table if not exists advices (
    transfer text primary key,
    version  bigint not null,
    account  int not null,
    partner  text not null,
    cents    bigint not null,
    outcome  text
);
-- A row once what was there before the first time has been copied.
create table if not exists advices_filled (at timestamptz not null default now())";

/// A write that comes late, or twice, finds this version or a newer one, and changes nothing.
const WRITE: &str = "insert into advices (transfer, version, account, partner, cents, outcome)
    values ($1, $2, $3, $4, $5, $6)
    on conflict (transfer) do update set version = excluded.version, outcome = excluded.outcome
    where advices.version < excluded.version";

/// How long the copy may need for what the journal has by now.
const SETTLES: Duration = Duration::from_secs(60);

/// What became of each transfer, in the database of either bank.
#[derive(Clone, Debug)]
struct Advices(Banks);

impl Mirror for Advices {
    const NAME: &'static str = "advices";
    type Of = Transfer;

    async fn write(&self, id: &TransferId, version: Version, transfer: &Transfer) -> Result<(), BoxError> {
        let Some(order) = transfer.order else { return Ok(()) };
        let (version, outcome) =
            (i64::try_from(version.0)?, transfer.outcome.as_ref().map(ToString::to_string));
        for (own, partner, cents) in
            [(order.from, order.to, -order.cents), (order.to, order.from, order.cents)]
        {
            let write = sqlx::query(WRITE).bind(&id.0).bind(version).bind(own.number);
            let write = write.bind(partner.to_string()).bind(cents).bind(&outcome);
            write.execute(self.0.pool(own.bank)).await?;
        }
        Ok(())
    }
}

/// Brings both banks' copies in step with the journal, and prints what one of them says of an account.
pub(crate) async fn statement(databases: &Databases, account: AccountId) -> anyhow::Result<()> {
    let Databases { journal, banks, .. } = databases;
    for bank in Bank::ALL {
        sqlx::raw_sql(TABLE).execute(banks.pool(bank)).await?;
    }
    let app = App::on(journal.clone()).aggregate::<Transfer>().provide(banks.clone());
    let app = app.mirror(Advices(banks.clone())).start().await?;
    let done = follow(&app, banks).await;
    app.shutdown(SETTLES).await;
    done?;
    print(banks, account).await
}

/// Its reactor goes on where it ended the last time. What was there before the first time is filled in.
async fn follow(app: &App, banks: &Banks) -> anyhow::Result<()> {
    let bank = banks.pool(Bank::A);
    if !sqlx::query_scalar("select exists (select from advices_filled)").fetch_one(bank).await? {
        app.fill::<Advices>().await?;
        sqlx::query("insert into advices_filled default values").execute(bank).await?;
    }
    app.settle(SETTLES).await.context("the banks' copies are not in step with the journal")
}

async fn print(banks: &Banks, account: AccountId) -> anyhow::Result<()> {
    let find = "select transfer, cents, partner, coalesce(outcome, 'under way') from advices
        where account = $1 order by transfer";
    let found = sqlx::query_as::<_, (String, i64, String, String)>(find).bind(account.number);
    let found = found.fetch_all(banks.pool(account.bank)).await?;
    for (transfer, cents, partner, outcome) in &found {
        let way = if *cents < 0 { "to" } else { "from" };
        line(&format!("{transfer}: {} dollars {way} {partner}, {outcome}", dollars(cents.abs())));
    }
    line(&format!("{account} has {} transfers", found.len()));
    Ok(())
}
