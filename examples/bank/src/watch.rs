//! What others see while transfers are under way: snapshots of both banks, one after the other, and what a method promises of
//! them.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use crate::banks::Banks;
use crate::by::Method;
use crate::report::{dollars, thousands};
use crate::transfer::Bank;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// A bank, as one statement sees it: the sums of its accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    balance: i64,
    sent: i64,
    received: i64,
    reserved: i64,
    expected: i64,
    /// The lowest balance.
    least: i64,
}

impl Books {
    async fn read(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let sums =
            "select sum(balance)::bigint, sum(sent)::bigint, sum(received)::bigint, sum(reserved)::bigint,
            sum(expected)::bigint, min(balance) from accounts";
        let (balance, sent, received, reserved, expected, least) =
            sqlx::query_as(sums).fetch_one(pool).await?;
        Ok(Self { balance, sent, received, reserved, expected, least })
    }
}

/// One way, from one bank to the other. Each bank is read at a time of its own, and that makes nothing up: what is missing had
/// left before the second look and is not there at that look; what is there twice had arrived before it and has not left.
#[derive(Clone, Copy, Debug)]
struct OneWay {
    /// Of the bank that it leaves, before the other one is read.
    left: Books,
    /// Of the bank that it reaches, after that.
    there: Books,
}

impl OneWay {
    /// Gone from one bank, and neither at the other nor promised there.
    const fn missing(&self) -> i64 {
        let missing = self.left.sent - self.there.received - self.there.expected;
        if missing > 0 { missing } else { 0 }
    }
}

/// Arrived at a bank (`there`, read first), and not gone from the other, nor set aside there (`left`, read after that).
const fn twice(there: &Books, left: &Books) -> i64 {
    let twice = there.received - left.sent - left.reserved;
    if twice > 0 { twice } else { 0 }
}

/// Bank a, bank b, and bank a again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot([Books; 3]);

impl Snapshot {
    pub(crate) async fn take(banks: &Banks) -> Result<Self, sqlx::Error> {
        let [a, b] = [banks.pool(Bank::A), banks.pool(Bank::B)];
        Ok(Self([Books::read(a).await?, Books::read(b).await?, Books::read(a).await?]))
    }

    fn missing(&self) -> i64 {
        let Self([first, b, then]) = *self;
        OneWay { left: first, there: b }.missing() + OneWay { left: b, there: then }.missing()
    }

    fn twice(&self) -> i64 {
        let Self([first, b, then]) = self;
        twice(first, b) + twice(b, then)
    }

    /// Set aside: not decided yet.
    fn reserved(&self) -> i64 {
        let Self([a, b, _]) = self;
        a.reserved + b.reserved
    }

    /// What was sent or received before, and has come back since then.
    fn taken_back(&self, before: &Self) -> bool {
        let Self([.., b, a]) = self;
        let Self([.., b_before, a_before]) = before;
        let fell = |now: &Books, then: &Books| now.sent < then.sent || now.received < then.received;
        fell(a, a_before) || fell(b, b_before)
    }

    /// All money, with nothing under way.
    fn total(&self) -> i64 {
        let Self([.., b, a]) = self;
        a.balance + b.balance
    }

    fn is_at_rest(&self) -> bool {
        let Self([first, b, a]) = self;
        let nothing = |books: &Books| books.reserved == 0 && books.expected == 0;
        first == a && nothing(a) && nothing(b) && a.sent == b.received && b.sent == a.received
    }
}

/// What a method promises of every snapshot. Beside that each holds at rest: all money is there, and nothing is set aside.
fn broken(method: Method, now: &Snapshot, before: Option<&Snapshot>) -> Option<&'static str> {
    let Snapshot(books) = now;
    let is_tcc = method == Method::Tcc;
    // Each bank by itself: it shows a transfer whole, or not at all, so nothing that it shows is ever taken back.
    let is_whole = is_tcc || method == Method::TwoPhase;
    // Both banks do it at the same time: it may arrive before it leaves.
    let is_at_once = matches!(method, Method::TwoPhase | Method::UndoLog);
    if books.iter().any(|books| books.least < 0) {
        Some("a balance is below zero")
    } else if is_tcc && now.missing() > 0 {
        Some("money is neither there nor reserved")
    } else if !is_at_once && now.twice() > 0 {
        Some("money is there twice")
    } else if !is_tcc && now.reserved() != 0 {
        Some("money is set aside that nobody sets aside")
    } else if is_whole && before.is_some_and(|before| now.taken_back(before)) {
        Some("what was shown as done is taken back")
    } else {
        None
    }
}

