//! Rows of gates: placing, wiring on met1, and drawing.
//!
//! A row has a ground rail at y = 0 and a supply rail at its top. Gates are columns: diffusions with
//! their contacts, and gates with a contact between the two strips. Every column is a vertical li1 line
//! that a horizontal met1 wire on one of a few tracks can tie to. The diffusions of a column on two nets
//! share the column, so each reaches the tracks of its half alone.

use std::collections::BTreeMap;

use crate::macros::draw::{Area, Kit, Sketch};
use crate::macros::gate::{Column, Gate, Leaf, Term};
use crate::macros::netlist::{GROUND, SUPPLY};
use crate::process::{Nm, Process, Span};

/// A wire on met1 and the columns it ties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// Net.
    pub net: String,
    /// Track, counted in word lines from the ground rail.
    pub track: usize,
    /// Ends of the metal.
    pub x: Span,
    /// Columns it ties, by index.
    pub columns: Vec<usize>,
}

/// Ends of a strip of diffusion, at the centres of its outermost contacts.
#[derive(Debug, Clone, Copy)]
struct Strip {
    x: Span,
    widths_nm: [Nm; 2],
}

/// A row of gates.
#[derive(Clone)]
pub struct Row<'a> {
    process: &'a Process,
    columns: Vec<(Nm, Column)>,
    strips: Vec<Strip>,
    /// Wires on met1.
    pub wires: Vec<Wire>,
}

/// Height of a row.
pub fn height(process: &Process) -> Nm {
    Nm::from(process.logic.word_lines) * process.cell.pitch_y_nm
}

/// Height of a track above the ground rail.
pub fn track_y(process: &Process, track: usize) -> Nm {
    let [low, high] = process.cell.gate_y_nm;
    (low + high) / 2 + track as Nm * process.cell.pitch_y_nm
}

/// Tracks clear of the rails.
pub fn tracks(process: &Process) -> std::ops::Range<usize> {
    1..process.logic.word_lines as usize - 1
}

impl<'a> Row<'a> {
    /// No gates.
    pub fn new(process: &'a Process) -> Self {
        Row { process, columns: Vec::new(), strips: Vec::new(), wires: Vec::new() }
    }

    /// Right end of the diffusions.
    pub fn right(&self) -> Option<Nm> {
        self.strips.last().map(|s| s.x[1] + self.process.logic.diff_end_nm)
    }

    /// Appends a gate: on the strip of the last one where both ends are on the rails, else, or when the
    /// gate begins a cell of its own, on a strip of its own that starts at `from` or later. Returns the x
    /// of its first and last column.
    pub fn push(&mut self, gate: &Gate, from: Option<Nm>) -> Span {
        let l = &self.process.logic;
        let power = |c: Option<&Column>| {
            let net = |t: &Term, name: &str| matches!(t, Term::Net(n) if n == name);
            matches!(c, Some(Column::Diff { n, p }) if net(n, GROUND) && net(p, SUPPLY))
        };
        let leaf = gate.leaf(self.process);
        let continues = from.is_none()
            && power(self.columns.last().map(|c| &c.1))
            && self.strips.last().is_some_and(|s| s.widths_nm == leaf.widths_nm);
        let starts = |leaf: &Leaf| power(leaf.columns.first());
        // A gate whose only end on the rails is its left one is mirrored where that helps its neighbour.
        let leaf =
            if continues && !starts(&leaf) || !continues && starts(&leaf) && !power(leaf.columns.last()) {
                leaf.mirrored()
            } else {
                leaf
            };
        let joined = continues && starts(&leaf);
        let mut x = match (joined, self.strips.last()) {
            (true, Some(s)) => s.x[1],
            (_, Some(s)) => (s.x[1] + l.break_pitch_nm).max(from.unwrap_or(Nm::MIN)),
            (_, None) => from.unwrap_or(0),
        };
        let first = x;
        for (i, column) in leaf.columns.into_iter().enumerate() {
            if i > 0 {
                x += l.column_pitch_nm;
            }
            if i > 0 || !joined {
                self.columns.push((x, column));
            }
        }
        match self.strips.last_mut() {
            Some(s) if joined => s.x[1] = x,
            _ => self.strips.push(Strip { x: [first, x], widths_nm: leaf.widths_nm }),
        }
        [first, x]
    }

