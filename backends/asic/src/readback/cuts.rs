//! From the shapes of a program cell to the bits of an array.

use pfmc_ir::diag::{Code, Diagnostic, Diagnostics};
use pfmc_ir::origin::Origin;

use super::library::Shape;
use crate::bits::BitMatrix;
use crate::codes::{E0516, E0517, E0518, E0519};
use crate::process::Process;

/// Most problems of a tile that are reported one by one.
pub const REPORTED: usize = 8;

/// Collects problems of one tile: the first few in full, of the rest the number.
#[derive(Debug, Default)]
pub struct Findings {
    problems: Vec<Diagnostic>,
    more: u64,
}

impl Findings {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, problem: impl FnOnce() -> Diagnostic) {
        if self.problems.len() < REPORTED {
            self.problems.push(problem());
        } else {
            self.more += 1;
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// All of them; the last one says how many are left out.
    pub fn into_diagnostics(mut self) -> Diagnostics {
        if let (Some(last), 1..) = (self.problems.last_mut(), self.more) {
            last.notes.push(format!("and {} more problems of this cell", self.more));
        }
        Diagnostics(self.problems)
    }
}

/// Where nodes are in an array: word lines from the bottom in row groups, each with one node more
/// than it has word lines.
#[derive(Debug, Clone, Copy)]
pub struct Nodes<'a> {
    process: &'a Process,
    word_lines: usize,
    bit_lines: usize,
    /// Word lines of a full row group.
    full: usize,
    /// Columns of a segment, and the gap between two segments.
    segment: usize,
    gap: i64,
}

impl<'a> Nodes<'a> {
    /// Nodes of an array, that of a macro where the process has macros.
    pub fn new(process: &'a Process, word_lines: usize, bit_lines: usize) -> Self {
        let (segment, gap) = match process.mux() {
            Some(_) => ((process.strap.columns as usize).min(bit_lines), process.strap.gap_nm),
            None => (bit_lines, 0),
        };
        let full = process.tap_row.word_lines as usize;
        Nodes { process, word_lines, bit_lines, full, segment: segment.max(1), gap }
    }

    /// Between the left edges of two segments.
    fn segment_pitch(&self) -> i64 {
        self.segment as i64 * self.process.cell.pitch_x_nm + self.gap
    }

    /// Right edge of the last column.
    pub fn width(&self) -> i64 {
        (self.bit_lines.div_ceil(self.segment) as i64) * self.segment_pitch() - self.gap
    }

    /// The column that a place along x is in, and how far from the column's left edge it is; `None` beside the columns
    /// and in the gap between two segments.
    pub fn column_at(&self, x: i64) -> Option<(usize, i64)> {
        let segment = usize::try_from(x.div_euclid(self.segment_pitch())).ok()?;
        let within = x.rem_euclid(self.segment_pitch());
        let pitch = self.process.cell.pitch_x_nm;
        let column = usize::try_from(within / pitch).ok().filter(|&c| c < self.segment)?;
        let column = segment.checked_mul(self.segment)?.checked_add(column)?;
        (column < self.bit_lines).then_some((column, within % pitch))
    }

    /// Left edge of a column.
    pub fn column_x(&self, column: usize) -> i64 {
        (column / self.segment) as i64 * self.segment_pitch()
            + (column % self.segment) as i64 * self.process.cell.pitch_x_nm
    }

    /// Row groups.
    pub fn groups(&self) -> usize {
        self.word_lines.div_ceil(self.full)
    }

    /// Word lines of a row group.
    pub fn word_lines(&self, group: usize) -> usize {
        self.full.min(self.word_lines.saturating_sub(group * self.full))
    }

    /// Height from a row group's lowest node to the next one's.
    pub fn group_pitch(&self) -> i64 {
        self.full as i64 * self.process.cell.pitch_y_nm + 2 * self.process.tap_row.offset_nm
    }

