//! What lies beside and over the macros of a die: the outlines of their lanes, power straps, and a ring of power and pins.
//!
//! ```text
//!   +--- pins of clock and streams ------------------------+
//!   |  VGND ring, VPWR ring: met4 upright, met5 along x    |
//!   |    ===== met5 straps of VPWR and VGND in turn =====  |
//!   |     | macro        |     | macro        |            |
//!   |     |__ Q, A, CLK _|     |______________|            |
//!   |     | its lanes:   |     | outline      |            |
//!   |     | outline      |     |              |            |
//!   |     |______________|     |______________|            |
//!   +------------------------------------------------------+
//! ```
//!
//! Below each macro that holds codes lies the outline of its lanes and sequencer (the module [`crate::rtl`] writes for the
//! tile), as wide as the macro and as large as the standard cells of the synthesised netlist at a share of
//! the area that the process file assumes. Pins of the outline meet the macro's pins; the macro's met4 straps go on over it. A met5 strap
//! has a via4 on every met4 strap of its net that it crosses. Nothing is placed or routed inside of an outline, nor from an outline to another
//! or to the ring: a die is no finished chip.

use crate::base::{Base, MacroPin};
use crate::macros::draw::{Area, Drawing, Sketch, about};
use crate::macros::netlist::{GROUND, SUPPLY};
use crate::process::{Nm, Process};
use crate::rtl::TileRtl;
use crate::sink::Sink;
use crate::stream::StreamError;
use pfmc_ir::tile::Levels;

/// Cell of one cut of met4 and met5.
const VIA4: &str = "base_via4";
/// Nets of power, in the order of the straps.
const NETS: [&str; 2] = [SUPPLY, GROUND];

/// From the die's edge to the nearest tile: without macros there are no straps and no ring between them.
pub fn edge(process: &Process) -> Nm {
    if process.periphery { process.die.edge_nm } else { process.tile.spacing_nm }
}

/// Area of the standard cells of a tile's lanes and sequencer, square micrometres.
pub fn cells_um2(process: &Process, tile: &TileRtl) -> u64 {
    let d = &process.die;
    let uniform = [
        d.uniform2_um2,
        d.uniform3_um2,
        d.uniform4_um2,
        d.uniform5_um2,
        d.uniform6_um2,
        d.uniform7_um2,
        d.uniform8_um2,
    ];
    let codebook = [d.codebook2_um2, d.codebook3_um2, d.codebook4_um2, d.codebook5_um2, d.codebook6_um2];
    let multiplying =
        [d.multiplying2_um2, d.multiplying3_um2, d.multiplying4_um2, d.multiplying5_um2, d.multiplying6_um2];
    let runs = u64::from(tile.runs());
    // Of a lane that multiplies its own activation is part.
    let (of_bits, products, more) = match kind(tile) {
        'u' => (&uniform[..], 0, runs - 1),
        'c' => (&codebook[..], runs << tile.bits(), runs - 1),
        _ => (&multiplying[..], 0, 0),
    };
    let lane = of_bits.get(tile.bits().saturating_sub(2) as usize).or(of_bits.last()).copied().unwrap_or(0);
    u64::from(tile.lanes()) * u64::from(lane)
        + products * u64::from(d.product_um2)
        + more * u64::from(d.activation_um2)
        + u64::from(d.sequencer_um2)
}

/// Lanes of uniform codes, that choose among products, or that multiply.
fn kind(tile: &TileRtl) -> char {
    match tile.levels() {
        Levels::Uniform => 'u',
        Levels::Codebook if tile.shared() => 'c',
        Levels::Codebook => 'm',
    }
}

/// The outline of a tile's lanes, in the frame of the tile.
pub struct Lanes {
    /// Name of its cell.
    pub name: String,
    /// Its boundary.
    pub area: Area,
    cell: Sketch,
}

