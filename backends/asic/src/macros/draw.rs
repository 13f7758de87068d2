//! Shapes of one cell, and stacks of cuts.

use std::collections::{BTreeMap, BTreeSet};

use crate::process::{Layer, Nm, Process};
use crate::sink::Sink;
use crate::stream::StreamError;

/// `[x0, y0, x1, y1]`.
pub type Area = [Nm; 4];

/// The area of half size `half` about a centre.
pub fn about([x, y]: [Nm; 2], [half_x, half_y]: [Nm; 2]) -> Area {
    [x - half_x, y - half_y, x + half_x, y + half_y]
}

/// A cell while it is drawn.
#[derive(Debug, Clone, Default)]
pub struct Sketch {
    rectangles: Vec<(Layer, Area)>,
    labels: Vec<(Layer, [Nm; 2], String)>,
    copies: Vec<Copies>,
}

#[derive(Debug, Clone)]
struct Copies {
    cell: String,
    at: [Nm; 2],
    counts: [i64; 2],
    pitch: [Nm; 2],
}

impl Sketch {
    /// A rectangle; nothing on a layer that the process does not have.
    pub fn rectangle(&mut self, layer: impl Into<Option<Layer>>, area: Area) {
        self.rectangles.extend(layer.into().map(|layer| (layer, area)));
    }

    /// A square about a centre.
    pub fn square(&mut self, layer: Layer, at: [Nm; 2], size: Nm) {
        self.rectangle(layer, about(at, [size / 2, size / 2]));
    }

    /// A text.
    pub fn label(&mut self, layer: Layer, at: [Nm; 2], text: &str) {
        self.labels.push((layer, at, text.to_owned()));
    }

    /// One copy of a cell.
    pub fn copy(&mut self, cell: &str, at: [Nm; 2]) {
        self.copies(cell, at, [1, 1], [0, 0]);
    }

    /// Columns x rows of copies.
    pub fn copies(&mut self, cell: &str, at: [Nm; 2], counts: [i64; 2], pitch: [Nm; 2]) {
        self.copies.push(Copies { cell: cell.to_owned(), at, counts, pitch });
    }

    /// The shapes and texts of another cell, first mirrored from y to `mirror - y`, then moved by `by`.
    pub fn add(&mut self, other: &Sketch, by: [Nm; 2], mirror: Option<Nm>) {
        let y = |y: Nm| by[1] + mirror.map_or(y, |m| m - y);
        for &(layer, [x0, y0, x1, y1]) in &other.rectangles {
            let (a, b) = (y(y0), y(y1));
            self.rectangle(layer, [x0 + by[0], a.min(b), x1 + by[0], a.max(b)]);
        }
        for (layer, at, text) in &other.labels {
            self.label(*layer, [at[0] + by[0], y(at[1])], text);
        }
    }

    /// The rectangles of a layer, those of copies left out.
    pub fn on(&self, layer: Layer) -> impl Iterator<Item = Area> {
        self.rectangles.iter().filter(move |r| r.0 == layer).map(|r| r.1)
    }

    /// The texts of a layer.
    pub fn texts(&self, layer: Layer) -> impl Iterator<Item = ([Nm; 2], &str)> {
        self.labels.iter().filter(move |t| t.0 == layer).map(|t| (t.1, t.2.as_str()))
    }

    /// Writes the cell.
    ///
    /// # Errors
    /// What the file format cannot hold.
    pub fn write(&self, cells: &mut impl Sink, name: &str) -> Result<(), StreamError> {
        cells.begin(name)?;
        for &(layer, area) in &self.rectangles {
            cells.rectangle(layer, area)?;
        }
        for c in &self.copies {
            if c.counts == [1, 1] {
                cells.copy(&c.cell, c.at)?;
            } else {
                cells.copies(&c.cell, c.at, c.counts, c.pitch)?;
            }
        }
        for (layer, at, text) in &self.labels {
            cells.label(*layer, *at, text)?;
        }
        cells.end()
    }
}

/// Cells in the order in which they were drawn, to be written in any format.
#[derive(Debug, Clone, Default)]
pub struct Drawing {
    cells: Vec<(String, Sketch)>,
}

impl Drawing {
    /// Adds a cell.
    pub fn add(&mut self, name: &str, cell: Sketch) {
        self.cells.push((name.to_owned(), cell));
    }

