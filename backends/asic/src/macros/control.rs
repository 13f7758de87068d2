//! The control circuit below the decoder: rows of logic, wired among each other on met3 and met4.
//!
//! A net inside of one row is a wire on met1 where a track is free. The others leave met1 through met2, run along x
//! on met3 over their row, and from row to row, up to the decoder, right to the columns and down to the
//! pins on met4. Lines are placed one after another, each where it keeps clear of those before.

use std::collections::BTreeMap;

use crate::macros::circuit;
use crate::macros::decoder::wide;
use crate::macros::draw::{Area, Kit, Sketch};
use crate::macros::place::Places;
use crate::macros::row::{Row, height, track_y};
use crate::process::{Nm, Span};

/// Where a net leaves the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Upwards on met4: where, and how far.
    Up(Nm, Nm),
    /// To the right on met3, at a height.
    Right(Nm),
    /// Down on met4 to a pin.
    Down,
}

/// Layers that lines share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metal {
    Two,
    Three,
    Four,
}

/// Lines so far.
struct Lines {
    /// By metal, the axis across its lines and strips of [`STRIP`] along that axis; a line is in every strip that it or
    /// its space reaches.
    strips: [BTreeMap<Nm, Vec<(Area, usize)>>; 3],
    space: [Nm; 3],
}

/// Width of a strip in which lines are looked up.
const STRIP: Nm = 2_000;

/// Whether a line keeps clear of another, or touches it and is on the same net.
fn agree(space: Nm, [x0, y0, x1, y1]: Area, net: usize, ([a0, b0, a1, b1], other): (Area, usize)) -> bool {
    let clear = a1 + space <= x0 || x1 + space <= a0 || b1 + space <= y0 || y1 + space <= b0;
    let touches = a1 >= x0 && x1 >= a0 && b1 >= y0 && y1 >= b0;
    clear || (net == other && touches)
}

impl Lines {
    /// The strips of an area: along x, and along y for met3, whose lines run along x.
    fn strips_of(metal: Metal, [x0, y0, x1, y1]: Area, more: Nm) -> std::ops::RangeInclusive<Nm> {
        let [low, high] = if metal == Metal::Three { [y0, y1] } else { [x0, x1] };
        (low - more).div_euclid(STRIP)..=(high + more).div_euclid(STRIP)
    }

    fn push(&mut self, metal: Metal, area: Area, net: usize) {
        for strip in Self::strips_of(metal, area, self.space[metal as usize]) {
            self.strips[metal as usize].entry(strip).or_default().push((area, net));
        }
    }

    /// Whether `area` keeps clear of other nets.
    fn is_clear_of_others(&self, metal: Metal, area: Area, net: usize) -> bool {
        let space = self.space[metal as usize];
        let strips = &self.strips[metal as usize];
        Self::strips_of(metal, area, 0)
            .filter_map(|strip| strips.get(&strip))
            .all(|lines| lines.iter().all(|&line| line.1 == net || agree(space, area, net, line)))
    }

    /// Whether `area` keeps clear of other nets, and overlaps or keeps clear of its own.
    fn is_free(&self, metal: Metal, area: Area, net: usize) -> bool {
        let space = self.space[metal as usize];
        let strips = &self.strips[metal as usize];
        Self::strips_of(metal, area, 0)
            .filter_map(|strip| strips.get(&strip))
            .all(|lines| lines.iter().all(|&line| agree(space, area, net, line)))
    }
}

/// Cuts and shapes of one net.
#[derive(Default)]
struct Found {
    shapes: Vec<(Metal, Area)>,
    vias: Vec<[Nm; 2]>,
    vias2: Vec<[Nm; 2]>,
    vias3: Vec<[Nm; 2]>,
}

/// The drawn block.
pub(super) struct Control {
    /// Shapes, in the array's frame.
    pub sketch: Sketch,
    /// x of the pins at the bottom.
    pub pins: BTreeMap<String, Nm>,
    /// Heights of the ground rails; the supply rails are one row's height above.
    pub rows: Vec<Nm>,
}

/// The places from `low` to `high` at `step`, the one nearest to `from` first, the lower one of two that are as near.
fn outward([low, high]: Span, step: Nm, from: Nm) -> impl Iterator<Item = Nm> {
    let last = (high - low) / step;
    // The next of those up to `from`, and of the others.
    let mut below = (from - low).div_euclid(step).min(last).max(-1);
    let mut above = below + 1;
    std::iter::from_fn(move || {
        let [a, b] = [below, above].map(|i| (0..=last).contains(&i).then_some(low + i * step));
        let lower = match (a, b) {
            (Some(a), Some(b)) => from - a <= b - from,
            (a, _) => a.is_some(),
        };
        if lower {
            below -= 1;
            a
        } else {
            above += 1;
            b
        }
    })
}