impl Lanes {
    /// The lanes of a tile below its macro.
    pub fn new(process: &Process, base: &Base, tile: &TileRtl) -> Lanes {
        let (d, layers) = (&process.die, &process.layers);
        let [left, top, right, _] = base.boundary();
        let width = (right - left).max(1);
        let cells = cells_um2(process, tile) as f64 * 1e6 / d.cell_share;
        let grid = 2 * process.grid_nm.max(1);
        // Whole grid steps, and room for pins.
        let height = ((cells / width as f64 / grid as f64).ceil() as Nm * grid).max(4 * d.pin_length_nm);
        let area = [left, top - height, right, top];
        let mut cell = Sketch::default();
        cell.rectangle(layers.boundary, area);
        for pin in base.pins() {
            let [x0, _, x1, y1] = pin.area;
            let power = NETS.contains(&pin.name.as_str());
            let low = if power { area[1] + process.tile.margin_nm } else { top - d.pin_length_nm };
            cell.rectangle(
                pin.layers[0],
                [x0, low, x1, if power { pin.area[1] + d.pin_length_nm } else { y1 }],
            );
            cell.rectangle(pin.layers[1], [x0, low, x1, top]);
            let at =
                [(x0 + x1) / 2, (low + top) / 2].map(|v| v / process.grid_nm.max(1) * process.grid_nm.max(1));
            cell.label(pin.layers[2], at, &pin.name);
        }
        let (kind, shape) = (kind(tile), base.shape());
        let mut name = format!(
            "base_lanes_{}x{}_{kind}{}_{}",
            shape.word_lines,
            shape.bit_lines,
            tile.bits(),
            tile.lanes()
        );
        if kind != 'm' && tile.runs() > 1 {
            name += &format!("_{}", tile.runs());
        }
        Lanes { name, area, cell }
    }

    /// Width and height, millimetres.
    pub fn size_mm(&self) -> [f64; 2] {
        let [x0, y0, x1, y1] = self.area;
        [x1 - x0, y1 - y0].map(|nm| nm as f64 * 1e-6)
    }

    /// Draws the cell.
    ///
    /// # Errors
    /// What the file format cannot hold.
    pub fn write(&self, sink: &mut impl Sink) -> Result<(), StreamError> {
        self.cell.write(sink, &self.name)
    }
}

/// Name of the cell of the cuts of a met5 strap of net `net` on the straps of a base.
fn vias_name(base: &Base, net: usize) -> String {
    format!("base_vias{net}_{}x{}", base.shape().word_lines, base.shape().bit_lines)
}

fn straps(base: &Base, net: usize) -> impl Iterator<Item = &MacroPin> {
    base.pins().iter().filter(move |pin| NETS.get(net).is_some_and(|n| pin.name == *n))
}

/// Cells that dies are made of, but for lanes.
pub fn cells<'a>(process: &Process, bases: impl Iterator<Item = &'a Base>) -> Drawing {
    let mut drawing = Drawing::default();
    let mut via = Sketch::default();
    via.square(process.die.via4, [0, 0], process.die.via4_size_nm);
    drawing.add(VIA4, via);
    for base in bases {
        for net in 0..NETS.len() {
            let mut cell = Sketch::default();
            for pin in straps(base, net) {
                cell.copy(VIA4, [(pin.area[0] + pin.area[2]) / 2, 0]);
            }
            drawing.add(&vias_name(base, net), cell);
        }
    }
    drawing
}

/// A tile on a die: its base, its origin, and how far down its straps go in its own frame.
pub struct OnDie<'a> {
    /// Its base.
    pub base: &'a Base,
    /// Its lanes.
    pub lanes: Option<&'a Lanes>,
    /// The tile's origin on the die.
    pub at: [Nm; 2],
}

/// Heights of the met5 straps of a die with their nets, upwards.
fn strap_heights(process: &Process, height: Nm) -> Vec<(Nm, usize)> {
    let d = &process.die;
    let mut all = Vec::new();
    let mut y = d.edge_nm;
    while y <= height - d.edge_nm && d.strap_pitch_nm > 0 {
        all.push((y, all.len() % NETS.len()));
        y += d.strap_pitch_nm;
    }
    all
}

/// Heights on a tile's straps, in the die's frame, where a cut to met5 has metal around it.
fn reach(process: &Process, tile: &OnDie<'_>, net: usize) -> [Nm; 2] {
    let d = &process.die;
    let around = d.via4_size_nm / 2 + d.met4_enclose_via4_nm;
    let strap = straps(tile.base, net).map(|p| [p.area[1], p.area[3]]).next().unwrap_or_default();
    let low = tile.lanes.map_or(strap[0], |l| l.area[1] + process.tile.margin_nm);
    [tile.at[1] + low + around, tile.at[1] + strap[1] - around]
}

