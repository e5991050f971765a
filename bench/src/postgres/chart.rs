//! The ratios to the raw limit as a picture: one group of bars a row, one bar a library.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::ratio;
use super::versus::Versus;

/// Greys and colours that can be told apart on white and on black.
const INK: RGBColor = RGBColor(125, 133, 144);
const COLOURS: [RGBColor; 7] = [
    RGBColor(47, 129, 247),
    RGBColor(219, 109, 40),
    RGBColor(63, 160, 80),
    RGBColor(190, 110, 220),
    RGBColor(200, 160, 40),
    RGBColor(40, 165, 165),
    RGBColor(225, 90, 120),
];

/// The raw limit stands first and has no bar.
fn colour(side: usize) -> RGBColor {
    COLOURS[(side - 1) % COLOURS.len()]
}

const WIDTH: i32 = 900;
const NAMES: i32 = 250;
const FIGURES: i32 = 60;
const BAR: i32 = 13;
const GAP: i32 = 16;
const TOP: i32 = 60;

pub fn svg(versus: &Versus) -> anyhow::Result<String> {
    let bars: usize = versus.rows.iter().map(|(_, cells)| versus.libraries(cells).count()).sum();
    let height = TOP + bars as i32 * BAR + versus.rows.len() as i32 * GAP + GAP;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH as u32, height as u32)).into_drawing_area();
        draw(&area, versus, height).map_err(|error| anyhow::anyhow!("the chart: {error}"))?;
        area.present().map_err(|error| anyhow::anyhow!("the chart: {error}"))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(area: &Area<'_>, versus: &Versus, height: i32) -> Drawn {
    let ratios = versus.rows.iter().flat_map(|(_, cells)| {
        let raw = versus.raw(cells);
        versus.libraries(cells).filter_map(move |(_, rate)| Some(rate / raw?))
    });
    let longest = ratios.fold(1.0, f64::max);
    let to = |ratio: f64| NAMES + (ratio / longest * f64::from(WIDTH - NAMES - FIGURES)) as i32;
    let put = |text: &str, at: (i32, i32), to: HPos, size: i32, colour: &RGBColor| {
        let style = ("sans-serif", size).into_font().color(colour).pos(Pos::new(to, VPos::Center));
        area.draw(&Text::new(text.to_owned(), at, style))
    };
    put("ratio to the raw limit (the driver alone); longer is faster", (NAMES, 14), HPos::Left, 14, &INK)?;
    legend(versus, &put)?;
    let one = to(1.0);
    area.draw(&PathElement::new(vec![(one, TOP - 8), (one, height - GAP)], INK.stroke_width(1)))?;
    let mut y = TOP;
    for (row, cells) in &versus.rows {
        let Some(raw) = versus.raw(cells) else { continue };
        let libraries: Vec<(usize, f64)> = versus.libraries(cells).collect();
        let middle = y + libraries.len() as i32 * BAR / 2;
        put(row.name, (NAMES - 10, middle), HPos::Right, 13, &INK)?;
        for (side, rate) in libraries {
            let end = to(rate / raw).max(NAMES + 1);
            area.draw(&Rectangle::new([(NAMES, y + 1), (end, y + BAR - 1)], colour(side).filled()))?;
            put(&ratio(rate / raw), (end + 5, y + BAR / 2), HPos::Left, 11, &INK)?;
            y += BAR;
        }
        y += GAP;
    }
    Ok(())
}

/// Names in their colours, in one line.
fn legend<E: std::error::Error + 'static>(
    versus: &Versus,
    put: &impl Fn(&str, (i32, i32), HPos, i32, &RGBColor) -> Result<(), E>,
) -> Drawn {
    let mut x = NAMES;
    for (side, name) in versus.sides.iter().enumerate().skip(1) {
        put(&format!("■ {name}"), (x, 34), HPos::Left, 13, &colour(side))?;
        x += 26 + name.len() as i32 * 7;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::plan::ROWS;

    #[test]
    fn it_names_every_row_and_every_library() {
        let sides = ["raw", "es-postgres", "cqrs-es", "disintegrate", "esrs", "eventastic", "mire", "umadb"];
        let cells = |row: usize| (0..sides.len()).map(|side| Some((40 + row * side) as f64)).collect();
        let rows = ROWS.iter().enumerate().map(|(i, row)| (row, cells(i))).collect();
        let versus = Versus { sides: sides.map(str::to_owned).to_vec(), rows, failures: Vec::new() };
        let drawn = svg(&versus).expect("draws");
        ROWS.iter().for_each(|row| assert!(drawn.contains(row.name), "{} is missing", row.name));
        sides[1..].iter().for_each(|side| assert!(drawn.contains(side), "{side} is missing"));
    }
}
