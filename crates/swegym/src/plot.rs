//! Plots as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Error;

/// Width of a plot, pixels.
const WIDTH: u32 = 860;
/// Height of a bar with the gap to the next, pixels.
const BAR: u32 = 26;
/// Room for the names, pixels.
const NAMES: i32 = 280;
/// Room right of the longest bar, for its number, pixels.
const NUMBERS: i32 = 80;

const INK: RGBColor = RGBColor(0x1f, 0x29, 0x33);
const FILL: RGBColor = RGBColor(0x4c, 0x78, 0xa8);

/// Horizontal bars with their names on the left and their numbers on the
/// right, in the order given.
///
/// # Errors
/// If the plotting library fails, which is a fault of ours.
pub fn bars(title: &str, values: &[(String, usize)]) -> Result<String, Error> {
    let rows = u32::try_from(values.len()).map_err(Error::bug)?;
    let mut svg = String::new();
    {
        let height = 48 + rows * BAR + 10;
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(Error::bug)?;
        let text = |size: i32, h: HPos| {
            let style = TextStyle::from(("sans-serif", size).into_font()).color(&INK);
            style.pos(Pos::new(h, VPos::Center))
        };
        root.draw(&Text::new(title, (16, 24), text(18, HPos::Left)))
            .map_err(Error::bug)?;
        let most = values.iter().map(|(_, n)| *n).max().unwrap_or(1).max(1);
        let room = f64::from(i32::try_from(WIDTH).map_err(Error::bug)? - NAMES - NUMBERS);
        let mut middle = 48 + i32::try_from(BAR / 2).map_err(Error::bug)?;
        for (name, value) in values {
            // Pixels: below 2^31 by far.
            let long = (*value as f64 / most as f64 * room).round() as i32;
            let bar = [(NAMES, middle - 8), (NAMES + long.max(1), middle + 8)];
            root.draw(&Rectangle::new(bar, FILL.filled()))
                .map_err(Error::bug)?;
            let name = Text::new(shortened(name), (NAMES - 8, middle), text(13, HPos::Right));
            root.draw(&name).map_err(Error::bug)?;
            let number = (NAMES + long + 6, middle);
            root.draw(&Text::new(value.to_string(), number, text(13, HPos::Left)))
                .map_err(Error::bug)?;
            middle += i32::try_from(BAR).map_err(Error::bug)?;
        }
        root.present().map_err(Error::bug)?;
    }
    Ok(svg)
}

/// A name that fits left of the bars.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 38;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    let kept: String = name.chars().take(LONGEST - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() -> Result<(), Error> {
        let values = [
            ("one".to_owned(), 1),
            ("a".repeat(99), 4),
            ("none".to_owned(), 0),
        ];
        let svg = bars("A title", &values)?;
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["A title", "one", "…", "none"] {
            assert!(svg.contains(text), "{text} is missing: {svg}");
        }
        let widths: Vec<&str> = svg
            .lines()
            .filter(|line| line.contains("#4C78A8"))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(widths, ["125", "500", "1"]);
        Ok(())
    }
}
