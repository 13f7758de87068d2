//! Whether a base cell is the array of its shape: every word line, strip, node contact, pad, rail,
//! ground cut and label where the process file puts it, once, and nothing else on their layers inside
//! the array.
//!
//! The array of a macro is found in the same way. What is around and over it (implants, straps, decoder, precharge,
//! multiplexer, sense circuits, pins) is compared, flat, with what the generator draws for the shape: damage to a file is
//! found, an error of the generator is not. That the generator's periphery works is for decks, netlist comparers and
//! simulators to say.

use std::collections::BTreeSet;

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use super::cuts::{Findings, Nodes};
use super::library::{Library, Shape, StructureId};
use crate::base::Base;
use crate::bits::BitMatrix;
use crate::codes::E0515;
use crate::encode::ArrayShape;
use crate::process::{Layer, Levels, Process, Span};
use crate::stream::{self, Cells, StreamError};

/// What others need to know of a base.
pub struct Frame {
    /// Its boundary, `[x0, y0, x1, y1]`.
    pub boundary: [i64; 4],
    /// Pins of a macro: metal, name, and where.
    pub pins: Vec<(Layer, String, [i64; 4])>,
}

/// Checks a base cell.
pub fn check(
    library: &Library,
    base: StructureId,
    process: &Process,
    word_lines: usize,
    bit_lines: usize,
) -> Result<Frame, Diagnostics> {
    let mut array = Array::new(process, word_lines, bit_lines);
    let mut findings = Findings::new();
    let name = library.name(base);
    let report = |text: String| Diagnostic::error(&E0515, format!("cell {name}: {text}"));
    // Contacts, pads and strips, and a share of the rest.
    let most = 16 * (array.nodes.rows() as u64 + 64) * (bit_lines as u64 + 64);
    let resolved = library.resolve(base, most, &mut |layer, shape| {
        if let Err(text) = array.add(layer, shape) {
            findings.push(|| report(text));
        }
    });
    if let Err(unresolved) = resolved {
        return Err(library.explain(&format!("cell {name}"), &unresolved).into());
    }
    array.missing(&mut |text| findings.push(|| report(text)));
    if array.is_macro() {
        let drawn = generated(process, word_lines, bit_lines)?;
        array.differences(drawn, &mut |text| findings.push(|| report(text)));
    }
    match array.boundary {
        Some(boundary) if findings.is_empty() => Ok(Frame { boundary, pins: array.pins() }),
        _ => Err(findings.into_diagnostics()),
    }
}

/// The macro of a shape as the generator draws it.
fn generated(process: &Process, word_lines: usize, bit_lines: usize) -> Result<Array<'_>, Diagnostics> {
    let failed = |text: String| Diagnostics::from(Diagnostic::error(&E0515, text));
    let narrow = |n: usize| u32::try_from(n).map_err(|e| failed(e.to_string()));
    let shape = ArrayShape { word_lines: narrow(word_lines)?, bit_lines: narrow(bit_lines)? };
    let base = Base::of(process, shape)?;
    let file = || -> Result<Vec<u8>, StreamError> {
        let mut cells = Cells::new(0);
        base.write(&mut cells, &mut BTreeSet::new())?;
        Ok([stream::head("macro")?, cells.into_bytes(), stream::tail()?].concat())
    };
    let library = Library::new(Box::new(file().map_err(|e| failed(e.to_string()))?))?;
    let mut array = Array::new(process, word_lines, bit_lines);
    if let Some(cell) = library.find(base.name().as_bytes()) {
        // What is wrong with the array is what is said of the file's, too.
        let resolved = library.resolve(cell, u64::MAX, &mut |layer, shape| drop(array.add(layer, shape)));
        resolved.map_err(|e| library.explain(base.name(), &e))?;
    }
    Ok(array)
}

