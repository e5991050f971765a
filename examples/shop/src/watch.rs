//! Where the projections are: once, or live in the terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use es_core::Health;
use es_core::prelude::*;
use es_core::processor::{ProcessorState, ProcessorStatus};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Gauge, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};

use crate::money::thousands;
use crate::report;

/// Between two looks.
const FRAME: Duration = Duration::from_millis(250);
/// How many looks the curve of a rate goes back.
const CURVE: usize = 120;

const HEADER: [&str; 8] =
    ["projection", "build", "position", "behind", "per second", "slices", "parked", "state"];

/// Once, as a table.
pub(crate) async fn status(app: &App) -> anyhow::Result<()> {
    let lines = look(app).await?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(HEADER);
    for line in &lines {
        table.add_row(&line.cells);
    }
    report::line(&table.to_string());
    Ok(())
}

/// Live, until somebody has seen enough.
pub(crate) async fn live(app: &App, plain: bool) -> anyhow::Result<()> {
    if plain || !std::io::stdout().is_terminal() {
        return print(app).await;
    }
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on: use `--plain`")?;
    let drawn = draw_until_quit(app, &mut terminal).await;
    ratatui::restore();
    drawn
}

/// A line for each projection every second, for a terminal that is none.
async fn print(app: &App) -> anyhow::Result<()> {
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        for line in look(app).await? {
            let cells = HEADER.iter().zip(&line.cells).skip(1).map(|(name, cell)| format!("{name} {cell}"));
            report::line(&format!("{}: {}", line.cells[0], cells.collect::<Vec<_>>().join(", ")));
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = &mut interrupted => return Ok(()),
        }
    }
}

/// What is shown of one build.
#[derive(Clone, Debug)]
struct Shown {
    cells: Vec<String>,
    done: f64,
    per_second: u64,
    ill: bool,
}

async fn look(app: &App) -> anyhow::Result<Vec<Shown>> {
    let health = app.health().await;
    health.head.as_ref().map_err(Clone::clone).context("the store does not answer")?;
    let mut shown = Vec::new();
    for processor in app.processors() {
        let parked = processor.parked(None, 1_000).await?.len();
        let current = processor.status().generation;
        shown.extend(processor.builds().iter().map(|build| show(&health, build, parked, current)));
    }
    Ok(shown)
}

fn show(health: &Health, build: &ProcessorStatus, parked: usize, current: u32) -> Shown {
    let head = health.head.as_ref().map_or(0, |head| head.0);
    let read = build.generation == current;
    let mut owners: Vec<_> = build.ranges.iter().filter_map(|range| range.owner).collect();
    owners.sort_unstable();
    owners.dedup();
    let ill = health.ill(build, Duration::from_secs(60));
    let state = match (&build.state, &ill) {
        (_, Some(ill)) => ill.clone(),
        _ if owners.is_empty() => "nobody works on it".to_owned(),
        (ProcessorState::Running | ProcessorState::Elsewhere, _) => "runs".to_owned(),
        (other, _) => format!("{other:?}").to_lowercase(),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people, never negative"
    )]
    let per_second = build.per_second.round() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a part of the whole, for people")]
    let done = if head == 0 { 1.0 } else { (build.position.0 as f64 / head as f64).min(1.0) };
    let cells = vec![
        build.name.to_string(),
        format!("{}{}", build.generation, if read { "" } else { " (not read)" }),
        thousands(build.position.0),
        thousands(health.lag(build)),
        thousands(per_second),
        format!("{} on {} nodes", build.ranges.len(), owners.len()),
        if read { parked.to_string() } else { String::new() },
        state,
    ];
    Shown { cells, done, per_second, ill: ill.is_some() }
}

async fn draw_until_quit(app: &App, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
    let mut curve: Vec<u64> = Vec::new();
    loop {
        let shown = look(app).await?;
        let head = app.store().head().await?;
        curve.push(shown.iter().map(|build| build.per_second).sum());
        curve.drain(..curve.len().saturating_sub(CURVE));
        terminal.draw(|frame| draw(frame, head, &shown, &curve))?;
        tokio::time::sleep(FRAME).await;
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()? {
                let breaks = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if breaks || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(());
                }
            }
        }
    }
}

fn draw(frame: &mut Frame<'_>, head: Position, shown: &[Shown], curve: &[u64]) {
    let n = u16::try_from(shown.len()).unwrap_or(u16::MAX);
    let areas = Layout::vertical([
        Constraint::Length(n + 3),
        Constraint::Length(n + 2),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .split(frame.area());

    let widths = [14, 16, 12, 12, 12, 18, 8, 40].map(Constraint::Length);
    let rows = shown.iter().map(|build| {
        let color = if build.ill { Color::Red } else { Color::Reset };
        Row::new(build.cells.iter().map(|cell| Cell::from(cell.as_str()))).style(Style::new().fg(color))
    });
    let title = format!(" shop: {} events in the log ", thousands(head.0));
    let table =
        Table::new(rows, widths).header(Row::new(HEADER).bold()).block(Block::bordered().title(title));
    frame.render_widget(table, areas[0]);

    let block = Block::bordered().title(" taken in ");
    let inner = block.inner(areas[1]);
    frame.render_widget(block, areas[1]);
    for (build, area) in
        shown.iter().zip(Layout::vertical(vec![Constraint::Length(1); shown.len()]).split(inner).iter())
    {
        let label = format!("{} {}: {:.1} %", build.cells[0], build.cells[1], 100.0 * build.done);
        frame.render_widget(Gauge::default().ratio(build.done).label(label).gauge_style(Color::Cyan), *area);
    }

    let title = format!(
        " events per second, all together: {} ",
        thousands(curve.last().copied().unwrap_or_default())
    );
    frame.render_widget(Sparkline::default().block(Block::bordered().title(title)).data(curve), areas[2]);
    frame.render_widget(Line::from(" q: quit").dim(), areas[3]);
}
