//! Scenes as SVG.

use std::fmt::Write as _;

use super::Scene;
use crate::files::xml;

/// The scene; a unit is a nanometre.
pub fn draw(scene: &Scene) -> String {
    let [x0, y0, x1, y1] = scene.area;
    let (width, height) = (x1 - x0, y1 - y0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" text-anchor=\"middle\">\n"
    );
    for ([a, b, c, d], [red, green, blue]) in &scene.shapes {
        let _ = writeln!(
            text,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#{red:02x}{green:02x}{blue:02x}\"/>",
            a - x0,
            y1 - d,
            c - a,
            d - b
        );
    }
    for ([x, y], size, what) in &scene.texts {
        let what = xml(what);
        let baseline = y1 - y + size / 3;
        let _ = writeln!(text, "<text x=\"{}\" y=\"{baseline}\" font-size=\"{size}\">{what}</text>", x - x0);
    }
    text.push_str("</svg>\n");
    text
}
