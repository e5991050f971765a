//! A worker: transfers what it is told on its input, a line each, and says what came of it, a line each.

use std::fmt;
use std::str::FromStr;

use anyhow::Context as _;
use es_core::App;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

use crate::by::{self, Method};
use crate::report;
use crate::transfer::Order;

/// It says this first.
pub(crate) const READY: &str = "ready";
/// And this of a transfer that it could not bring to an end.
pub(crate) const FAILED: &str = "failed";

/// A line of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) key: String,
    pub(crate) order: Order,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, order: Order { from, to, cents } } = self;
        write!(f, "{key} {from} {to} {cents}")
    }
}

impl FromStr for Asked {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = line.split(' ').collect();
        let [key, from, to, cents] = parts[..] else { anyhow::bail!("this is no transfer: {line:?}") };
        let account = |text: &str| text.parse().map_err(|why: &str| anyhow::anyhow!(why));
        let order = Order { from: account(from)?, to: account(to)?, cents: cents.parse()? };
        Ok(Self { key: key.to_owned(), order })
    }
}

/// Until its input ends.
pub(crate) async fn work(method: Method, app: &App) -> anyhow::Result<()> {
    let (mut lines, mut tasks) = (BufReader::new(tokio::io::stdin()).lines(), JoinSet::new());
    report::line(READY);
    while let Some(line) = lines.next_line().await.context("the input cannot be read")? {
        let (Asked { key, order }, app) = (line.parse()?, app.clone());
        tasks.spawn(async move {
            let said = match by::transfer(method, &app, &key, order).await {
                Ok(outcome) => outcome.to_string(),
                Err(error) => format!("{FAILED}: {}", es_core::chain(error.as_ref())),
            };
            report::line(&format!("{key} {}", said.replace('\n', " ")));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_a_line() {
        let asked: Asked = "run-1 a-17 b-4 500".parse().unwrap();
        assert_eq!((asked.to_string().as_str(), asked.order.cents), ("run-1 a-17 b-4 500", 500));
        for line in ["", "run-1 a-17 b-4", "run-1 a-17 b-4 x", "run-1 c-17 b-4 5"] {
            line.parse::<Asked>().unwrap_err();
        }
    }
}