    /// The last cell drawn.
    pub fn last(&self) -> Option<&Sketch> {
        self.cells.last().map(|c| &c.1)
    }

    /// The boundary of the last cell drawn.
    pub fn boundary(&self, process: &Process) -> Option<Area> {
        self.last()?.on(process.layers.boundary).next()
    }

    /// What the shapes of the last cell cover, those of the cells that it copies among them, and its boundary, where it
    /// has one and shapes are outside of it.
    pub fn outside(&self, process: &Process) -> Option<[Area; 2]> {
        let mut covered: BTreeMap<&str, Area> = BTreeMap::new();
        for (name, cell) in &self.cells {
            let rectangles = cell.rectangles.iter().filter(|r| r.0 != process.layers.boundary).map(|r| r.1);
            let copies = cell.copies.iter().filter_map(|c| {
                let [x0, y0, x1, y1] = *covered.get(c.cell.as_str())?;
                let [dx, dy] = [0, 1].map(|i| c.pitch[i] * (c.counts[i] - 1));
                let [x, y] = c.at;
                Some([x + x0 + dx.min(0), y + y0 + dy.min(0), x + x1 + dx.max(0), y + y1 + dy.max(0)])
            });
            let union = |a: Area, b: Area| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])];
            if let Some(area) = rectangles.chain(copies).reduce(union) {
                covered.insert(name, area);
            }
        }
        let boundary = self.boundary(process)?;
        let area = *covered.get(self.cells.last()?.0.as_str())?;
        let inside = (0..2).all(|i| boundary[i] <= area[i] && area[i + 2] <= boundary[i + 2]);
        (!inside).then_some([area, boundary])
    }

    /// Writes the cells but for those whose names are in `written`, and puts their names there.
    ///
    /// # Errors
    /// What the file format cannot hold.
    pub fn write(&self, sink: &mut impl Sink, written: &mut BTreeSet<String>) -> Result<(), StreamError> {
        for (name, cell) in &self.cells {
            if written.insert(name.clone()) {
                cell.write(sink, name)?;
            }
        }
        Ok(())
    }

    fn open(&mut self) -> &mut Sketch {
        if self.cells.is_empty() {
            self.cells.push(Default::default());
        }
        let last = self.cells.len() - 1;
        &mut self.cells[last].1
    }
}

impl Sink for Drawing {
    fn begin(&mut self, name: &str) -> Result<(), StreamError> {
        self.cells.push((name.to_owned(), Sketch::default()));
        Ok(())
    }

    fn end(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn rectangle(&mut self, layer: Layer, area: [Nm; 4]) -> Result<(), StreamError> {
        self.open().rectangle(layer, area);
        Ok(())
    }

    fn copy(&mut self, name: &str, at: [Nm; 2]) -> Result<(), StreamError> {
        self.open().copy(name, at);
        Ok(())
    }

    fn copies(
        &mut self,
        name: &str,
        at: [Nm; 2],
        counts: [i64; 2],
        pitch: [Nm; 2],
    ) -> Result<(), StreamError> {
        self.open().copies(name, at, counts, pitch);
        Ok(())
    }

    fn label(&mut self, layer: Layer, at: [Nm; 2], text: &str) -> Result<(), StreamError> {
        self.open().label(layer, at, text);
        Ok(())
    }
}

/// Draws cuts and the pads around them by a process's numbers.
#[derive(Clone, Copy)]
pub struct Kit<'a> {
    /// The process.
    pub process: &'a Process,
}

