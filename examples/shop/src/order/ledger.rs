//! The books of the payment service: payments by their keys, and accounts. It acts once under a key.

use std::collections::BTreeMap;

use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::money::Cents;

const TABLES: &str = "
    create table if not exists payments (
        number integer primary key, key text not null unique, owner text not null, cents integer not null,
        state text not null check (state in ('charged', 'refused', 'refunded'))
    ) strict;
    create table if not exists accounts (owner text primary key, cents integer not null) strict;";

/// Whose account is credited.
const SHOP: &str = "shop";

/// What came of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payment {
    /// This is its number.
    Charged(i64),
    Refused,
    /// It was paid back since.
    Refunded,
}

#[derive(Clone, Debug)]
pub(crate) struct Ledger(pub(crate) SqlitePool);

impl Ledger {
    pub(crate) async fn open(pool: SqlitePool) -> Result<Self, sqlx::Error> {
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        Ok(Self(pool))
    }

    /// Moves money from the owner's account to the shop's, unless something came of this key before. `refuses` says of
    /// which payments, by their number.
    pub(crate) async fn charge(
        &self,
        key: &str,
        owner: &str,
        cents: i64,
        refuses: impl FnOnce(i64) -> bool,
    ) -> Result<Payment, sqlx::Error> {
        let mut tx = self.0.begin_with("begin immediate").await?;
        if let Some((payment, ..)) = find(&mut tx, key).await? {
            return Ok(payment);
        }
        let next: i64 = sqlx::query_scalar("select coalesce(max(number), 0) + 1 from payments")
            .fetch_one(&mut *tx)
            .await?;
        let refused = refuses(next);
        let note = "insert into payments (number, key, owner, cents, state) values (?1, ?2, ?3, ?4, ?5)";
        let note = sqlx::query(note).bind(next).bind(key).bind(owner).bind(cents);
        note.bind(if refused { "refused" } else { "charged" }).execute(&mut *tx).await?;
        if !refused {
            transfer(&mut tx, owner, SHOP, cents).await?;
        }
        tx.commit().await?;
        Ok(if refused { Payment::Refused } else { Payment::Charged(next) })
    }

    /// Moves it back, once. Whether there is such a payment.
    pub(crate) async fn refund(&self, key: &str) -> Result<bool, sqlx::Error> {
        let mut tx = self.0.begin_with("begin immediate").await?;
        let Some((payment, owner, cents)) = find(&mut tx, key).await? else { return Ok(false) };
        if let Payment::Charged(number) = payment {
            let note = "update payments set state = 'refunded' where number = ?1";
            sqlx::query(note).bind(number).execute(&mut *tx).await?;
            transfer(&mut tx, SHOP, &owner, cents).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The payments that were made and not given back, by their numbers.
    pub(crate) async fn charged(&self) -> Result<BTreeMap<i64, Cents>, sqlx::Error> {
        let charged = "select number, cents from payments where state = 'charged'";
        let rows: Vec<(i64, i64)> = sqlx::query_as(charged).fetch_all(&self.0).await?;
        Ok(rows.into_iter().map(|(number, cents)| (number, Cents(cents))).collect())
    }

    /// What the shop has, and what all accounts have together: nothing, for each payment is in two of them.
    pub(crate) async fn balances(&self) -> Result<(Cents, Cents), sqlx::Error> {
        let sums =
            "select coalesce(sum(cents) filter (where owner = ?1), 0), coalesce(sum(cents), 0) from accounts";
        let (shop, all) = sqlx::query_as(sums).bind(SHOP).fetch_one(&self.0).await?;
        Ok((Cents(shop), Cents(all)))
    }
}

/// What came of a key, of whose, and for how much.
async fn find(
    tx: &mut Transaction<'_, Sqlite>,
    key: &str,
) -> Result<Option<(Payment, String, i64)>, sqlx::Error> {
    let find = "select number, state, owner, cents from payments where key = ?1";
    let found: Option<(i64, String, String, i64)> =
        sqlx::query_as(find).bind(key).fetch_optional(&mut **tx).await?;
    Ok(found.map(|(number, state, owner, cents)| {
        let payment = match state.as_str() {
            "charged" => Payment::Charged(number),
            "refused" => Payment::Refused,
            _ => Payment::Refunded,
        };
        (payment, owner, cents)
    }))
}

async fn transfer(
    tx: &mut Transaction<'_, Sqlite>,
    from: &str,
    to: &str,
    cents: i64,
) -> Result<(), sqlx::Error> {
    for (owner, by) in [(from, -cents), (to, cents)] {
        let add = "insert into accounts (owner, cents) values (?1, ?2)
            on conflict (owner) do update set cents = cents + excluded.cents";
        sqlx::query(add).bind(owner).bind(by).execute(&mut **tx).await?;
    }
    Ok(())
}