/// What has been found of an array.
struct Array<'a> {
    process: &'a Process,
    levels: Levels,
    nodes: Nodes<'a>,
    word_lines: usize,
    bit_lines: usize,
    /// `[node row][bit line]`.
    contacts: BitMatrix,
    pads: BitMatrix,
    /// `[row group][bit line]`.
    strips: BitMatrix,
    /// `[tap row][bit line]`.
    tap_contacts: BitMatrix,
    /// Where the pads are not on li1: li1 and the cuts above it, `[node row][bit line]`.
    stacks: [BitMatrix; 2],
    /// The pads and those cuts in tap rows, `[tap row][bit line]`.
    tap_stacks: [BitMatrix; 2],
    ground_cuts: BitMatrix,
    /// `[0][bit line]`: bit line, `[1][bit line]`: ground.
    rails: BitMatrix,
    /// `[0][word line]`: poly, `[1][word line]`: label.
    rows: BitMatrix,
    /// `[0][bit line]`.
    labels: BitMatrix,
    /// `[0][tap row]`: tap, `[1][tap row]`: li1 strap.
    taps: BitMatrix,
    /// `[tap row][bit line]`: pads that tie the ground rails of a macro to its straps.
    ties: BitMatrix,
    boundary: Option<[i64; 4]>,
    /// Shapes and labels of a macro that are not its array's.
    others: Vec<(Layer, [i64; 4])>,
    texts: Vec<(Layer, [i64; 2], Vec<u8>)>,
    /// Box of all shapes but the boundary.
    extent: [i64; 4],
}

/// Of a stack: the conductor.
const PAD: usize = 0;
/// Of a stack: the cut.
const CUT: usize = 1;

/// A shape that is where something belongs but is there already, or belongs nowhere.
type Problem = String;

impl<'a> Array<'a> {
    fn new(process: &'a Process, word_lines: usize, bit_lines: usize) -> Self {
        let nodes = Nodes::new(process, word_lines, bit_lines);
        let tap_rows = nodes.groups() + 1;
        let stacked = |rows: usize| {
            let [rows, columns] = if process.stack.is_some() { [rows, bit_lines] } else { [0, 0] };
            [BitMatrix::new(rows, columns), BitMatrix::new(rows, columns)]
        };
        Array {
            process,
            levels: process.levels(),
            nodes,
            word_lines,
            bit_lines,
            contacts: BitMatrix::new(nodes.rows(), bit_lines),
            pads: BitMatrix::new(nodes.rows(), bit_lines),
            strips: BitMatrix::new(nodes.groups(), bit_lines),
            tap_contacts: BitMatrix::new(tap_rows, bit_lines),
            stacks: stacked(nodes.rows()),
            tap_stacks: stacked(tap_rows),
            ground_cuts: BitMatrix::new(tap_rows, bit_lines),
            rails: BitMatrix::new(2, bit_lines),
            rows: BitMatrix::new(2, word_lines),
            labels: BitMatrix::new(1, bit_lines),
            taps: BitMatrix::new(2, tap_rows),
            ties: BitMatrix::new(tap_rows, bit_lines),
            boundary: None,
            others: Vec::new(),
            texts: Vec::new(),
            extent: [i64::MAX, i64::MAX, i64::MIN, i64::MIN],
        }
    }

    fn width(&self) -> i64 {
        self.nodes.width()
    }

    fn is_macro(&self) -> bool {
        self.process.mux().is_some()
    }

    /// Whether an area touches a column between the array's lowest and highest tap row, those included.
    fn over_columns(&self, [x0, y0, x1, y1]: [i64; 4]) -> bool {
        let half = self.process.tap_row.strap_half_height_nm;
        let c = &self.process.cell;
        let [low, high] = [self.tap_y(0) - half, self.tap_y(self.nodes.groups()) + half];
        // From the last column that begins left of the area's right end to its right end.
        let right = c.ground_x_nm[1].max(c.diff_x_nm[1]).max(c.pad_x_nm[1]);
        let before = |column: usize| self.nodes.column_x(column) < x1;
        let (mut first, mut after) = (0, self.bit_lines);
        while first < after {
            let middle = first + (after - first) / 2;
            if before(middle) { first = middle + 1 } else { after = middle }
        }
        let touches = first.checked_sub(1).is_some_and(|last| self.nodes.column_x(last) + right > x0);
        touches && y0 < high && y1 > low
    }

