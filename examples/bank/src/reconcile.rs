//! Nightly: both banks' ledgers against each other, and against what came of each transfer.

use std::collections::BTreeMap;
use std::fmt;

use es_core::prelude::*;
use es_core::store::read_all;
use sqlx::PgPool;

use crate::banks::Databases;
use crate::report::{self, dollars, thousands};
use crate::transfer::{AccountId, Bank, Declined, Order, Settled};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Settled, and no bank has sent it.
    MissingLeft,
    /// Settled, and no bank has received it.
    MissingRight,
    /// What is booked is not what came of it.
    Mismatch,
    /// Booked more than once.
    Duplicate,
    /// Booked, and not over.
    Pending,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingLeft => "missing-left",
            Self::MissingRight => "missing-right",
            Self::Mismatch => "mismatch",
            Self::Duplicate => "duplicate",
            Self::Pending => "pending",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    class: Class,
    /// A transfer, or an account.
    of: String,
    why: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, of, why } = self;
        write!(f, "{class} {of}: {why}")
    }
}

/// Prints them; none is what is wanted.
pub(crate) async fn reconcile(databases: &Databases) -> anyhow::Result<()> {
    let differences = differences(databases).await?;
    for difference in &differences {
        report::line(&difference.to_string());
    }
    anyhow::ensure!(differences.is_empty(), "{} differences", thousands(differences.len() as u64));
    report::line("reconciliation clean");
    Ok(())
}

/// Every difference. Transfers that are under way meanwhile are pending.
pub(crate) async fn differences(databases: &Databases) -> anyhow::Result<Vec<Difference>> {
    let (mut all, mut found) = (BTreeMap::<String, Booked>::new(), Vec::new());
    // Whatever is over by then is booked: what ends while the books are read may be seen by halves.
    let upto = databases.journal.head().await?;
    for bank in Bank::ALL {
        let pool = databases.banks.pool(bank);
        read_ledger(bank, pool, &mut all).await?;
        found.extend(accounts(bank, pool).await?);
    }
    read_outcomes(&databases.journal, upto, &mut all).await?;
    found.extend(
        all.into_iter()
            .filter_map(|(of, booked)| booked.judge().map(|(class, why)| Difference { class, of, why })),
    );
    found.sort();
    Ok(found)
}

/// A line of a ledger.
type Line = (AccountId, i64);

/// What both banks have of a transfer, and what came of it.
#[derive(Clone, Debug, Default)]
struct Booked {
    sent: Vec<Line>,
    given_back: Vec<Line>,
    received: Vec<Line>,
    /// What was wanted, and whether it is settled.
    outcome: Option<(Order, bool)>,
    /// It came to its end after the first book was opened: what is missing may have been booked behind the reader's back.
    is_late: bool,
}

impl Booked {
    fn judge(&self) -> Option<(Class, String)> {
        let Self { sent, given_back, received, outcome, is_late } = self;
        let text = |lines: &[Line]| match lines {
            [] => "nothing".to_owned(),
            lines => {
                let line = |(account, cents): &Line| format!("{} at {account}", dollars(*cents));
                lines.iter().map(line).collect::<Vec<_>>().join(" and ")
            }
        };
        let [was_sent, came_back, arrived] = [sent, given_back, received].map(|lines| text(lines));
        let booked = format!("sent {was_sent}, given back {came_back}, received {arrived}");
        if [sent, given_back, received].iter().any(|lines| lines.len() > 1) {
            return Some((Class::Duplicate, booked));
        }
        let class = match *outcome {
            None => Some(Class::Pending),
            Some((order, true)) => settled(&order, sent, given_back, received),
            Some((order, false)) => {
                let is_undone =
                    sent == given_back && sent.iter().all(|line| *line == (order.from, order.cents));
                (!is_undone || !received.is_empty()).then_some(Class::Mismatch)
            }
        };
        let is = match outcome {
            None => "not over",
            Some((_, true)) => "settled",
            Some((_, false)) => "declined",
        };
        class.map(|class| (if *is_late { Class::Pending } else { class }, format!("{is}, {booked}")))
    }
}

fn settled(order: &Order, sent: &[Line], given_back: &[Line], received: &[Line]) -> Option<Class> {
    if sent.is_empty() {
        return Some(Class::MissingLeft);
    }
    if received.is_empty() {
        return Some(Class::MissingRight);
    }
    let is_right =
        sent == [(order.from, order.cents)] && received == [(order.to, order.cents)] && given_back.is_empty();
    (!is_right).then_some(Class::Mismatch)
}

async fn read_ledger(bank: Bank, pool: &PgPool, all: &mut BTreeMap<String, Booked>) -> anyhow::Result<()> {
    let lines = "select transfer, kind, account, cents from ledger";
    for (transfer, kind, number, cents) in
        sqlx::query_as::<_, (String, String, i32, i64)>(lines).fetch_all(pool).await?
    {
        let booked = all.entry(transfer).or_default();
        let lines = match kind.as_str() {
            "sent" => &mut booked.sent,
            "received" => &mut booked.received,
            _ => &mut booked.given_back,
        };
        lines.push((AccountId { bank, number }, cents));
    }
    Ok(())
}