impl Places<'_> {
    /// Draws the block in `x`, its highest rail at `top`, its pins down to `bottom` or lower; `None` where it cannot be wired.
    pub(super) fn control(
        &self,
        x: Span,
        top: Nm,
        bottom: Nm,
        exits: &BTreeMap<String, Vec<Exit>>,
    ) -> Option<(Control, Nm)> {
        // The fuller the rows, the more lines over each of them.
        let rooms = [100, 80, 65, 50, 40];
        let tries = rooms.into_iter().flat_map(|share| [8, 10, 12, 14].map(|band| (share, band)));
        let width = x[1] - x[0];
        tries
            .map(|(share, band)| (x[0] + width * share / 100, band))
            .find_map(|(fill, band)| self.control_with(x, fill, top, bottom, exits, band))
    }

    fn control_with(
        &self,
        x: Span,
        fill: Nm,
        top: Nm,
        bottom: Nm,
        exits: &BTreeMap<String, Vec<Exit>>,
        band: Nm,
    ) -> Option<(Control, Nm)> {
        let p = self.process;
        let l = &p.logic;
        let gates = circuit::control(p, self.shape);
        let mut rows = vec![Row::new(p)];
        for gate in &gates {
            let row = rows.last_mut()?;
            let mut longer = row.clone();
            longer.push(gate, row.right().is_none().then_some(x[0] + l.diff_end_nm));
            if longer.right()? <= fill {
                *row = longer;
            } else {
                let mut next = Row::new(p);
                next.push(gate, Some(x[0] + l.diff_end_nm));
                rows.push(next);
            }
        }
        let pitch = band * l.met3_pitch_nm;
        let bases: Vec<Nm> = (0..rows.len() as Nm).map(|i| top - height(p) - i * pitch).collect();
        let floor = bases.last()? - l.met3_pitch_nm * 3;
        let bottom = bottom.min(floor);

        // Which rows a net is in.
        let mut at: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            for net in row.nets() {
                at.entry(net).or_default().push(i);
            }
        }
        // Wires on met1: short nets of one row first.
        let mut leaving: Vec<String> = Vec::new();
        let length = |row: &Row<'_>, net: &str| {
            let pins = row.pins(net);
            pins.iter().map(|c| c.1).max().unwrap_or(0) - pins.iter().map(|c| c.1).min().unwrap_or(0)
        };
        let mut order: Vec<(Nm, &String)> = at
            .iter()
            .map(|(net, of)| (of.iter().map(|&i| length(&rows[i], net)).max().unwrap_or(0), net))
            .collect();
        order.sort();
        for local in [true, false] {
            for &(_, net) in &order {
                let of = &at[net];
                if (of.len() == 1 && !exits.contains_key(net)) != local {
                    continue;
                }
                let mut whole = true;
                for &i in of {
                    let long = !local && length(&rows[i], net) > 20 * l.column_pitch_nm;
                    if !long && rows[i].tie_net(net, None, None) {
                        continue;
                    }
                    whole = false;
                    // Neighbouring columns together where they can be.
                    let mut clusters: Vec<Vec<(usize, Nm)>> = Vec::new();
                    for pin in rows[i].pins(net) {
                        match clusters.last_mut() {
                            Some(c)
                                if c.last().is_some_and(|last| pin.1 - last.1 <= 6 * l.column_pitch_nm) =>
                            {
                                c.push(pin)
                            }
                            _ => clusters.push(vec![pin]),
                        }
                    }
                    for cluster in clusters {
                        let columns: Vec<usize> = cluster.iter().map(|c| c.0).collect();
                        if !rows[i].tie(net, &columns, None, None)
                            && !columns.iter().all(|&c| rows[i].tie(net, &[c], None, None))
                        {
                            return None;
                        }
                    }
                }
                if !local || !whole {
                    leaving.push(net.clone());
                }
            }
        }
        for row in &mut rows {
            row.stretch(&leaving, 3 * l.column_pitch_nm);
        }
        // Lines to the right and upwards have the fewest choices.
        leaving.sort_by_key(|net| {
            let e = exits.get(net).map_or(&[][..], Vec::as_slice);
            let rank = if e.iter().any(|e| matches!(e, Exit::Right(_))) {
                1
            } else if e.iter().any(|e| matches!(e, Exit::Up(..))) {
                0
            } else {
                2
            };
            (rank, net.clone())
        });
        // A net that finds no place goes before all others in the next try.
        let mut tries = 4 * leaving.len();
        let (mut sketch, pins) = loop {
            match self.wire(&leaving, exits, &rows, &at, &bases, band, x, [bottom, top]) {
                Ok(done) => break done,
                Err(net) => {
                    tries = tries.checked_sub(1)?;
                    let net = leaving.remove(net);
                    leaving.insert(0, net);
                }
            }
        };
        for (row, &base) in rows.iter().zip(&bases) {
            sketch.add(&row.draw(), [0, base], None);
        }
        Some((Control { sketch, pins, rows: bases }, bottom))
    }

    /// Wires nets in order; the pins' places, or the net that found none.
    #[allow(clippy::too_many_arguments)]
    fn wire(
        &self,
        leaving: &[String],
        exits: &BTreeMap<String, Vec<Exit>>,
        rows: &[Row<'_>],
        at: &BTreeMap<String, Vec<usize>>,
        bases: &[Nm],
        band: Nm,
        x: Span,
        [bottom, top]: Span,
    ) -> Result<(Sketch, BTreeMap<String, Nm>), usize> {
        let p = self.process;
        let l = &p.logic;
        let kit = Kit { process: p };
        let mut lines = Lines {
            strips: Default::default(),
            space: [p.rules.met2_space_nm, p.rules.met34_space_nm, p.rules.met34_space_nm],
        };
        // The places of the lines that leave upwards are taken.
        for (id, net) in leaving.iter().enumerate() {
            for exit in exits.get(net).into_iter().flatten() {
                if let Exit::Up(x, to) = *exit {
                    let half = l.met4_half_width_nm;
                    let low = at[net].iter().map(|&i| bases[i]).min().unwrap_or(top)
                        - l.met3_pitch_nm
                        - l.met4_end_nm;
                    lines.push(Metal::Four, [x - half, low, x + half, to], id);
                }
                if let Exit::Right(y) = *exit {
                    let half = l.met3_half_width_nm;
                    lines.push(Metal::Three, [x[1], y - half, x[1] + l.met3_pitch_nm, y + half], id);
                }
            }
        }
        let mut sketch = Sketch::default();
        let mut pins = BTreeMap::new();
        for (id, net) in leaving.iter().enumerate() {
            let own = exits.get(net).map_or(&[][..], Vec::as_slice);
            let (found, trunk) =
                self.connect(net, id, own, rows, &at[net], bases, band, x, bottom, &lines).ok_or(id)?;
            for (metal, area) in found.shapes {
                lines.push(metal, area, id);
                let layer = match metal {
                    Metal::Two => p.layers.met2,
                    Metal::Three => p.layers.met3,
                    Metal::Four => p.layers.met4,
                };
                sketch.rectangle(layer, area);
            }
            found.vias.iter().for_each(|&v| kit.via(&mut sketch, v));
            found.vias2.iter().for_each(|&v| kit.via2(&mut sketch, v));
            found.vias3.iter().for_each(|&v| kit.via3(&mut sketch, v));
            if own.contains(&Exit::Down) {
                pins.insert(net.clone(), trunk);
            }
        }
        Ok((sketch, pins))
    }

    /// Lines of one net, and where its met4 line is.
    #[allow(clippy::too_many_arguments)]
    fn connect(
        &self,
        net: &str,
        id: usize,
        exits: &[Exit],
        rows: &[Row<'_>],
        of: &[usize],
        bases: &[Nm],
        band: Nm,
        x: Span,
        bottom: Nm,
        lines: &Lines,
    ) -> Option<(Found, Nm)> {
        let p = self.process;
        let l = &p.logic;
        let fixed = exits.iter().find_map(|e| if let Exit::Up(x, _) = e { Some(*x) } else { None });
        let middle = {
            let all: Vec<Nm> = of.iter().flat_map(|&i| rows[i].pins(net)).map(|c| c.1).collect();
            all.iter().sum::<Nm>() / (all.len() as Nm).max(1)
        };
        let step = l.met4_pitch_nm / 4 / p.grid_nm * p.grid_nm;
        let mut candidates: Vec<Nm> = match fixed {
            Some(x) => vec![x],
            None => (0..)
                .map(|i| x[0] + l.met4_pitch_nm + i * step)
                .take_while(|&t| t <= x[1] - l.met4_pitch_nm)
                .collect(),
        };
        // Lines to the right leave the middle of the block to others.
        let goal = if exits.iter().any(|e| matches!(e, Exit::Right(_))) { x[1] } else { middle };
        candidates.sort_by_key(|t| ((t - goal).abs(), *t));
        let alone = of.len() == 1 && exits.is_empty();
        // What a net's met4 line covers wherever it meets the rows.
        let mut core = [Nm::MAX, Nm::MIN];
        for exit in exits {
            let y = match *exit {
                Exit::Up(_, to) => to,
                Exit::Down => bottom,
                Exit::Right(y) => y,
            };
            core = [core[0].min(y), core[1].max(y)];
        }
        for &i in of {
            let lowest = bases[i] - l.met3_pitch_nm;
            core = [core[0].min(lowest + (band - 1) * l.met3_pitch_nm), core[1].max(lowest)];
        }
        let half = l.met4_half_width_nm;
        let may = |trunk: Nm| {
            let area = [trunk - half, core[0], trunk + half, core[1]];
            alone || core[0] >= core[1] || lines.is_clear_of_others(Metal::Four, area, id)
        };
        // Of each row: its rail, the net's wires, and heights for a line on met3, those near the wires first.
        let in_row = |&i: &usize| {
            let wires: Vec<_> = rows[i].wires.iter().filter(|w| w.net == net).collect();
            let base = bases[i];
            let mean = wires.iter().map(|w| track_y(p, w.track)).sum::<Nm>() / (wires.len() as Nm).max(1);
            let mut tracks: Vec<Nm> = (0..band)
                .map(|t| base - l.met3_pitch_nm + t * l.met3_pitch_nm)
                .filter(|&y| i > 0 || y < base + height(p))
                .collect();
            tracks.sort_by_key(|y| ((y - base - mean).abs(), *y));
            (base, wires, tracks)
        };
        let of: Vec<_> = of.iter().map(in_row).collect();
        candidates.iter().filter(|&&trunk| may(trunk)).find_map(|&trunk| {
            let mut found = Found::default();
            let mut heights = Vec::new();
            for (base, wires, tracks) in &of {
                let y = tracks.iter().find_map(|&y| {
                    let mut shapes: Vec<(Metal, Area, usize)> = Vec::new();
                    let (mut vias, mut ends) =
                        (Vec::new(), if alone { [Nm::MAX, Nm::MIN] } else { [trunk, trunk] });
                    for wire in wires {
                        let from = base + track_y(p, wire.track);
                        let (m, w) = (l.met2_end_nm, l.met2_half_width_nm);
                        let [low, high] = [wire.x[0] + l.met1_end_nm, wire.x[1] - l.met1_end_nm];
                        let half_step = l.column_pitch_nm / 2;
                        let (v, area) = outward([low, high], half_step, trunk).find_map(|v| {
                            let area = [v - w, from.min(y) - m, v + w, from.max(y) + m];
                            let space = lines.space[Metal::Two as usize];
                            let own = || shapes.iter().all(|s| agree(space, area, id, (s.1, s.2)));
                            (own() && lines.is_free(Metal::Two, area, id)).then_some((v, area))
                        })?;
                        shapes.push((Metal::Two, area, id));
                        vias.push(([v, from], [v, y]));
                        ends = [ends[0].min(v), ends[1].max(v)];
                    }
                    let half = l.met3_half_width_nm;
                    let ends = wide(ends, l.met3_end_nm, l.met3_half_length_nm);
                    let area = [ends[0], y - half, ends[1], y + half];
                    if !lines.is_free(Metal::Three, area, id) {
                        return None;
                    }
                    shapes.push((Metal::Three, area, id));
                    Some((y, shapes, vias))
                });
                let (y, shapes, vias) = y?;
                found.shapes.extend(shapes.into_iter().map(|(metal, area, _)| (metal, area)));
                for (a, b) in vias {
                    found.vias.push(a);
                    found.vias2.push(b);
                }
                if !alone {
                    found.vias3.push([trunk, y]);
                    heights.push(y);
                }
            }
            for exit in exits {
                match *exit {
                    Exit::Up(_, to) => heights.push(to),
                    Exit::Down => heights.push(bottom),
                    Exit::Right(y) => {
                        let half = l.met3_half_width_nm;
                        let area = [trunk - l.met3_end_nm, y - half, x[1] + l.met3_pitch_nm, y + half];
                        if !lines.is_free(Metal::Three, area, id) {
                            return None;
                        }
                        found.shapes.push((Metal::Three, area));
                        found.vias3.push([trunk, y]);
                        heights.push(y);
                    }
                }
            }
            if !alone {
                let (low, high) = (heights.iter().min()?, heights.iter().max()?);
                let [y0, y1] = wide([*low, *high], l.met4_end_nm, l.met3_half_length_nm);
                let half = l.met4_half_width_nm;
                let area = [trunk - half, y0, trunk + half, y1];
                if !lines.is_free(Metal::Four, area, id) {
                    return None;
                }
                found.shapes.push((Metal::Four, area));
            }
            Some((found, trunk))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_in_order_of_their_distance() {
        for high in [-200, -1, 0, 5, 299, 300, 1000] {
            for from in [-500, -1, 0, 49, 50, 51, 250, 300, 2000] {
                let mut want: Vec<Nm> = (0..=high / 100).map(|i| i * 100).collect();
                want.sort_by_key(|v| ((v - from).abs(), *v));
                assert_eq!(outward([0, high], 100, from).collect::<Vec<_>>(), want, "{high} {from}");
            }
        }
    }
}