    /// Height of the centre of a tap row: below its row group, the last above the top one.
    fn tap_y(&self, row: usize) -> i64 {
        let offset = self.process.tap_row.offset_nm;
        if row < self.nodes.groups() {
            return row as i64 * self.nodes.group_pitch() - offset;
        }
        let last = row.saturating_sub(1);
        let height = self.nodes.word_lines(last) as i64 * self.process.cell.pitch_y_nm;
        last as i64 * self.nodes.group_pitch() + height + offset
    }

    /// The tap row whose centre is at a height.
    fn tap_row_at(&self, y: i64) -> Option<usize> {
        let guess = (y + self.process.tap_row.offset_nm).div_euclid(self.nodes.group_pitch());
        let guess = usize::try_from(guess).ok()?.min(self.nodes.groups());
        [guess, self.nodes.groups()].into_iter().find(|&row| self.tap_y(row) == y)
    }

    /// The tap row whose span this is.
    fn tap_row_of(&self, y: [i64; 2], span: Span) -> Option<usize> {
        (y[1] - y[0] == span[1] - span[0]).then(|| self.tap_row_at(y[0] - span[0]))?
    }

    /// The column whose span this is.
    fn column(&self, x: [i64; 2], span: Span) -> Option<usize> {
        let (column, within) = self.nodes.column_at(x[0] - span[0])?;
        (within == 0 && x[1] - x[0] == span[1] - span[0]).then_some(column)
    }

    /// The node row whose span this is.
    fn node_row(&self, y: [i64; 2], span: Span) -> Option<usize> {
        (y[1] - y[0] == span[1] - span[0]).then(|| self.nodes.row_at(y[0] - span[0]))?
    }

    /// The word line at the height of a gate's lower edge.
    fn word_line(&self, gate: i64) -> Option<usize> {
        let below = gate - self.process.cell.gate_y_nm[0];
        let (row, next) = (self.nodes.row_at(below)?, below + self.process.cell.pitch_y_nm);
        self.nodes.row_at(next).filter(|&next| next == row + 1)?;
        let full = self.process.tap_row.word_lines as usize;
        Some(row / (full + 1) * full + row % (full + 1))
    }

    fn add(&mut self, layer: [i16; 2], shape: Shape<'_>) -> Result<(), Problem> {
        let layer = Layer { layer: layer[0], datatype: layer[1] };
        match shape {
            Shape::Rectangle(area) => {
                if layer == self.process.layers.boundary {
                    return match self.boundary.replace(area) {
                        None => Ok(()),
                        Some(_) => Err("more than one boundary".to_owned()),
                    };
                }
                for i in 0..2 {
                    self.extent[i] = self.extent[i].min(area[i]);
                    self.extent[i + 2] = self.extent[i + 2].max(area[i + 2]);
                }
                if self.is_macro() && !self.is_of_array(layer, area) {
                    self.others.push((layer, area));
                    return Ok(());
                }
                let there = self.rectangle(layer, area).ok_or_else(|| {
                    format!("a rectangle {area:?} nm on layer {layer} that the array does not have")
                })?;
                if there {
                    Err(format!("the rectangle {area:?} nm on layer {layer} is there twice"))
                } else {
                    Ok(())
                }
            }
            Shape::Foreign => Err(format!("a shape on layer {layer} that is no rectangle")),
            Shape::Label(at, text) if self.is_macro() => {
                self.texts.push((layer, at, text.to_vec()));
                Ok(())
            }
            Shape::Label(at, text) => self.label(layer, at, text),
        }
    }