impl Kit<'_> {
    /// Contact of poly or diffusion to li1.
    pub fn licon(self, s: &mut Sketch, at: [Nm; 2]) {
        s.square(self.process.layers.licon, at, self.process.rules.licon_size_nm);
    }

    /// Cut of li1 and met1.
    pub fn mcon(self, s: &mut Sketch, at: [Nm; 2]) {
        s.square(self.process.layers.mcon, at, self.process.rules.mcon_size_nm);
    }

    /// Cut of met1 and met2.
    pub fn via(self, s: &mut Sketch, at: [Nm; 2]) {
        s.square(self.process.layers.via, at, self.process.rules.via_size_nm);
    }

    /// Cut of met2 and met3.
    pub fn via2(self, s: &mut Sketch, at: [Nm; 2]) {
        s.square(self.process.layers.via2, at, self.process.rules.via2_size_nm);
    }

    /// Cut of met3 and met4.
    pub fn via3(self, s: &mut Sketch, at: [Nm; 2]) {
        s.square(self.process.layers.via3, at, self.process.rules.via3_size_nm);
    }

    /// met1 pad of one cut and one via, long along y where `upright`.
    pub fn met1_pad(self, s: &mut Sketch, at: [Nm; 2], upright: bool) {
        let l = &self.process.logic;
        s.rectangle(
            self.process.layers.met1,
            about(at, turned([l.met1_end_nm, l.met1_half_width_nm], upright)),
        );
    }

    /// met2 pad of a via on either side, long along y where `upright`.
    pub fn met2_pad(self, s: &mut Sketch, at: [Nm; 2], upright: bool) {
        let l = &self.process.logic;
        s.rectangle(
            self.process.layers.met2,
            about(at, turned([l.met2_end_nm, l.met2_half_width_nm], upright)),
        );
    }

    /// met3 pad of a via on either side, long along y where `upright`.
    pub fn met3_pad(self, s: &mut Sketch, at: [Nm; 2], upright: bool) {
        let l = &self.process.logic;
        let half = [l.met3_half_length_nm, l.met3_half_width_nm];
        s.rectangle(self.process.layers.met3, about(at, turned(half, upright)));
    }

    /// A supply or ground rail of logic: met1, li1 and the taps under them, along x at height y.
    pub fn rail(self, s: &mut Sketch, [x0, x1]: [Nm; 2], y: Nm, supply: bool) {
        let (l, r, layers) = (&self.process.logic, &self.process.rules, &self.process.layers);
        let implant = if supply { layers.nsdm } else { Some(layers.psdm) };
        let over = self.process.cell.implant_enclosure_nm;
        let half = l.rail_tap_half_height_nm;
        s.rectangle(layers.met1, [x0, y - l.rail_half_height_nm, x1, y + l.rail_half_height_nm]);
        s.rectangle(layers.li1, [x0, y - half, x1, y + half]);
        s.rectangle(layers.tap, [x0, y - half, x1, y + half]);
        s.rectangle(implant, [x0 - over, y - half - over, x1 + over, y + half + over]);
        let pitch = 2 * l.column_pitch_nm;
        let margin = r.tap_enclose_licon_ends_nm + r.licon_size_nm / 2;
        let count = (x1 - x0 - 2 * margin) / pitch + 1;
        s.copies(RAIL_CUTS, [x0 + margin, y], [count, 1], [pitch, 0]);
    }

    /// The cuts that [`Kit::rail`] repeats.
    pub fn rail_cuts(self) -> Sketch {
        let mut s = Sketch::default();
        self.licon(&mut s, [0, 0]);
        self.mcon(&mut s, [0, 0]);
        s
    }

    /// A stack from metal `from`, 1 to 3, to met4 in a field of `columns` x `rows` cuts a layer, with met2 and met3 around
    /// them.
    pub fn power_stack(self, s: &mut Sketch, at: [Nm; 2], [columns, rows]: [Nm; 2], from: u8) {
        let (r, layers, l) = (&self.process.rules, &self.process.layers, &self.process.logic);
        let size = r.via2_size_nm.max(r.via3_size_nm).max(r.via_size_nm);
        let pitch = size + r.via23_space_nm.max(r.via_space_nm);
        let half = [(columns - 1) * pitch / 2, (rows - 1) * pitch / 2];
        for i in 0..columns {
            for j in 0..rows {
                let at = [at[0] - half[0] + i * pitch, at[1] - half[1] + j * pitch];
                if from < 2 {
                    self.via(s, at);
                }
                if from < 3 {
                    self.via2(s, at);
                }
                self.via3(s, at);
            }
        }
        if from < 3 {
            s.rectangle(layers.met2, about(at, [half[0] + l.met2_end_nm, half[1] + l.met2_half_width_nm]));
        }
        let long = (half[0] + l.met3_end_nm).max(l.met3_half_length_nm);
        s.rectangle(layers.met3, about(at, [long, half[1] + l.met3_half_width_nm]));
    }
}

fn turned([x, y]: [Nm; 2], turn: bool) -> [Nm; 2] {
    if turn { [y, x] } else { [x, y] }
}

/// Cell of one contact and one cut of a rail.
pub const RAIL_CUTS: &str = "base_rail_cuts";