    /// Number of node rows.
    pub fn rows(&self) -> usize {
        self.word_lines + self.groups()
    }

    /// Index of a node row.
    pub fn row(&self, group: usize, node: usize) -> usize {
        group * (self.full + 1) + node
    }

    /// Row group and node of a node row.
    fn of_row(&self, row: usize) -> (usize, usize) {
        (row / (self.full + 1), row % (self.full + 1))
    }

    /// The node row at a height, `None` between nodes and outside.
    pub fn row_at(&self, y: i64) -> Option<usize> {
        let group = usize::try_from(y.div_euclid(self.group_pitch())).ok()?;
        let within = y.rem_euclid(self.group_pitch());
        let pitch = self.process.cell.pitch_y_nm;
        let node = usize::try_from(within / pitch).ok()?;
        let there = group < self.groups() && node <= self.word_lines(group) && within % pitch == 0;
        there.then(|| self.row(group, node))
    }

    /// Column of a site and whether it is the bit line's, from the left edge of a cut.
    fn site_at(&self, x: i64) -> Option<(usize, bool)> {
        let c = &self.process.cell;
        let (column, within) = self.column_at(x)?;
        if within == c.cut_bit_line_x_nm[0] {
            Some((column, true))
        } else if within == c.cut_ground_x_nm[0] {
            Some((column, false))
        } else {
            None
        }
    }

    /// A node in words: its place between word lines.
    fn describe(&self, row: usize, column: usize) -> String {
        let (group, node) = self.of_row(row);
        let first = group * self.full;
        let place = if node == 0 {
            format!("below word line {first}")
        } else if node == self.word_lines(group) {
            format!("above word line {}", first + node - 1)
        } else {
            format!("between word lines {} and {}", first + node - 1, first + node)
        };
        format!("bit line {column}, the node {place}")
    }
}

/// What the cuts of a program say.
#[derive(Debug)]
pub struct Decoded {
    /// `[word line][bit line]`.
    pub bits: BitMatrix,
    /// Number of cuts.
    pub cuts: u64,
    /// Of them to the bit line.
    pub bit_line_cuts: u64,
}

