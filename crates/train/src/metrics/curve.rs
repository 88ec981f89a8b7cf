//! `loss.svg`: training and validation loss over tokens.

use std::path::Path;

use plotters::prelude::*;

use super::Row;
use crate::error::{Result, TrainError};

/// Draws the rows to `path`; nothing is drawn for fewer than two training rows.
///
/// # Errors
/// The file cannot be written.
pub fn draw_loss(rows: &[Row], title: &str, path: &Path) -> Result<()> {
    let train: Vec<(f64, f64)> =
        rows.iter().filter_map(|r| Some((r.tokens as f64, r.train_loss?))).collect();
    let val: Vec<(f64, f64)> =
        rows.iter().filter_map(|r| Some((r.tokens as f64, r.val_loss?))).collect();
    if train.len() < 2 {
        return Ok(());
    }
    draw(&train, &val, title, path).map_err(|e| TrainError::Io {
        action: "writing",
        path: path.to_path_buf(),
        source: std::io::Error::other(e.to_string()),
    })
}

fn draw(
    train: &[(f64, f64)],
    val: &[(f64, f64)],
    title: &str,
    path: &Path,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let last = train[train.len() - 1].0;
    let values = || train.iter().chain(val).map(|p| p.1);
    let high = values().fold(f64::MIN, f64::max);
    let low = values().fold(f64::MAX, f64::min);
    let pad = (high - low).max(1e-3) * 0.05;
    let root = SVGBackend::new(path, (900, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, (low - pad)..(high + pad))?;
    chart
        .configure_mesh()
        .light_line_style(RGBColor(245, 245, 245))
        .bold_line_style(RGBColor(220, 220, 220))
        .x_desc("training tokens")
        .y_desc("loss, nats per token")
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| format!("{y:.1}"))
        .label_style(("sans-serif", 14))
        .draw()?;
    let (blue, red) = (RGBColor(70, 120, 190), RGBColor(200, 60, 50));
    // Every step as a faint line, a running mean on top: the noise is part of the picture.
    chart.draw_series(LineSeries::new(train.iter().copied(), blue.mix(0.3)))?;
    chart
        .draw_series(LineSeries::new(smooth(train), blue.stroke_width(2)))?
        .label("training")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], blue.stroke_width(2)));
    if !val.is_empty() {
        chart
            .draw_series(LineSeries::new(val.iter().copied(), red.stroke_width(2)).point_size(3))?
            .label("validation")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], red.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Exponential running mean over about a two-hundredth of the curve.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 200.0).max(1.0);
    let mut mean = points[0].1;
    points
        .iter()
        .map(|&(x, y)| {
            mean = keep * mean + (1.0 - keep) * y;
            (x, mean)
        })
        .collect()
}

fn short(x: f64) -> String {
    match x {
        x if x >= 1e9 => format!("{:.1}B", x / 1e9),
        x if x >= 1e6 => format!("{:.1}M", x / 1e6),
        x if x >= 1e3 => format!("{:.0}k", x / 1e3),
        x => format!("{x:.0}"),
    }
}