    /// Whether a shape of a macro is one that the array must have there.
    fn is_of_array(&self, layer: Layer, area: [i64; 4]) -> bool {
        let l = &self.process.layers;
        let (levels, below) = (&self.levels, self.levels.lower_cut.map(|cut| cut.layer));
        let upper = [levels.pad.layer, levels.cut.layer, levels.rail.layer];
        ([l.diff, l.poly, l.licon, l.li1, l.tap].contains(&layer)
            || upper.contains(&layer)
            || below == Some(layer))
            && self.over_columns(area)
    }

    /// Whether the part this rectangle is was found before; `None` where it is no part.
    fn rectangle(&mut self, layer: Layer, area: [i64; 4]) -> Option<bool> {
        let p = self.process;
        let (l, c, t, levels) = (&p.layers, &p.cell, &p.tap_row, &self.levels);
        let (x, y) = ([area[0], area[2]], [area[1], area[3]]);
        let last = self.width() - c.pitch_x_nm;
        let beside = x[1] <= 0 || x[0] >= self.width();
        let across = x[0] <= 0 && x[1] >= self.width();
        // Diffusion and taps may be one layer: a strip is no tap, which reaches across.
        if layer == l.diff && !(across && layer == l.tap) {
            let column = self.column(x, c.diff_x_nm)?;
            let row = self.nodes.row_at(y[0] + c.diff_overhang_nm)?;
            let group = row / (t.word_lines as usize + 1);
            let height = self.nodes.word_lines(group) as i64 * c.pitch_y_nm + 2 * c.diff_overhang_nm;
            let good = row == self.nodes.row(group, 0) && y[1] - y[0] == height;
            good.then(|| self.strips.set(group, column))
        } else if layer == l.poly {
            if x[1] <= c.diff_x_nm[0] - p.rules.poly_to_diff_nm {
                return Some(false);
            }
            let word_line = self.word_line(y[0])?;
            let end = p.rules.poly_endcap_nm;
            let good = y[1] - y[0] == c.gate_y_nm[1] - c.gate_y_nm[0]
                && x[0] <= c.diff_x_nm[0] - end
                && x[1] >= last + c.diff_x_nm[1] + end;
            good.then(|| self.rows.set(0, word_line))
        } else if [levels.strap_cut.layer, levels.strap.layer, levels.strap.pin].contains(&layer) {
            beside.then_some(false)
        } else if [l.npc, l.nsdm].contains(&Some(layer))
            || [l.psdm, l.li1_pin, levels.rail.pin].contains(&layer)
        {
            Some(false)
        } else if beside {
            let conductors = [l.li1, levels.pad.layer, levels.rail.layer];
            let cuts = [Some(l.licon), levels.lower_cut.map(|c| c.layer), Some(levels.cut.layer)];
            (conductors.contains(&layer) || cuts.contains(&Some(layer))).then_some(false)
        } else if layer == l.licon {
            let column = self.column(x, c.licon_x_nm)?;
            if let Some(row) = self.node_row(y, c.licon_y_nm) {
                return Some(self.contacts.set(row, column));
            }
            let row = self.tap_row_of(y, c.licon_y_nm)?;
            Some(self.tap_contacts.set(row, column))
        } else if layer == l.li1 && across {
            let half = t.strap_half_height_nm;
            let row = self.tap_row_of(y, [-half, half])?;
            Some(self.taps.set(1, row))
        } else if layer == levels.pad.layer {
            let column = self.column(x, c.pad_x_nm)?;
            if let Some(row) = self.node_row(y, c.pad_y_nm) {
                return Some(self.pads.set(row, column));
            }
            // On li1 there is nothing in a tap row but the strap.
            let row = self.tap_row_of(y, c.pad_y_nm).filter(|_| p.stack.is_some())?;
            Some(self.tap_stacks[PAD].set(row, column))
        } else if layer == levels.cut.layer {
            let row = self.tap_row_of(y, c.cut_y_nm)?;
            let column = self.column(x, c.cut_ground_x_nm)?;
            Some(self.ground_cuts.set(row, column))
        } else if layer == levels.rail.layer {
            if self.is_macro()
                && y[1] - y[0] == 2 * p.rail_end_nm()
                && let Some(row) = self.tap_row_at((y[0] + y[1]) / 2)
            {
                let column = self.column(x, p.strap.ground_pad_x_nm)?;
                return Some(self.ties.set(row, column));
            }
            let good = y[0] < self.tap_y(0) && y[1] > self.tap_y(self.nodes.groups());
            let spans = [(0, c.bit_line_x_nm), (1, c.ground_x_nm)];
            let (which, column) =
                spans.into_iter().filter(|_| good).find_map(|(i, span)| Some((i, self.column(x, span)?)))?;
            Some(self.rails.set(which, column))
        } else if layer == l.tap {
            let half = t.tap_half_height_nm;
            let row = self.tap_row_of(y, [-half, half]).filter(|_| across)?;
            Some(self.taps.set(0, row))
        } else {
            let stack = p.stack.as_ref()?;
            if layer == l.li1 {
                let (row, column) = (self.node_row(y, stack.li1_y_nm)?, self.column(x, stack.li1_x_nm)?);
                Some(self.stacks[PAD].set(row, column))
            } else if levels.lower_cut.is_some_and(|cut| cut.layer == layer) {
                let column = self.column(x, stack.mcon_x_nm)?;
                if let Some(row) = self.node_row(y, stack.mcon_y_nm) {
                    return Some(self.stacks[CUT].set(row, column));
                }
                let row = self.tap_row_of(y, stack.mcon_y_nm)?;
                Some(self.tap_stacks[CUT].set(row, column))
            } else {
                None
            }
        }
    }

