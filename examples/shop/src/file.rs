//! The file of purchases: one a line after a header.

use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::customer::{CustomerId, Purchase};

const HEADER: [&str; 4] = ["customer_id", "date", "number_of_cds", "dollar_value"];
/// No line of this kind of file is as long: what has such lines is something else.
const LONGEST: usize = 1_000;

/// A purchase, and the line it stands in. Equal lines are different purchases; their numbers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) customer: CustomerId,
    pub(crate) purchase: Purchase,
}

/// A line that is no purchase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {why}: {text:?}")]
pub(crate) struct BrokenLine {
    pub(crate) number: u64,
    pub(crate) why: &'static str,
    pub(crate) text: String,
}

/// The file as a whole is not one of purchases.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} is no file of purchases: its first line is not `{}`", HEADER.join(" "))]
    OtherKind { path: PathBuf },
}

/// Purchases, line by line.
#[derive(Debug)]
pub(crate) struct Purchases {
    path: PathBuf,
    lines: BufReader<File>,
    number: u64,
}

impl Purchases {
    /// Opens a file and checks its header.
    pub(crate) async fn open(path: &Path) -> Result<Self, FileError> {
        let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).await.map_err(unreadable)?;
        let mut purchases = Self { path: path.to_owned(), lines: BufReader::new(file), number: 0 };
        let header = purchases.line().await?.unwrap_or_default();
        // Some editors begin a file with a mark that nobody sees.
        if header.trim_start_matches('\u{feff}').split_whitespace().ne(HEADER) {
            return Err(FileError::OtherKind { path: path.to_owned() });
        }
        Ok(purchases)
    }

    /// How many lines the file has, its header included.
    pub(crate) async fn count(path: &Path) -> Result<u64, FileError> {
        let mut all = Self::open(path).await?;
        while all.line().await?.is_some() {}
        Ok(all.number)
    }

    /// The next purchase; an empty line is none.
    pub(crate) async fn next(&mut self) -> Result<Option<Result<Line, BrokenLine>>, FileError> {
        while let Some(line) = self.line().await? {
            if line.len() >= LONGEST {
                let text = shortened(&line);
                return Ok(Some(Err(BrokenLine {
                    number: self.number,
                    why: "no purchase is as long",
                    text,
                })));
            }
            if !line.trim().is_empty() {
                return Ok(Some(parse(self.number, line.trim())));
            }
        }
        Ok(None)
    }

    /// The next line, whatever its bytes; of a longer one its first [`LONGEST`].
    async fn line(&mut self) -> Result<Option<String>, FileError> {
        let mut line = Vec::new();
        let mut piece = Vec::new();
        loop {
            piece.clear();
            // In pieces, so that a file without line ends does not fill the memory.
            let read = (&mut self.lines).take(LONGEST as u64).read_until(b'\n', &mut piece).await;
            let read = read.map_err(|source| FileError::Unreadable { path: self.path.clone(), source })?;
            line.extend_from_slice(&piece[..read.min(LONGEST - line.len())]);
            if read < LONGEST || piece.ends_with(b"\n") {
                break;
            }
        }
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }
}

fn shortened(line: &str) -> String {
    line.trim().chars().take(80).collect()
}

fn all_digits(field: &str) -> bool {
    field.bytes().all(|b| b.is_ascii_digit())
}

fn parse(number: u64, line: &str) -> Result<Line, BrokenLine> {
    let broken = |why| BrokenLine { number, why, text: shortened(line) };
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [customer, date, cds, paid] = fields[..] else {
        return Err(broken("a purchase has four fields: customer, date, number of CDs, dollars"));
    };
    if !all_digits(customer) || customer.len() > 20 {
        return Err(broken("a customer is a number of at most 20 digits"));
    }
    let on = Some(date).filter(|date| date.len() == 8 && all_digits(date));
    let on = on.and_then(|date| Date::strptime("%Y%m%d", date).ok());
    let on = on.ok_or_else(|| broken("a date has the form yyyymmdd"))?;
    let cds = Some(cds).filter(|cds| all_digits(cds)).and_then(|cds| cds.parse().ok());
    let cds = cds.ok_or_else(|| broken("a number of CDs is a whole number, at most 4294967295"))?;
    let paid = paid.parse().map_err(broken)?;
    Ok(Line { number, customer: customer.into(), purchase: Purchase { on, cds, paid } })
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::money::Cents;

    #[test]
    fn a_line_is_a_purchase() {
        let purchase = Purchase { on: date(1997, 1, 12), cds: 5, paid: Cents(7_700) };
        let line = Line { number: 4, customer: "00002".into(), purchase };
        assert_eq!(parse(4, " 00002 19970112  5   77.00"), Ok(line));
    }

    #[test]
    fn a_broken_line_names_its_number_and_what_is_wrong() {
        for (line, why) in [
            ("00002 19970112 5", "four fields"),
            ("ada 19970112 5 77.00", "a customer"),
            ("00002 19971312 5 77.00", "a date"),
            ("00002 1997-01-12 5 77.00", "a date"),
            ("00002 1997112 5 77.00", "a date"),
            ("00002 -19970112 5 77.00", "a date"),
            ("00002 19970112 5.5 77.00", "a number of CDs"),
            ("00002 19970112 -5 77.00", "a number of CDs"),
            ("00002 19970112 4294967296 77.00", "a number of CDs"),
            ("00002 19970112 5 77,00", "an amount"),
        ] {
            let broken = parse(17, line).unwrap_err().to_string();
            assert!(broken.starts_with("line 17: ") && broken.contains(why), "{broken}");
        }
    }
}