    /// Nets of the row other than the rails, in order of their first column.
    pub fn nets(&self) -> Vec<String> {
        let mut nets: Vec<String> = Vec::new();
        for (_, column) in &self.columns {
            let named = match column {
                Column::Gate { net, .. } => vec![net],
                Column::Diff { n, p } => [n, p].into_iter().filter_map(|t| net_of(t)).collect(),
            };
            for net in named {
                if net != GROUND && net != SUPPLY && !nets.contains(net) {
                    nets.push(net.clone());
                }
            }
        }
        nets
    }

    /// The tracks a column can tie a net to: where its two diffusions are on two nets, those clear of the
    /// other one's li1.
    fn reach(&self, index: usize, net: &str) -> Vec<usize> {
        let (l, r) = (&self.process.logic, &self.process.rules);
        let half = r.mcon_size_nm / 2;
        let all = tracks(self.process);
        let Some((x, column)) = self.columns.get(index) else { return Vec::new() };
        match column {
            Column::Gate { net: own, .. } if own == net => all.collect(),
            Column::Gate { .. } => Vec::new(),
            Column::Diff { n, p } => {
                let (on_n, on_p) = (net_of(n).is_some_and(|x| x == net), net_of(p).is_some_and(|x| x == net));
                let y = |t: usize| track_y(self.process, t);
                let widths = self.widths_at(*x);
                // End of the other diffusion's contacts towards the middle; a signal may go to the middle.
                let end = r.licon_size_nm / 2 + r.li1_enclose_licon_ends_nm;
                let limit = |term: &Term, power: &str, upper: bool| {
                    let own = strip_y(self.process, widths, upper).map(|y| contacts(self.process, y));
                    match (net_of(term), own) {
                        (Some(net), Some(c)) if net == power && upper => {
                            c.first().map(|c| c - end - r.li1_space_nm)
                        }
                        (Some(net), Some(c)) if net == power => c.last().map(|c| c + end + r.li1_space_nm),
                        (Some(_), _) if upper => Some(l.gate_contact_y_nm - r.li1_space_nm / 2),
                        (Some(_), _) => Some(l.gate_contact_y_nm + r.li1_space_nm / 2),
                        (None, _) => None,
                    }
                };
                match (on_n, on_p) {
                    (false, false) => Vec::new(),
                    (true, false) => {
                        let top = limit(p, SUPPLY, true).unwrap_or(Nm::MAX);
                        all.filter(|&t| y(t) + half <= top).collect()
                    }
                    (false, true) => {
                        let bottom = limit(n, GROUND, false).unwrap_or(Nm::MIN);
                        all.filter(|&t| y(t) - half >= bottom).collect()
                    }
                    (true, true) => all.collect(),
                }
            }
        }
    }

    /// x of the columns of a net.
    pub fn pins(&self, net: &str) -> Vec<(usize, Nm)> {
        (self.columns.iter().enumerate())
            .filter(|(i, _)| !self.reach(*i, net).is_empty())
            .map(|(i, &(x, _))| (i, x))
            .collect()
    }

    /// Whether a wire may lie there beside the wires of other nets.
    fn is_free(&self, net: &str, track: usize, x: Span) -> bool {
        let space = self.process.rules.met1_space_nm;
        self.wires.iter().all(|w| {
            w.track != track
                || (w.net == net && w.x[0] <= x[1] && x[0] <= w.x[1])
                || w.x[1] + space <= x[0]
                || x[1] + space <= w.x[0]
        })
    }

    /// Ties columns of a net on a track, or on the first that is free; `over` is covered too. Whether
    /// there was one.
    pub fn tie(&mut self, net: &str, columns: &[usize], track: Option<usize>, over: Option<Span>) -> bool {
        let end = self.process.logic.met1_end_nm;
        let at = |i: &usize| self.columns[*i].0;
        let [low, high] = over.unwrap_or([Nm::MAX, Nm::MIN]);
        let low = columns.iter().map(|i| at(i) - end).min().unwrap_or(low).min(low);
        let high = columns.iter().map(|i| at(i) + end).max().unwrap_or(high).max(high);
        let reachable = |t: &usize| columns.iter().all(|&i| self.reach(i, net).contains(t));
        let found = tracks(self.process)
            .filter(|t| track.is_none_or(|wanted| wanted == *t))
            .find(|t| reachable(t) && self.is_free(net, *t, [low, high]));
        let Some(track) = found else { return false };
        self.wires.push(Wire { net: net.to_owned(), track, x: [low, high], columns: columns.to_vec() });
        true
    }

