//! Where the projections are, live in the terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use es_core::prelude::*;
use es_core::processor::ProcessorError;
use es_core::{ErrorKind, chain};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Gauge, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::watch;

use crate::look::{self, HEADER, Shown};
use crate::money::thousands;
use crate::report;

/// Between two looks.
const FRAME: Duration = Duration::from_millis(250);
/// How many looks the curve of a rate goes back.
const CURVE: usize = 500;

/// Live, until somebody has seen enough.
pub(crate) async fn live(app: &App, plain: bool) -> anyhow::Result<()> {
    look::arrive(app).await?;
    if plain || !std::io::stdout().is_terminal() {
        return print(app).await;
    }
    let (send, seen) = watch::channel(Picture::default());
    let drawn = match ratatui::try_init() {
        // The keys are heard while the store keeps a look waiting.
        Ok(mut terminal) => tokio::select! {
            drawn = draw_until_quit(&mut terminal, seen) => drawn,
            failed = keep_looking(app, send) => Err(failed.into()),
        },
        Err(error) => Err(error).context("the terminal cannot be drawn on: use `--plain`"),
    };
    ratatui::restore();
    drawn
}

/// A line for each build every second, for a terminal that is none.
async fn print(app: &App) -> anyhow::Result<()> {
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let (_, shown) = look::look(app).await?;
        for Shown { cells, per_second, .. } in shown {
            let named = HEADER.iter().zip(&cells).skip(1).map(|(name, cell)| format!("{name} {cell}"));
            let named = named.collect::<Vec<_>>().join(", ");
            report::line(&format!("{}: {named}, {} per second", cells[0], thousands(per_second)));
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = &mut interrupted => return Ok(()),
        }
    }
}

/// What is drawn.
#[derive(Clone, Debug, Default)]
struct Picture {
    head: Position,
    shown: Vec<Shown>,
    /// The rates of late, all builds together.
    curve: Vec<u64>,
    /// Why it is old.
    trouble: Option<String>,
}

/// Looks again and again; ends with an error that does not go away by itself.
async fn keep_looking(app: &App, send: watch::Sender<Picture>) -> ProcessorError {
    loop {
        match look::look(app).await {
            Ok((head, shown)) => send.send_modify(|picture| {
                picture.curve.push(shown.iter().map(|build| build.per_second).sum());
                picture.curve.drain(..picture.curve.len().saturating_sub(CURVE));
                (picture.head, picture.shown, picture.trouble) = (head, shown, None);
            }),
            Err(error) if error.kind() == ErrorKind::Transient => {
                send.send_modify(|picture| picture.trouble = Some(chain(&error)));
            }
            Err(error) => return error,
        }
        tokio::time::sleep(FRAME).await;
    }
}

async fn draw_until_quit(
    terminal: &mut DefaultTerminal,
    seen: watch::Receiver<Picture>,
) -> anyhow::Result<()> {
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        terminal.draw(|frame| draw(frame, &seen.borrow()))?;
        while event::poll(Duration::ZERO).context("keys cannot be read: use `--plain`")? {
            if let Event::Key(key) = event::read()? {
                let breaks = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if breaks || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(());
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FRAME / 5) => {}
            // Sent by another program: of this terminal it is a key.
            _ = &mut interrupted => return Ok(()),
        }
    }
}

fn draw(frame: &mut Frame<'_>, picture: &Picture) {
    let n = u16::try_from(picture.shown.len()).unwrap_or(u16::MAX);
    let heights = [
        Constraint::Length(n.saturating_add(3)),
        Constraint::Length(n.saturating_add(2)),
        Constraint::Min(0),
        Constraint::Length(1),
    ];
    let [table, bars, curve, foot] = Layout::vertical(heights).areas(frame.area());
    draw_table(frame, table, picture);
    draw_bars(frame, bars, &picture.shown);

    let now = thousands(picture.curve.last().copied().unwrap_or_default());
    let block = Block::bordered().title(format!(" events per second, all together: {now} "));
    // The newest of them, as many as there is room for.
    let room = usize::from(block.inner(curve).width);
    let newest = &picture.curve[picture.curve.len().saturating_sub(room)..];
    frame.render_widget(Sparkline::default().block(block).data(newest), curve);

    let line = match &picture.trouble {
        Some(trouble) => Line::from(format!(" q: quit; this is old: {trouble}")).red(),
        None => Line::from(" q: quit").dim(),
    };
    frame.render_widget(line, foot);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, Picture { head, shown, .. }: &Picture) {
    // Names are cut sooner than numbers, which would be others then.
    let widths = [
        Constraint::Max(10),
        Constraint::Max(16),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    let rows = shown.iter().map(|build| {
        let color = if build.parked > 0 { Color::Red } else { Color::Reset };
        Row::new(build.cells.iter().map(|cell| Cell::from(cell.as_str()))).style(Style::new().fg(color))
    });
    let title = format!(" shop: {} events in the log ", thousands(head.0));
    let table = Table::new(rows, widths).header(Row::new(HEADER).bold());
    frame.render_widget(table.block(Block::bordered().title(title)), area);
}

/// How much of the log each build has taken in.
fn draw_bars(frame: &mut Frame<'_>, area: Rect, shown: &[Shown]) {
    let block = Block::bordered().title(" taken in ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let lines = Layout::vertical(shown.iter().map(|_| Constraint::Length(1))).split(inner);
    for (build, line) in shown.iter().zip(lines.iter()) {
        let label = format!("{} {}: {:.1} %", build.cells[0], build.cells[1], 100.0 * build.done);
        let bar = Gauge::default().ratio(build.done).label(label).gauge_style(Color::Cyan);
        frame.render_widget(bar, *line);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn it_can_be_drawn_on_a_terminal_of_any_size() {
        let cells = ["revenue/1", "2", "69,659", "0", "0", "elsewhere"].map(str::to_owned);
        let build = Shown { cells, done: 1.0, per_second: 7, parked: 1 };
        let trouble = Some("the database is busy".to_owned());
        let picture = Picture { head: Position(69_659), shown: vec![build; 6], curve: vec![7; 9], trouble };
        for (width, height) in [(1, 1), (10, 3), (40, 12), (80, 24), (200, 60)] {
            for picture in [&Picture::default(), &picture] {
                let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                terminal.draw(|frame| draw(frame, picture)).unwrap();
                let drawn = terminal.backend().to_string();
                let whole = width >= 80 && !picture.shown.is_empty();
                assert_eq!(drawn.contains("69,659") && drawn.contains("elsewhere"), whole, "{drawn}");
            }
        }
    }
}