async fn read_outcomes(
    journal: &dyn EventStore,
    upto: Position,
    all: &mut BTreeMap<String, Booked>,
) -> anyhow::Result<()> {
    let filter = EventFilter::of::<Settled>().or(EventFilter::of::<Declined>());
    for event in read_all(journal, &filter, Position(0)).await?.events {
        let (id, order, is_settled) = match (event.payload::<Settled>()?, event.payload::<Declined>()?) {
            (Some(Settled { id, order }), _) => (id, order, true),
            (None, Some(Declined { id, order, .. })) => (id, order, false),
            (None, None) => continue,
        };
        let is_late = event.position.is_none_or(|position| position > upto);
        match all.get_mut(&id.0) {
            Some(booked) => (booked.outcome, booked.is_late) = (Some((order, is_settled)), is_late),
            // It was begun and ended since.
            None if is_late => {}
            None => {
                all.entry(id.0).or_default().outcome = Some((order, is_settled));
            }
        }
    }
    Ok(())
}

/// Accounts that their ledger does not explain, and what is set aside in them.
async fn accounts(bank: Bank, pool: &PgPool) -> Result<Vec<Difference>, sqlx::Error> {
    let accounts = "select number, sent, received, reserved + expected,
            coalesce(sum(cents) filter (where kind = 'sent'), 0)::bigint
                - coalesce(sum(cents) filter (where kind = 'given back'), 0)::bigint,
            coalesce(sum(cents) filter (where kind = 'received'), 0)::bigint
        from accounts left join ledger on account = number group by number";
    let mut found = Vec::new();
    for (number, sent, received, aside, booked_sent, booked_received) in
        sqlx::query_as::<_, (i32, i64, i64, i64, i64, i64)>(accounts).fetch_all(pool).await?
    {
        let of = AccountId { bank, number }.to_string();
        if (sent, received) != (booked_sent, booked_received) {
            let [sent, received, booked_sent, booked_received] =
                [sent, received, booked_sent, booked_received].map(dollars);
            let why = format!(
                "it has sent {sent} and received {received}, its ledger {booked_sent} and {booked_received}"
            );
            found.push(Difference { class: Class::Mismatch, of: of.clone(), why });
        }
        if aside != 0 {
            let why = format!("{} is reserved or expected", dollars(aside));
            found.push(Difference { class: Class::Pending, of, why });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order { from: "a-1".parse().unwrap(), to: "b-2".parse().unwrap(), cents: 500 }
    }

    fn booked(sent: &[i64], given_back: &[i64], received: &[i64], is_settled: Option<bool>) -> Option<Class> {
        let lines = |cents: &[i64], at| cents.iter().map(|cents| (at, *cents)).collect();
        let Order { from, to, .. } = order();
        let [sent, given_back, received] = [lines(sent, from), lines(given_back, from), lines(received, to)];
        let outcome = is_settled.map(|is_settled| (order(), is_settled));
        let is_late = false;
        Booked { sent, given_back, received, outcome, is_late }.judge().map(|(class, _)| class)
    }

    #[test]
    fn what_ends_while_the_books_are_read_is_pending_unless_it_is_seen_whole() {
        let late = |sent: &[i64], received: &[i64]| {
            let lines = |cents: &[i64], at| cents.iter().map(|cents| (at, *cents)).collect();
            let (Order { from, to, .. }, is_late) = (order(), true);
            let (sent, received, given_back) = (lines(sent, from), lines(received, to), Vec::new());
            let outcome = Some((order(), true));
            Booked { sent, given_back, received, outcome, is_late }.judge().map(|(class, _)| class)
        };
        // Booked at the first bank once that was read, and at the second one before it was.
        assert_eq!(late(&[], &[500]), Some(Class::Pending));
        assert_eq!(late(&[500], &[500]), None);
        assert_eq!(late(&[500, 500], &[500]), Some(Class::Duplicate));
    }

    #[test]
    fn what_is_booked_as_it_came_out_is_no_difference() {
        assert_eq!(booked(&[500], &[], &[500], Some(true)), None);
        assert_eq!(booked(&[500], &[500], &[], Some(false)), None);
        assert_eq!(booked(&[], &[], &[], Some(false)), None);
    }

    #[test]
    fn each_difference_has_its_class() {
        assert_eq!(booked(&[], &[], &[500], Some(true)), Some(Class::MissingLeft));
        assert_eq!(booked(&[500], &[], &[], Some(true)), Some(Class::MissingRight));
        assert_eq!(booked(&[500], &[], &[501], Some(true)), Some(Class::Mismatch));
        assert_eq!(booked(&[500], &[500], &[500], Some(true)), Some(Class::Mismatch));
        assert_eq!(booked(&[500], &[], &[], Some(false)), Some(Class::Mismatch));
        assert_eq!(booked(&[500], &[500], &[500], Some(false)), Some(Class::Mismatch));
        assert_eq!(booked(&[500, 500], &[], &[500], Some(true)), Some(Class::Duplicate));
        assert_eq!(booked(&[500], &[], &[], None), Some(Class::Pending));
    }
}