    fn label(&mut self, layer: Layer, at: [i64; 2], text: &[u8]) -> Result<(), Problem> {
        let l = &self.process.layers;
        let shown = || String::from_utf8_lossy(text).into_owned();
        let number = |prefix: &str| {
            let digits = std::str::from_utf8(text.strip_prefix(prefix.as_bytes())?).ok()?;
            digits.parse::<usize>().ok().filter(|n| n.to_string() == digits)
        };
        let misplaced = || format!("label {} at {at:?} nm is on no such line", shown());
        let again =
            |there: bool| if there { Err(format!("label {} is there twice", shown())) } else { Ok(()) };
        let levels = &self.levels;
        if layer == levels.rail.label {
            let [x0, x1] = self.process.cell.bit_line_x_nm;
            let column = number("BL").filter(|&i| i < self.bit_lines).filter(|&i| {
                let x = at[0] - self.nodes.column_x(i);
                x > x0 && x < x1
            });
            again(self.labels.set(0, column.ok_or_else(misplaced)?))
        } else if layer == l.li1_label {
            let [low, high] = self.process.cell.gate_y_nm;
            let line =
                self.word_line(at[1] - (high - low) / 2).filter(|&i| at[0] < 0 && number("WL") == Some(i));
            again(self.rows.set(1, line.ok_or_else(misplaced)?))
        } else if layer == levels.strap.label && text == b"VGND" {
            Ok(())
        } else {
            Err(format!("a label {} on layer {layer} that the array does not have", shown()))
        }
    }

