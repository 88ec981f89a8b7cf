//! A confusion matrix as a picture.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{FinetuneError, Result};
use crate::scores::Scores;

/// Pixels of a cell, and of the margins for names.
const CELL: i32 = 90;
const LEFT: i32 = 150;
const TOP: i32 = 80;

/// Draws the matrix as SVG: a row for each class that is right, a column for each that was given, darker where more
/// examples of the row are.
///
/// # Errors
/// The file cannot be written.
pub fn draw_confusion(scores: &Scores, title: &str, path: &Path) -> Result<()> {
    let n = scores.classes.len() as i32;
    let size = ((LEFT + n * CELL + 20) as u32, (TOP + n * CELL + 60) as u32);
    let failed = |error: &dyn std::fmt::Display| FinetuneError::File {
        path: path.to_owned(),
        problem: format!("the picture cannot be drawn: {error}"),
        help: "check that the folder can be written to".to_owned(),
    };
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let text = |size: i32, pos: Pos| ("sans-serif", size).into_font().color(&BLACK).pos(pos);
    let middle = Pos::new(HPos::Center, VPos::Center);
    let put = |label: &str, at: (i32, i32), style: TextStyle<'_>| {
        area.draw_text(label, &style, at).map_err(|e| failed(&e))
    };
    put(title, (size.0 as i32 / 2, 20), text(18, middle))?;
    put("given", (LEFT + n * CELL / 2, TOP + n * CELL + 40), text(15, middle))?;
    for (i, class) in scores.classes.iter().enumerate() {
        let name: String = class.name.chars().take(18).collect();
        let at = i as i32 * CELL + CELL / 2;
        put(&name, (LEFT - 10, TOP + at), text(14, Pos::new(HPos::Right, VPos::Center)))?;
        put(&name, (LEFT + at, TOP + n * CELL + 16), text(14, middle))?;
        let row = &scores.confusion[i];
        let support = row.iter().sum::<u64>().max(1) as f64;
        for (j, count) in row.iter().enumerate() {
            let share = *count as f64 / support;
            let fade = |end: f64| (255.0 - share * (255.0 - end)) as u8;
            let colour = RGBColor(fade(30.0), fade(90.0), fade(160.0));
            let corner = (LEFT + j as i32 * CELL, TOP + i as i32 * CELL);
            let cell = [corner, (corner.0 + CELL - 2, corner.1 + CELL - 2)];
            area.draw(&Rectangle::new(cell, colour.filled())).map_err(|e| failed(&e))?;
            let ink = if share > 0.5 { WHITE } else { BLACK };
            let style = ("sans-serif", 16).into_font().color(&ink).pos(middle);
            put(&count.to_string(), (corner.0 + CELL / 2, corner.1 + CELL / 2), style)?;
        }
    }
    area.present().map_err(|e| failed(&e))
}
