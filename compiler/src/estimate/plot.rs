//! Figures over the size of models, as SVG: one panel a figure, low to high as a band, nominal as a line, both axes in powers of ten.

use std::fmt::Write as _;

use pfmc_ir::backend::Progress;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::estimate::Range;

use super::arch::Arch;
use super::{Request, Subject, estimate};

/// Sizes of models, parameters: one a power of ten.
const FROM: f64 = 9.0;
const TO: f64 = 18.0;
const STEPS: usize = 9;
/// A panel and its margins, pixels.
const PANEL: [f64; 2] = [300.0, 190.0];
const MARGIN: [f64; 2] = [70.0, 52.0];
/// Panels beside each other.
const ACROSS: usize = 2;
/// Colours of curves in turn.
const COLOURS: [&str; 4] = ["#0a5fa8", "#c4511b", "#3c8d40", "#7b4ea3"];

/// A curve: which request it is of, and its points.
struct Curve {
    request: usize,
    points: Vec<(f64, Range)>,
}

/// A figure with the curves of all requests that have it.
struct Panel {
    name: &'static str,
    title: String,
    curves: Vec<Curve>,
}

/// Estimates models of all sizes with each request and draws what their sheets say is worth a curve. A request's own subject is left
/// out but for its family.
///
/// # Errors
/// As [`estimate`].
pub fn scaling(requests: &[Request], progress: &dyn Progress) -> Result<String, Diagnostics> {
    let mut panels: Vec<Panel> = Vec::new();
    let mut labels = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let arch = if let Subject::Parameters(_, arch) = request.subject { arch } else { Arch::default() };
        for step in 0..=STEPS {
            let exponent = FROM + (TO - FROM) * step as f64 / STEPS as f64;
            let subject = Subject::Parameters(10f64.powf(exponent), arch);
            let e = estimate(&Request { subject, ..request.clone() }, progress)?;
            if step == 0 {
                labels.push(format!("{}, {}", e.target, e.process));
            }
            for &name in e.sheet.plotted() {
                let Some(q) = e.sheet.get(name) else { continue };
                let at = panels.iter().position(|p| p.name == name).unwrap_or_else(|| {
                    panels.push(Panel { name, title: title(&q.about, &q.unit), curves: Vec::new() });
                    panels.len() - 1
                });
                let Some(panel) = panels.get_mut(at) else { continue };
                if panel.curves.last().is_none_or(|c| c.request != i) {
                    panel.curves.push(Curve { request: i, points: Vec::new() });
                }
                if let Some(curve) = panel.curves.last_mut() {
                    curve.points.push((e.parameters.log10(), q.range));
                }
            }
        }
    }
    Ok(draw(&panels, &labels))
}

/// A panel's title: a description without its details, and the unit.
fn title(about: &str, unit: &str) -> String {
    let about = about.split(':').next().unwrap_or(about);
    if unit.is_empty() { about.to_owned() } else { format!("{about}, {unit}") }
}

fn draw(panels: &[Panel], labels: &[String]) -> String {
    let rows = panels.len().div_ceil(ACROSS).max(1);
    let step = [PANEL[0] + MARGIN[0] + 20.0, PANEL[1] + MARGIN[1] + 20.0];
    let (width, height) = (step[0] * ACROSS as f64 + 10.0, step[1] * rows as f64 + 40.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#fff\"/>\n"
    );
    let mut x = MARGIN[0];
    for (label, colour) in labels.iter().zip(COLOURS.iter().cycle()) {
        let _ = writeln!(out, "<rect x=\"{x:.0}\" y=\"12\" width=\"14\" height=\"10\" fill=\"{colour}\"/>");
        let _ = writeln!(out, "<text x=\"{:.0}\" y=\"21\">{label}: nominal, low to high</text>", x + 19.0);
        x += 60.0 + 6.2 * (label.len() + 22) as f64;
    }
    for (i, panel) in panels.iter().enumerate() {
        let corner = [MARGIN[0] + (i % ACROSS) as f64 * step[0], 52.0 + (i / ACROSS) as f64 * step[1]];
        draw_panel(&mut out, panel, corner);
    }
    out.push_str("</svg>\n");
    out
}

fn draw_panel(out: &mut String, panel: &Panel, [x0, y0]: [f64; 2]) {
    let all = || panel.curves.iter().flat_map(|c| c.points.iter().map(|p| p.1)).filter(|r| r.low > 0.0);
    let low = all().map(|r| r.low.log10()).fold(f64::INFINITY, f64::min).floor();
    let high = all().map(|r| r.high.log10()).fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    if !low.is_finite() || !high.is_finite() {
        return;
    }
    let x = |e: f64| x0 + (e - FROM) / (TO - FROM) * PANEL[0];
    let y = |e: f64| y0 + PANEL[1] - (e.clamp(low, high) - low) / (high - low) * PANEL[1];
    let _ = writeln!(
        out,
        "<text x=\"{x0:.1}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
        y0 - 8.0,
        panel.title
    );
    let every = ((high - low) / 6.0).ceil().max(1.0);
    let mut e = low;
    while e <= high {
        let _ = writeln!(
            out,
            "<path d=\"M{x0:.1} {0:.1}h{1:.1}\" stroke=\"#ddd\"/><text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">1e{e:.0}</text>",
            y(e),
            PANEL[0],
            x0 - 5.0,
            y(e) + 4.0
        );
        e += every;
    }
    for e in (FROM as i32..=TO as i32).step_by(3) {
        let at = x(f64::from(e));
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {y0:.1}v{:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1e{e}</text>",
            PANEL[1],
            y0 + PANEL[1] + 14.0
        );
    }
    let below = y0 + PANEL[1] + 28.0;
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">parameters</text>",
        x0 + PANEL[0] / 2.0
    );
    for curve in &panel.curves {
        let colour = COLOURS.get(curve.request % COLOURS.len()).copied().unwrap_or("#000");
        let points: Vec<&(f64, Range)> = curve.points.iter().filter(|p| p.1.low > 0.0).collect();
        let place = |e: f64, v: f64| format!("{:.1},{:.1}", x(e), y(v.log10()));
        let upper = points.iter().map(|(e, r)| place(*e, r.high));
        let lower = points.iter().rev().map(|(e, r)| place(*e, r.low));
        let band: Vec<String> = upper.chain(lower).collect();
        let line: Vec<String> = points.iter().map(|(e, r)| place(*e, r.nominal)).collect();
        let _ =
            writeln!(out, "<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.2\"/>", band.join(" "));
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
    }
}
