//! The read side: revenue by month, what each customer spent, and what each customer bought.

use es_core::prelude::*;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::customer::{CustomerId, Purchased};
use crate::money::Cents;

/// A month of the year, `1997-01`.
#[derive(AggregateId, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Month(String);

impl Month {
    pub(crate) fn of(date: Date) -> Self {
        Self(format!("{:04}-{:02}", date.year(), date.month()))
    }
}

impl Purchased {
    fn month(&self) -> Month {
        Month::of(self.on)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revenue {
    pub(crate) purchases: u64,
    pub(crate) cds: u64,
    pub(crate) paid: Cents,
}

impl Revenue {
    fn add(&mut self, e: &Purchased) {
        self.purchases += 1;
        self.cds += u64::from(e.cds);
        self.paid += e.paid;
    }
}

#[view(name = "revenue", version = 1, key = Month)]
impl Revenue {
    #[on(by = month())]
    fn purchased(&mut self, e: &Purchased) {
        self.add(e);
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spending(pub(crate) Revenue);

#[view(name = "spending", version = 1, key = CustomerId)]
impl Spending {
    fn purchased(&mut self, e: &Purchased) {
        self.0.add(e);
    }
}

/// In the order of the log, which is the order of the purchases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History(pub(crate) Vec<Purchased>);

#[view(name = "history", version = 1, key = CustomerId)]
impl History {
    fn purchased(&mut self, e: &Purchased) {
        self.0.push(e.clone());
    }
}

/// Every month with a purchase, in order.
#[derive(Debug)]
pub(crate) struct RevenueByMonth;

/// The customers with the most purchases, the larger sum first among equals.
#[derive(Debug)]
pub(crate) struct TopCustomers(pub(crate) usize);

/// What one customer bought.
#[derive(Debug)]
pub(crate) struct HistoryOf(pub(crate) CustomerId);

/// How many customers there are.
#[derive(Debug)]
pub(crate) struct CustomerCount;

#[derive(Debug)]
pub(crate) struct ShopQueries;

#[queries]
impl ShopQueries {
    async fn by_month(&self, _: RevenueByMonth, views: &Views) -> Result<Vec<(Month, Revenue)>, BoxError> {
        let mut months = Vec::new();
        views.for_each::<Revenue>(|month, revenue| months.push((month, revenue))).await?;
        Ok(months)
    }

    async fn top(&self, q: TopCustomers, views: &Views) -> Result<Vec<(CustomerId, Revenue)>, BoxError> {
        let mut top = Vec::new();
        views
            .for_each::<Spending>(|customer, spending| {
                top.push((customer, spending.0));
                if top.len() > 2 * q.0 {
                    keep_first(&mut top, q.0);
                }
            })
            .await?;
        keep_first(&mut top, q.0);
        Ok(top)
    }

    async fn history(&self, q: HistoryOf, views: &Views) -> Result<Option<History>, BoxError> {
        views.get::<History>(&q.0).await
    }

    async fn count(&self, _: CustomerCount, views: &Views) -> Result<u64, BoxError> {
        let mut customers = 0;
        views.for_each::<Spending>(|_, _| customers += 1).await?;
        Ok(customers)
    }
}

fn keep_first(customers: &mut Vec<(CustomerId, Revenue)>, n: usize) {
    customers.sort_by(|(id_a, a), (id_b, b)| (b.purchases, b.paid, id_a).cmp(&(a.purchases, a.paid, id_b)));
    customers.truncate(n);
}
