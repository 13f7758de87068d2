//! The row decoder left of the array: one row of logic for eight word lines.
//!
//! A row holds its chooser and eight drivers. Drivers stand from the outermost word lines inwards, so that
//! the met2 line of a word line, which runs from its driver to the array at the word line's own height,
//! passes no driver whose output still has to reach its height.

use crate::macros::circuit::{self, RowAddress, word_line_fingers};
use crate::macros::draw::{Kit, Sketch, about};
use crate::macros::place::Places;
use crate::macros::row::{Row, track_y, tracks};
use crate::process::{Nm, Span};

/// The decoder's rows as drawn, x from the left edge of its logic.
pub(super) struct Decoder {
    /// Content of even and of odd rows, upright.
    pub rows: [Sketch; 2],
    /// Where the lines of the lowest address bits run, from driver to driver.
    pub low_x: Vec<Nm>,
    /// Where the predecoded lines of the chooser run: `mid`, then `high`.
    pub bus_x: Vec<Nm>,
    /// The chooser's inputs and the heights of their wires.
    inputs: [[Nm; 2]; 2],
    /// Right end of the logic.
    pub right: Nm,
}

impl Places<'_> {
    /// The lines `mid` and `high`.
    pub(super) fn bus_lines(&self) -> [u32; 2] {
        let rows = RowAddress::new(self.process, self.shape);
        let all = self.shape.word_lines / self.process.logic.word_lines;
        let mid = if rows.mid == 0 { 0 } else { all.min(1 << rows.mid) };
        let high = if rows.high == 0 { 0 } else { all.div_ceil(1 << rows.mid) };
        [mid, high]
    }

    /// The word line of a row, counted upwards, that driver `i` from the left drives.
    pub(super) fn driven(&self, i: usize) -> usize {
        if i.is_multiple_of(2) { i / 2 } else { self.process.logic.word_lines as usize - 1 - i / 2 }
    }

    /// The decoder's rows, their word lines drawn up to `end`; `None` where wires do not fit.
    pub(super) fn decoder(&self, end: impl Fn(Nm) -> Nm) -> Option<Decoder> {
        let p = self.process;
        let [mid, high] = self.bus_lines();
        let bus = Nm::from(mid + high) * p.logic.met4_pitch_nm;
        let bus_x: Vec<Nm> = (0..Nm::from(mid + high))
            .map(|i| p.logic.met4_pitch_nm / 2 / p.grid_nm * p.grid_nm + i * p.logic.met4_pitch_nm)
            .collect();
        let mut built = Vec::new();
        for odd in [false, true] {
            built.push(self.decoder_row(odd, bus)?);
        }
        let right = built[0].3;
        let end = end(right);
        let [even, odd] = <[_; 2]>::try_from(built).ok()?;
        let low_x = even.2.clone();
        let inputs = even.1;
        let rows = [even, odd].map(|(row, _, _, _, lines)| {
            let mut s: Sketch = row;
            for [x, y] in lines {
                let half = p.strap.met2_half_height_nm;
                s.rectangle(p.layers.met2, [x, y - half, end, y + half]);
            }
            s
        });
        Some(Decoder { rows, low_x, bus_x, inputs, right })
    }

    #[allow(clippy::type_complexity)]
    fn decoder_row(&self, odd: bool, bus: Nm) -> Option<(Sketch, [[Nm; 2]; 2], Vec<Nm>, Nm, Vec<[Nm; 2]>)> {
        let p = self.process;
        let l = &p.logic;
        let kit = Kit { process: p };
        let lines = l.word_lines as usize;
        let mut row = Row::new(p);
        // The bus may be wider than the chooser under it.
        let chooser_width = 8 * l.column_pitch_nm + l.break_pitch_nm;
        let from = (bus - chooser_width).max(l.diff_end_nm);
        let [nand, inverter] = circuit::chooser("c", ["mid", "high"], "choice");
        row.push(&nand, Some(from));
        row.push(&inverter, None);
        // Local word lines in the order of their drivers.
        let order: Vec<usize> =
            (0..lines).map(|i| if odd { lines - 1 - self.driven(i) } else { self.driven(i) }).collect();
        let last = *order.last()?;
        let choice_track = lines - 1 - last;
        for i in 0..lines {
            let [nand, inverter] = circuit::driver(
                &format!("d{i}"),
                "choice",
                &format!("low{i}"),
                &format!("w{i}"),
                word_line_fingers(self.shape),
            );
            row.push(&nand, None);
            row.push(&inverter, None);
        }
        let width = row.right()?;
        if !row.tie_net("choice", Some(choice_track), None) {
            return None;
        }
        let [first_track, last_track] = [tracks(p).start, tracks(p).end - 1];
        let mut starts = Vec::new();
        let mut low_x = Vec::new();
        let mut s = Sketch::default();
        for (i, &local) in order.iter().enumerate() {
            let (low, word, not) = (format!("low{i}"), format!("w{i}"), format!("d{i}_n"));
            let out = if local == choice_track { last } else { local.clamp(first_track, last_track) };
            let not_track = if out == first_track { first_track + 1 } else { first_track };
            if !row.tie_net(&word, Some(out), None) || !row.tie_net(&not, Some(not_track), None) {
                return None;
            }
            // Word lines that already run here.
            let present = order.get(..i)?;
            let low_track = tracks(p).rev().find(|t| {
                !present.contains(t)
                    && ![choice_track, not_track].contains(t)
                    && row.tie_net(&low, Some(*t), None)
            })?;
            let x = row.pins(&low).first()?.1;
            let at = [x, track_y(p, low_track)];
            kit.via(&mut s, at);
            kit.met2_pad(&mut s, at, false);
            kit.via2(&mut s, at);
            kit.met3_pad(&mut s, at, true);
            kit.via3(&mut s, at);
            low_x.push(x);
            let x = row.pins(&word).first()?.1;
            let (from, to) = (track_y(p, out), track_y(p, local));
            kit.via(&mut s, [x, from]);
            let [half_x, half_y] = p.strap.met2_pad_half_nm;
            s.rectangle(p.layers.met2, about([x, from], [half_x, half_y]));
            let half = p.strap.met2_half_height_nm;
            s.rectangle(p.layers.met2, [x - half_x, from.min(to) - half, x + half_x, from.max(to) + half]);
            starts.push([x - half_x, to]);
        }
        // The chooser's inputs leave to the bus on met3, two pitches apart.
        if !row.tie_net("c_n", None, None) {
            return None;
        }
        let mut inputs = [[0, 0]; 2];
        for (input, net, from_top) in [(0, "mid", false), (1, "high", true)] {
            let mut candidates: Vec<usize> = tracks(p).collect();
            if from_top {
                candidates.reverse();
            }
            let track = candidates.into_iter().find(|t| row.tie_net(net, Some(*t), None))?;
            let at = [row.pins(net).first()?.1, track_y(p, track)];
            kit.via(&mut s, at);
            kit.met2_pad(&mut s, at, true);
            kit.via2(&mut s, at);
            inputs[input] = at;
        }
        let mut all = row.draw();
        all.add(&s, [0, 0], None);
        Some((all, inputs, low_x, width, starts))
    }

    /// The connections of a decoder row to its lines of the bus, upright.
    pub(super) fn hook(&self, decoder: &Decoder, row: u32) -> Sketch {
        let p = self.process;
        let kit = Kit { process: p };
        let mut s = Sketch::default();
        let address = RowAddress::new(p, self.shape);
        let [mid, _] = self.bus_lines();
        let of_mid = row & ((1 << address.mid) - 1);
        let of_high = if address.high == 0 { of_mid } else { mid + (row >> address.mid) };
        for (line, at) in [of_mid, of_high].into_iter().zip(decoder.inputs) {
            let Some(&x) = decoder.bus_x.get(line as usize) else { continue };
            let span = wide([x.min(at[0]), x.max(at[0])], p.logic.met3_end_nm, p.logic.met3_half_length_nm);
            let half = p.logic.met3_half_width_nm;
            s.rectangle(p.layers.met3, [span[0], at[1] - half, span[1], at[1] + half]);
            kit.via3(&mut s, [x, at[1]]);
        }
        s
    }
}

/// A span with `end` on either side, at least two `half` long.
pub(super) fn wide([x0, x1]: Span, end: Nm, half: Nm) -> Span {
    let short = (2 * half - (x1 - x0) - 2 * end).max(0);
    let grid = 10;
    let more = (short / 2 + grid - 1) / grid * grid;
    [x0 - end - more, x1 + end + more]
}