    /// Ties all columns of a net on one wire.
    pub fn tie_net(&mut self, net: &str, track: Option<usize>, over: Option<Span>) -> bool {
        let columns: Vec<usize> = self.pins(net).into_iter().map(|(i, _)| i).collect();
        self.tie(net, &columns, track, over)
    }

    /// Lengthens the wires of nets by up to `most` to either side where that keeps clear of others, so
    /// that lines from above have places to choose from.
    pub fn stretch(&mut self, nets: &[String], most: Nm) {
        let step = self.process.logic.column_pitch_nm / 2;
        for i in 0..self.wires.len() {
            for _ in 0..most / step {
                for by in [[-step, 0], [0, step]] {
                    let Wire { net, track, x, .. } = self.wires[i].clone();
                    let x = [x[0] + by[0], x[1] + by[1]];
                    if nets.contains(&net) && self.is_free_of(i, track, x) {
                        self.wires[i].x = x;
                    }
                }
            }
        }
    }

    /// Whether wire `index` may cover `x`.
    fn is_free_of(&self, index: usize, track: usize, x: Span) -> bool {
        let space = self.process.rules.met1_space_nm;
        self.wires
            .iter()
            .enumerate()
            .all(|(i, w)| i == index || w.track != track || w.x[1] + space <= x[0] || x[1] + space <= w.x[0])
    }

    /// The row without its rails and wells.
    pub fn draw(&self) -> Sketch {
        let mut s = Sketch::default();
        let p = self.process;
        let (l, r, layers) = (&p.logic, &p.rules, &p.layers);
        let kit = Kit { process: p };
        let half_mcon = r.mcon_size_nm / 2;
        let mut ties: BTreeMap<(usize, bool), Vec<Nm>> = BTreeMap::new();
        for wire in &self.wires {
            let y = track_y(p, wire.track);
            let half = l.met1_half_width_nm;
            s.rectangle(layers.met1, [wire.x[0], y - half, wire.x[1], y + half]);
            for &i in &wire.columns {
                let (x, column) = &self.columns[i];
                kit.mcon(&mut s, [*x, y]);
                let on_p = matches!(column, Column::Diff { n, p } if net_of(n) != Some(&wire.net) && net_of(p) == Some(&wire.net));
                ties.entry((i, on_p)).or_default().push(y);
            }
        }
        for (upper, implant, full) in
            [(false, layers.nsdm, l.n_diff_y_nm), (true, Some(layers.psdm), l.p_diff_y_nm)]
        {
            let mut ends: Option<Span> = None;
            for strip in &self.strips {
                let x = [strip.x[0] - l.diff_end_nm, strip.x[1] + l.diff_end_nm];
                if let Some([y0, y1]) = strip_y(p, strip.widths_nm, upper) {
                    s.rectangle(layers.diff, [x[0], y0, x[1], y1]);
                    ends = Some(ends.map_or(x, |e| [e[0].min(x[0]), e[1].max(x[1])]));
                }
            }
            if let Some([x0, x1]) = ends {
                let over = p.cell.implant_enclosure_nm;
                s.rectangle(implant, [x0 - over, full[0] - over, x1 + over, full[1] + over]);
            }
        }
        for (i, (x, column)) in self.columns.iter().enumerate() {
            let tied = |on_p: bool| ties.get(&(i, on_p)).map_or(&[][..], Vec::as_slice);
            let widths = self.widths_at(*x);
            match column {
                Column::Gate { n, p: on_p, .. } => {
                    let half = r.poly_width_nm / 2;
                    let y = l.gate_contact_y_nm;
                    let bottom = if *n { l.n_diff_y_nm[0] - r.poly_endcap_nm } else { y };
                    let top = if *on_p { l.p_diff_y_nm[1] + r.poly_endcap_nm } else { y };
                    s.rectangle(layers.poly, [x - half, bottom, x + half, top]);
                    let pad = [l.poly_pad_nm[0] / 2, l.poly_pad_nm[1] / 2];
                    s.rectangle(layers.poly, [x - pad[0], y - pad[1], x + pad[0], y + pad[1]]);
                    kit.licon(&mut s, [*x, y]);
                    let contact = r.licon_size_nm / 2 + r.li1_enclose_licon_ends_nm;
                    line(
                        &mut s,
                        p,
                        *x,
                        tied(false)
                            .iter()
                            .flat_map(|t| [t - half_mcon, t + half_mcon])
                            .chain([y - contact, y + contact]),
                    );
                }
                Column::Diff { n, p: upper } => {
                    let mut parts: Vec<(String, Vec<Nm>)> = Vec::new();
                    for (on_p, term) in [(false, n), (true, upper)] {
                        let (Some(net), Some(y)) = (net_of(term), strip_y(p, widths, on_p)) else { continue };
                        let contacts = contacts(p, y);
                        let mut extent: Vec<Nm> = Vec::new();
                        for &c in &contacts {
                            kit.licon(&mut s, [*x, c]);
                            let e = r.licon_size_nm / 2 + r.li1_enclose_licon_ends_nm;
                            extent.extend([c - e, c + e]);
                        }
                        extent.extend(tied(on_p).iter().flat_map(|t| [t - half_mcon, t + half_mcon]));
                        if net == GROUND {
                            extent.push(0);
                        }
                        if net == SUPPLY {
                            extent.push(height(p));
                        }
                        match parts.last_mut() {
                            Some((last, all)) if last == net => all.extend(extent),
                            _ => parts.push((net.clone(), extent)),
                        }
                    }
                    for (_, extent) in parts {
                        line(&mut s, p, *x, extent.into_iter());
                    }
                }
            }
        }
        let gates = || self.columns.iter().filter(|(_, c)| matches!(c, Column::Gate { .. })).map(|c| c.0);
        if let (Some(first), Some(last)) = (gates().min(), gates().max()) {
            let (y, half) = (l.gate_contact_y_nm, l.npc_half_height_nm);
            s.rectangle(layers.npc, [first - half, y - half, last + half, y + half]);
        }
        s
    }

