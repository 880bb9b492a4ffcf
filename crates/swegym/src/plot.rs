//! Plots as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use swegym_grade::scores::Bin;

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

/// Colours of series, told apart by people who see few colours too.
const SERIES: [RGBColor; 6] = [
    RGBColor(0x4c, 0x78, 0xa8),
    RGBColor(0xf5, 0x85, 0x18),
    RGBColor(0x54, 0xa2, 0x4b),
    RGBColor(0xe4, 0x57, 0x56),
    RGBColor(0x72, 0xb7, 0xb2),
    RGBColor(0xb2, 0x79, 0xa2),
];

/// Points by the name of their series.
pub type Series = (String, Vec<(f64, f64)>);

/// Lines over a common axis, each with its name; series without points are
/// left out, and those of few points show them.
///
/// # Errors
/// If the plotting library fails, which is a fault of ours.
pub fn lines(title: &str, x: &str, y: &str, series: &[Series]) -> Result<String, Error> {
    let points = || {
        series
            .iter()
            .flat_map(|s| &s.1)
            .filter(|p| p.0.is_finite() && p.1.is_finite())
    };
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let low = points().map(of).fold(f64::INFINITY, f64::min);
        let high = points().map(of).fold(f64::NEG_INFINITY, f64::max);
        match (low.is_finite(), (high - low).abs() < 1e-12) {
            (false, _) => (0.0, 1.0),
            (true, true) => (low - 0.5, high + 0.5),
            (true, false) => (low, high),
        }
    };
    let (x_range, y_range) = (range(&|p| p.0), range(&|p| p.1));
    let room = (y_range.1 - y_range.0) * 0.06;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 420)).into_drawing_area();
        root.fill(&WHITE).map_err(Error::bug)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18).into_font().color(&INK))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x_range.0..x_range.1, y_range.0 - room..y_range.1 + room)
            .map_err(Error::bug)?;
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc(y)
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK.mix(0.6))
            .label_style(("sans-serif", 13).into_font().color(&INK))
            .draw()
            .map_err(Error::bug)?;
        let shown = series.iter().filter(|s| !s.1.is_empty());
        for ((name, points), color) in shown.zip(SERIES.iter().cycle()) {
            let style = color.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))
                .map_err(Error::bug)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            if points.len() <= 20 {
                let dots = points.iter().map(|p| Circle::new(*p, 3, color.filled()));
                chart.draw_series(dots).map_err(Error::bug)?;
            }
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.85))
            .border_style(INK.mix(0.2))
            .label_font(("sans-serif", 13).into_font().color(&INK))
            .draw()
            .map_err(Error::bug)?;
        root.present().map_err(Error::bug)?;
    }
    Ok(svg)
}

/// How probabilities come true: the mean of each bin against what was
/// observed, beside the line of perfect calibration.
///
/// # Errors
/// If the plotting library fails, which is a fault of ours.
pub fn reliability(title: &str, bins: &[Bin]) -> Result<String, Error> {
    let observed = bins.iter().map(|b| (b.predicted, b.observed)).collect();
    let series = [
        ("perfect".to_owned(), vec![(0.0, 0.0), (1.0, 1.0)]),
        ("observed".to_owned(), observed),
    ];
    lines(title, "predicted probability", "share resolved", &series)
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
