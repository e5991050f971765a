//! The page: what was measured on what, as Markdown.

use std::fmt::Write as _;

use super::contender::Contender;
use super::peers::version;
use super::server::Server;

pub struct Table {
    title: &'static str,
    pub notes: Vec<String>,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: &'static str, head: &[&str]) -> Self {
        let head = head.iter().map(ToString::to_string).collect();
        Self { title, notes: Vec::new(), head, rows: Vec::new() }
    }

    /// The row of a side; one that fails does not stop the others.
    pub fn side(&mut self, side: &Contender, figures: anyhow::Result<Vec<String>>) {
        match figures {
            Ok(figures) => self.rows.push([vec![side.name.clone()], figures].concat()),
            Err(why) => self.notes.push(format!("Failed: {}: {why:#}.", side.name)),
        }
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        // Names to the left, figures to the right.
        let named = usize::from(self.head.get(1).is_some_and(|head| head == "unit")) + 1;
        let rule: Vec<String> =
            (0..self.head.len()).map(|i| if i < named { "---" } else { "---:" }.to_owned()).collect();
        let mut text = format!("## {}\n\n", self.title);
        for note in &self.notes {
            let _ = writeln!(text, "{note}\n");
        }
        text += &line(&self.head);
        text += &line(&rule);
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }
}

/// Figures as people read them.
pub fn number(figure: f64) -> String {
    if figure < 10.0 {
        return ratio(figure);
    }
    let digits = format!("{figure:.0}");
    let first = digits.len() % 3;
    let (first, rest) = digits.split_at(first);
    let rest = rest.as_bytes().chunks(3).map(|three| String::from_utf8_lossy(three).into_owned());
    let groups = Some(first.to_owned()).filter(|first| !first.is_empty()).into_iter().chain(rest);
    groups.collect::<Vec<_>>().join(",")
}

pub fn ratio(ratio: f64) -> String {
    if ratio < 0.01 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

/// Prints each table as soon as it is measured.
pub struct Report(String);

const HEAD: &str = "# Benchmarks

`cargo xtask bench postgres` measures this; [`bench/README.md`](../bench/README.md) says how, and by which rules.
Ratios travel between machines, rates do not.

![ratios to the raw limit](benchmarks.svg)
";

impl Report {
    pub fn new(server: &Server, all: &[Contender], left_out: &[String]) -> anyhow::Result<Self> {
        let postgres: String =
            server.ask(async |conn| sqlx::query_scalar("show server_version").fetch_one(conn).await)?;
        let mut crates: Vec<&str> = all.iter().flat_map(|side| &side.crates).map(String::as_str).collect();
        crates.sort_unstable();
        crates.dedup();
        let crates = crates.iter().filter_map(|name| Some(format!("{name} {}", version(name)?)));
        let mut on = vec![
            format!("- date: {}", jiff::Zoned::now().date()),
            format!("- machine: {}", machine()),
            format!("- PostgreSQL {postgres}, settings of its release"),
            format!("- crates: {}", crates.collect::<Vec<_>>().join(", ")),
            format!(
                "- command: `cargo xtask bench {}`",
                std::env::args().skip(1).collect::<Vec<_>>().join(" ")
            ),
        ];
        on.extend(left_out.iter().map(|why| format!("- left out: {why}")));
        let report = Self(format!("{HEAD}\n{}\n", on.join("\n")));
        println!("{}", on.join("\n"));
        Ok(report)
    }

    pub fn add(&mut self, table: Table) {
        if table.rows.is_empty() {
            return;
        }
        let table = table.markdown();
        println!("\n{table}");
        self.0 += &format!("\n{table}");
    }

    pub fn page(&self) -> &str {
        &self.0
    }
}

fn machine() -> String {
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpu =
        field(&file("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field(&file("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kib = memory.trim_end_matches("kB").trim().parse::<f64>().unwrap_or_default();
    format!("{cores} × {cpu}, {:.0} GiB, {}", kib / 1_048_576.0, std::env::consts::OS)
}