/// Decodes a program cell; `resolve` hands on its shapes, at most as many as it is told.
///
/// # Errors
/// Everything that is not exactly one cut on every node by the rule for the first node.
pub fn decode(
    resolve: impl FnOnce(u64, &mut dyn FnMut([i16; 2], Shape<'_>)) -> Result<(), Diagnostic>,
    nodes: Nodes<'_>,
    tile: &str,
    origin: &Origin,
) -> Result<Decoded, Diagnostics> {
    let process = nodes.process;
    let c = &process.cell;
    let cut_layer = process.levels().cut.layer;
    let cut_layer = [cut_layer.layer, cut_layer.datatype];
    let height = c.cut_y_nm[1] - c.cut_y_nm[0];
    let widths = [c.cut_ground_x_nm, c.cut_bit_line_x_nm].map(|[x0, x1]| x1 - x0);
    let mut seen = BitMatrix::new(nodes.rows(), nodes.bit_lines);
    let mut on_bit_line = seen.clone();
    let mut findings = Findings::new();
    let report = |code: &'static Code, text: String| {
        Diagnostic::error(code, format!("tile {tile}: {text}")).at(origin)
    };
    // The cuts of a pattern have one height; the row of the last one is remembered.
    let mut last = (i64::MIN, None);
    let mut found = |layer: [i16; 2], shape: Shape<'_>| {
        let Shape::Rectangle(area) = shape else {
            findings.push(|| {
                report(&E0516, format!("a shape that is no rectangle, on layer {}/{}", layer[0], layer[1]))
            });
            return;
        };
        let [x0, y0, x1, y1] = area;
        if layer != cut_layer {
            findings.push(|| {
                report(
                    &E0516,
                    format!(
                        "a shape at ({x0}, {y0}) nm on layer {}/{}, not the cut layer",
                        layer[0], layer[1]
                    ),
                )
            });
            return;
        }
        if y0 != last.0 {
            last = (y0, nodes.row_at(y0 - c.cut_y_nm[0]));
        }
        let site = match (last.1, nodes.site_at(x0)) {
            (Some(row), Some((column, bit_line))) => Some((row, column, bit_line)),
            _ => None,
        };
        let good = |bit_line: bool| x1 - x0 == widths[usize::from(bit_line)] && y1 - y0 == height;
        let Some((row, column, bit_line)) = site.filter(|s| good(s.2)) else {
            findings.push(|| {
                let why = if site.is_some() { "of the wrong size" } else { "on no site" };
                report(
                    &E0516,
                    format!("a cut of {} nm x {} nm at ({x0}, {y0}) nm is {why}", x1 - x0, y1 - y0),
                )
            });
            return;
        };
        if seen.set(row, column) {
            let same = on_bit_line.get(row, column) == bit_line;
            findings.push(|| {
                let place = nodes.describe(row, column);
                let what =
                    if same { "has the same cut twice" } else { "is cut to the bit line and to ground" };
                report(&E0518, format!("{place} {what}"))
            });
        } else if bit_line {
            on_bit_line.set(row, column);
        }
    };
    let most = 8 * (nodes.rows() as u64 * nodes.bit_lines as u64 + 1024);
    resolve(most, &mut found).map_err(|problem| problem.at(origin))?;
    let all = nodes.rows() as u64 * nodes.bit_lines as u64;
    if seen.count_ones() != all {
        for row in 0..nodes.rows() {
            for column in (0..nodes.bit_lines).filter(|&column| !seen.get(row, column)) {
                findings.push(|| report(&E0517, format!("{} has no cut", nodes.describe(row, column))));
            }
        }
    }
    if findings.is_empty() {
        first_nodes(&nodes, &on_bit_line, &mut |group, column, ones| {
            findings.push(|| {
                let first = group * nodes.full;
                let last = first + nodes.word_lines(group);
                report(
                    &E0519,
                    format!(
                        "word lines {first}..{last}, bit line {column}: {ones} of {} nodes on the bit line, \
                         against the rule for the first node",
                        last - first + 1
                    ),
                )
            });
        });
    }
    if !findings.is_empty() {
        return Err(findings.into_diagnostics());
    }
    let mut bits = BitMatrix::new(nodes.word_lines, nodes.bit_lines);
    for group in 0..nodes.groups() {
        for i in 0..nodes.word_lines(group) {
            let below = nodes.row(group, i);
            let out = bits.row_mut(group * nodes.full + i);
            for ((out, below), above) in
                out.iter_mut().zip(on_bit_line.row(below)).zip(on_bit_line.row(below + 1))
            {
                *out = below ^ above;
            }
        }
    }
    Ok(Decoded { bits, cuts: all, bit_line_cuts: on_bit_line.count_ones() })
}

/// Reports each column of a row group that is not the lighter of its two ways.
fn first_nodes(nodes: &Nodes<'_>, on_bit_line: &BitMatrix, found: &mut dyn FnMut(usize, usize, u32)) {
    let mut ones = vec![0u32; nodes.bit_lines];
    for group in 0..nodes.groups() {
        ones.fill(0);
        let count = nodes.word_lines(group) + 1;
        for node in 0..count {
            for (ones, word) in ones.chunks_mut(64).zip(on_bit_line.row(nodes.row(group, node))) {
                for (i, ones) in ones.iter_mut().enumerate() {
                    *ones += (word >> i & 1) as u32;
                }
            }
        }
        for (column, &ones) in ones.iter().enumerate() {
            let twice = 2 * ones as usize;
            if twice > count || (twice == count && on_bit_line.get(nodes.row(group, 0), column)) {
                found(group, column, ones);
            }
        }
    }
}