    /// Reports what has not been found.
    fn missing(&self, found: &mut dyn FnMut(String)) {
        let is_macro = self.is_macro();
        for (what, matrix, rows) in [
            ("node contacts", &self.contacts, None),
            ("node pads", &self.pads, None),
            ("diffusion strips", &self.strips, None),
            ("tap contacts", &self.tap_contacts, None),
            ("li1 squares of stacks", &self.stacks[PAD], None),
            ("cuts of stacks", &self.stacks[CUT], None),
            ("pads of tap rows", &self.tap_stacks[PAD], None),
            ("cuts below pads of tap rows", &self.tap_stacks[CUT], None),
            ("ground cuts", &self.ground_cuts, None),
            ("rails", &self.rails, None),
            ("bit-line labels", &self.labels, None),
            ("word lines", &self.rows, Some(0)),
            ("word-line labels", &self.rows, Some(1)),
            ("taps", &self.taps, Some(0)),
            ("ground straps", &self.taps, Some(1)),
            ("ground ties", &self.ties, None),
        ] {
            // A macro's pins have labels of their own; an array alone is tied beside its columns.
            if if is_macro { what.ends_with("labels") } else { what == "ground ties" } {
                continue;
            }
            let (got, all) = match rows {
                None => (matrix.count_ones(), matrix.rows() * matrix.columns()),
                Some(row) => {
                    (matrix.row(row).iter().map(|w| u64::from(w.count_ones())).sum(), matrix.columns())
                }
            };
            if got != all as u64 {
                let (w, b) = (self.word_lines, self.bit_lines);
                found(format!("{got} of {all} {what} of an array of {w} word lines x {b} bit lines"));
            }
        }
        match self.boundary {
            None => found("no boundary".to_owned()),
            Some(b) => {
                let e = self.extent;
                if b[0] > e[0] || b[1] > e[1] || b[2] < e[2] || b[3] < e[3] {
                    found(format!("shapes up to {e:?} nm lie outside of the boundary {b:?} nm"));
                }
            }
        }
    }

    /// Rectangles of pins on the upper metals with a label in them.
    fn pins(&self) -> Vec<(Layer, String, [i64; 4])> {
        let l = &self.process.layers;
        let named = |&(layer, area): &(Layer, [i64; 4])| {
            let metals = [(l.met3_pin, l.met3_label, l.met3), (l.met4_pin, l.met4_label, l.met4)];
            let (_, label, metal) = metals.into_iter().find(|m| m.0 == layer)?;
            let inside = |at: &[i64; 2]| (0..2).all(|i| area[i] <= at[i] && at[i] <= area[i + 2]);
            let (.., text) = self.texts.iter().find(|(on, at, _)| *on == label && inside(at))?;
            Some((metal, String::from_utf8_lossy(text).into_owned(), area))
        };
        self.others.iter().filter_map(named).collect()
    }

    /// Reports shapes and labels beside the array that are not those of another one.
    fn differences(&mut self, mut drawn: Array<'a>, found: &mut dyn FnMut(String)) {
        for array in [&mut *self, &mut drawn] {
            array.others.sort_unstable();
            array.texts.sort_unstable();
        }
        let shape = |(layer, area): &(Layer, [i64; 4])| format!("a rectangle {area:?} nm on layer {layer}");
        let text = |(layer, at, text): &(Layer, [i64; 2], Vec<u8>)| {
            format!("a label {} at {at:?} nm on layer {layer}", String::from_utf8_lossy(text))
        };
        unmatched(&self.others, &drawn.others, &shape, found);
        unmatched(&self.texts, &drawn.texts, &text, found);
        if self.boundary != drawn.boundary {
            found(format!("its boundary is {:?} nm, not {:?} nm", self.boundary, drawn.boundary));
        }
    }
}

/// Reports what is in one sorted list and not in the other.
fn unmatched<T: Ord>(got: &[T], want: &[T], describe: &dyn Fn(&T) -> String, found: &mut dyn FnMut(String)) {
    let (mut got, mut want) = (got.iter().peekable(), want.iter().peekable());
    loop {
        match (got.peek(), want.peek()) {
            (None, None) => return,
            (Some(g), Some(w)) if g == w => {
                got.next();
                want.next();
            }
            (Some(g), w) if w.is_none_or(|w| g < w) => {
                found(format!("{} that a macro of its shape does not have", describe(g)));
                got.next();
            }
            (_, Some(w)) => {
                found(format!("{} of a macro of its shape is missing", describe(w)));
                want.next();
            }
            (Some(_), None) => return,
        }
    }
}