    fn widths_at(&self, x: Nm) -> [Nm; 2] {
        self.strips.iter().find(|s| s.x[0] <= x && x <= s.x[1]).map_or([0, 0], |s| s.widths_nm)
    }

    /// The well over the row's p-channel strips and supply rail, for a rail along `x`.
    pub fn well(process: &Process, x: Span) -> Area {
        let l = &process.logic;
        let e = l.well_enclosure_nm;
        [x[0] - e, l.p_diff_y_nm[0] - e, x[1] + e, height(process) + l.rail_tap_half_height_nm + e]
    }
}

fn net_of(term: &Term) -> Option<&String> {
    match term {
        Term::Net(net) => Some(net),
        _ => None,
    }
}

/// Height of a strip: n-channel ones are at their lower end, p-channel ones at their upper end.
fn strip_y(process: &Process, widths: [Nm; 2], upper: bool) -> Option<Span> {
    let l = &process.logic;
    if upper {
        (widths[1] > 0).then_some([l.p_diff_y_nm[1] - widths[1], l.p_diff_y_nm[1]])
    } else {
        (widths[0] > 0).then_some([l.n_diff_y_nm[0], l.n_diff_y_nm[0] + widths[0]])
    }
}

/// Heights of the contacts of a strip: as many as fit.
fn contacts(process: &Process, [y0, y1]: Span) -> Vec<Nm> {
    let r = &process.rules;
    let pitch = r.licon_size_nm + r.licon_space_nm;
    let room = y1 - y0 - 2 * r.diff_enclose_licon_ends_nm - r.licon_size_nm;
    let more = (room / pitch).max(0);
    let grid = process.grid_nm;
    let first = ((y0 + y1) / 2 - more * pitch / 2) / grid * grid;
    (0..=more).map(|i| first + i * pitch).collect()
}

/// A vertical li1 line over heights.
fn line(s: &mut Sketch, process: &Process, x: Nm, heights: impl Iterator<Item = Nm>) {
    let half = process.rules.li1_width_nm / 2;
    let (low, high) = heights.fold((Nm::MAX, Nm::MIN), |(low, high), y| (low.min(y), high.max(y)));
    if low < high {
        s.rectangle(process.layers.li1, [x - half, low, x + half, high]);
    }
}
