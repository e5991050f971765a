//! What a person sees.

use std::io::Write as _;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};
use es_core::prelude::*;

use crate::customer::CustomerId;
use crate::money::{Cents, thousands};
use crate::projections::{CustomerCount, HistoryOf, Revenue, RevenueByMonth, TopCustomers};

/// Everything that the projections know, each asked through its query.
pub(crate) async fn figures(app: &App) -> anyhow::Result<()> {
    let months = app.query(RevenueByMonth).await?;
    let customers = app.query(CustomerCount).await?;
    let mut table = new(&["month", "purchases", "CDs", "dollars"]);
    for (month, revenue) in &months {
        table.add_row(row(month.to_string(), revenue));
    }
    line(&table.to_string());

    let mut table = new(&["customer", "purchases", "CDs", "dollars"]);
    for (customer, revenue) in app.query(TopCustomers(10)).await? {
        table.add_row(row(customer.to_string(), &revenue));
    }
    line(&table.to_string());

    let sum = |what: fn(&Revenue) -> u64| thousands(months.iter().map(|(_, revenue)| what(revenue)).sum());
    let paid: Cents = months.iter().map(|(_, revenue)| revenue.paid).sum();
    line(&format!(
        "{} purchases by {} customers: {} CDs for {paid} dollars",
        sum(|r| r.purchases),
        thousands(customers),
        sum(|r| r.cds),
    ));
    for processor in app.processors() {
        if !processor.parked(None, 1).await?.is_empty() {
            let name = processor.name();
            error(&anyhow::anyhow!("{name} could not take in everything: `shop parked` says why"));
        }
    }
    Ok(())
}

/// What one customer bought.
pub(crate) async fn history(app: &App, customer: &CustomerId) -> anyhow::Result<()> {
    let Some(history) = app.query(HistoryOf(customer.clone())).await? else {
        anyhow::bail!("there is no customer {customer}: write the number as the file has it, with its zeros");
    };
    let mut table = new(&["date", "CDs", "dollars"]);
    for purchase in &history.0 {
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let cds = number(purchase.cds.to_string());
        table.add_row([Cell::new(purchase.on), cds, number(purchase.paid.to_string())]);
    }
    line(&table.to_string());
    line(&format!("{} purchases", history.0.len()));
    Ok(())
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    table
}

fn row(name: String, revenue: &Revenue) -> [Cell; 4] {
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let Revenue { purchases, cds, paid } = revenue;
    [Cell::new(name), number(thousands(*purchases)), number(thousands(*cds)), number(paid.to_string())]
}

/// The program's answer. Ends the program if nobody reads it any more, as after `| head`.
pub(crate) fn line(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(1);
    }
}

/// One line, with everything that led to it.
#[expect(clippy::print_stderr, reason = "this is where a person looks for it")]
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("shop: {}", es_core::chain(error.as_ref()));
}