/// The index of the first tile that straps of a net miss, where a die of `height` has one.
pub fn missed(process: &Process, height: Nm, tiles: &[OnDie<'_>]) -> Option<usize> {
    let heights = strap_heights(process, height);
    tiles.iter().position(|tile| {
        (0..NETS.len()).any(|net| {
            let [low, high] = reach(process, tile, net);
            !heights.iter().any(|&(y, of)| of == net && low <= y && y <= high)
        })
    })
}

/// Draws straps, rings and pins of a die of `size` into its open cell.
///
/// # Errors
/// What the file format cannot hold.
pub fn write(
    process: &Process,
    size: [Nm; 2],
    tiles: &[OnDie<'_>],
    sink: &mut impl Sink,
) -> Result<(), StreamError> {
    let (d, layers) = (&process.die, &process.layers);
    let [width, height] = size;
    // Cuts that fit into the overlap of a ring's two metals, and into that of a strap and a ring.
    let pitch = d.via4_size_nm + d.via4_space_nm;
    let room = d.ring_width_nm - 2 * d.met5_enclose_via4_nm.max(d.met4_enclose_via4_nm) - d.via4_size_nm;
    let cuts = (room / pitch.max(1)).max(0) + 1;
    let first = (d.ring_width_nm - (cuts - 1) * pitch) / 2 / process.grid_nm.max(1) * process.grid_nm.max(1);
    // The supply's ring is the inner one.
    let ring = |net: usize| {
        let low = d.ring_from_nm + if net == 0 { d.ring_width_nm + d.ring_space_nm } else { 0 };
        [low, low, width - low, height - low]
    };
    for (net, name) in NETS.iter().enumerate() {
        let [x0, y0, x1, y1] = ring(net);
        let w = d.ring_width_nm;
        for x in [x0, x1 - w] {
            sink.rectangle(layers.met4, [x, y0, x + w, y1])?;
            for y in [y0, y1 - w] {
                sink.copies(VIA4, [x + first, y + first], [cuts, cuts], [pitch, pitch])?;
            }
        }
        for y in [y0, y1 - w] {
            let bar = [x0, y, x1, y + w];
            sink.rectangle(d.met5, bar)?;
            sink.rectangle(d.met5_pin, bar)?;
            let grid = 2 * process.grid_nm.max(1);
            sink.label(d.met5_label, [(x0 + x1) / grid * process.grid_nm, y + w / 2], name)?;
        }
    }
    for (y, net) in strap_heights(process, height) {
        let [x0, _, x1, _] = ring(net);
        let half = d.strap_half_width_nm;
        sink.rectangle(d.met5, [x0, y - half, x1, y + half])?;
        for x in [x0, x1 - d.ring_width_nm] {
            sink.copies(VIA4, [x + first, y], [cuts, 1], [pitch, 0])?;
        }
        for tile in tiles {
            let [low, high] = reach(process, tile, net);
            if low <= y && y <= high {
                sink.copy(&vias_name(tile.base, net), [tile.at[0], y])?;
            }
        }
    }
    for (x, pins) in [0, width - d.pin_length_nm].into_iter().zip(edge_pins()) {
        for (i, name) in (0..).zip(pins) {
            let y = d.edge_nm + i * d.pin_pitch_nm;
            let area = about([x + d.pin_length_nm / 2, y], [d.pin_length_nm / 2, d.pin_pitch_nm / 4]);
            sink.rectangle(layers.met3, area)?;
            sink.rectangle(layers.met3_pin, area)?;
            sink.label(layers.met3_label, [x + d.pin_length_nm / 2, y], &name)?;
        }
    }
    Ok(())
}

/// Names of the pins at the die's edges, upwards: clock and the stream in at the left, the stream out at the right.
fn edge_pins() -> [Vec<String>; 2] {
    let names = |list: &[&str], bus: &str, wide: usize| -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).chain((0..wide).map(|i| format!("{bus}{i}"))).collect()
    };
    [names(&["clk", "rst", "x_valid", "x_ready"], "x_data", 8), names(&["y_valid", "y_ready"], "y_data", 32)]
}

/// Smallest height of a die: its pins fit.
pub fn least_height(process: &Process) -> Nm {
    let most = edge_pins().map(|pins| pins.len()).into_iter().max().unwrap_or(0);
    2 * process.die.edge_nm + most as Nm * process.die.pin_pitch_nm
}