/// What was seen in a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    snapshots: u64,
    missing: Most,
    reserved: Most,
    taken_back: u64,
    /// A promise that did not hold.
    broken: Option<String>,
}

/// In how many snapshots, and the largest sum.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    times: u64,
    cents: i64,
}

impl Most {
    fn add(&mut self, cents: i64) {
        self.times += u64::from(cents != 0);
        self.cents = self.cents.max(cents);
    }

    fn tell(self, what: &str, of: u64) -> Option<String> {
        let Self { times, cents } = self;
        let [times, of, sum] = [thousands(times), thousands(of), dollars(cents)];
        (cents > 0).then(|| format!("{what} in {times} of {of} snapshots, up to {sum}"))
    }
}

impl Seen {
    fn add(&mut self, method: Method, now: &Snapshot, before: Option<&Snapshot>) {
        self.snapshots += 1;
        self.missing.add(now.missing());
        self.reserved.add(now.reserved());
        self.taken_back += u64::from(before.is_some_and(|before| now.taken_back(before)));
        if let Some(broken) = broken(method, now, before) {
            self.broken.get_or_insert_with(|| format!("{method}: {broken}: {now:?}"));
        }
    }

    /// In words.
    pub(crate) fn tell(&self) -> String {
        let missing = self.missing.tell("missing", self.snapshots);
        let missing =
            missing.unwrap_or_else(|| format!("nothing missing in {} snapshots", thousands(self.snapshots)));
        let back = (self.taken_back > 0).then(|| format!("taken back {} times", thousands(self.taken_back)));
        let parts = [Some(missing), self.reserved.tell("reserved", self.snapshots), back];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// A promise that did not hold.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

/// Looks until it is told to stop, and once more.
pub(crate) async fn watch(
    method: Method,
    banks: Banks,
    mut stop: watch::Receiver<bool>,
) -> Result<Seen, sqlx::Error> {
    let (mut seen, mut before) = (Seen::default(), None);
    loop {
        let is_last = *stop.borrow_and_update();
        let now = Snapshot::take(&banks).await?;
        seen.add(method, &now, before.as_ref());
        before = Some(now);
        if is_last {
            return Ok(seen);
        }
        drop(tokio::time::timeout(PAUSE, stop.changed()).await);
    }
}

/// All the money that there is, with nothing under way.
pub(crate) async fn at_rest(banks: &Banks) -> anyhow::Result<i64> {
    let now = Snapshot::take(banks).await?;
    anyhow::ensure!(now.is_at_rest(), "nothing is under way, and the banks do not agree: {now:?}");
    Ok(now.total())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bank a has sent 5 to bank b, which has not got it.
    fn half_way() -> Snapshot {
        let a = Books { balance: 95, sent: 5, least: 1, ..Books::default() };
        Snapshot([a, Books { balance: 100, least: 1, ..Books::default() }, a])
    }

    fn promises(snapshot: Snapshot) -> Vec<Method> {
        Method::ALL.into_iter().filter(|method| broken(*method, &snapshot, None).is_some()).collect()
    }

    #[test]
    fn what_is_nowhere_is_missing_and_only_a_tcc_promises_that_there_is_none() {
        assert_eq!((half_way().missing(), half_way().is_at_rest()), (5, false));
        assert_eq!(promises(half_way()), [Method::Tcc]);
    }

    #[test]
    fn what_is_promised_at_the_other_bank_is_not_missing() {
        let mut half = half_way();
        half.0[1].expected = 5;
        assert_eq!((half.missing(), promises(half).contains(&Method::Tcc)), (0, false));
    }

    #[test]
    fn money_that_is_there_twice_is_seen_but_not_where_banks_commit_one_after_the_other() {
        let mut both = half_way();
        both.0[1].sent = 1;
        both.0[2] = Books { received: 3, ..both.0[0] };
        both.0[0] = Books { received: 3, ..both.0[0] };
        assert_eq!((both.twice(), promises(both).contains(&Method::TwoPhase)), (2, false));
        assert!(promises(both).contains(&Method::Saga));
    }

    #[test]
    fn a_bank_that_shows_less_than_before_has_shown_too_much() {
        let before = half_way();
        let mut now = before;
        now.0[2].sent = 4;
        assert!(now.taken_back(&before) && !before.taken_back(&before));
        assert_eq!(
            broken(Method::TwoPhase, &now, Some(&before)),
            Some("what was shown as done is taken back")
        );
        assert_eq!(broken(Method::Saga, &now, Some(&before)), None);
    }

    #[test]
    fn a_balance_below_zero_breaks_every_promise() {
        let mut below = half_way();
        below.0[1].least = -1;
        assert_eq!(promises(below), Method::ALL);
    }
}
