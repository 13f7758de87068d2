//! What other tools read of a macro beside its layout and its transistors: an abstract, timing, models and tables.
//!
//! All of it follows from the shape and the process; [`Macro::contents`] and the signature alone depend on the bits.

mod lef;
mod liberty;
mod tables;
mod verilog;

pub use tables::{colour, layer_map, layer_properties, weight_layers};

use crate::macros::Macro;
use crate::macros::build::BuildError;
use crate::macros::draw::Area;
use crate::macros::netlist::{GROUND, SUPPLY};
use crate::process::Nm;
use crate::stream::Cells;
use pfmc_ir::diag::Diagnostics;

/// What a pin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// `CLK`.
    Clock,
    /// `CE` and the address.
    Input,
    /// Data.
    Output,
    /// `VPWR`.
    Power,
    /// `VGND`.
    Ground,
}

/// A pin and its shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Name, as in the layout, the netlists and the models.
    pub name: String,
    /// What it is for.
    pub usage: Use,
    /// Layer and rectangle in nanometres from the lower left corner of the macro.
    pub shapes: Vec<(&'static str, Area)>,
}

/// A macro as placement and routing see it, in nanometres from its lower left corner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Width and height.
    pub size: [Nm; 2],
    /// Pins in the order of the subcircuit.
    pub pins: Vec<Pin>,
    /// Where routing must not go.
    pub obstructions: Vec<(&'static str, Area)>,
}

/// Nanometres as micrometres with three decimals.
pub(crate) fn um(nm: Nm) -> String {
    format!("{}{}.{:03}", if nm < 0 { "-" } else { "" }, nm.abs() / 1000, nm.abs() % 1000)
}

impl Macro<'_> {
    /// Size, pins and obstructions, taken from the rectangles and labels that the layout is written from.
    ///
    /// Metals below met3 are taken as a whole, met3 from the pins of the outputs upwards, met4 where it is drawn.
    ///
    /// # Errors
    /// A part whose wires find no place.
    pub fn outline(&self) -> Result<Outline, Diagnostics> {
        let p = self.0.process;
        let layers = &p.layers;
        let mut scratch = Cells::new(0);
        let drawn = self.0.base(&mut scratch)?;
        let Some([left, bottom, right, top]) = drawn.on(layers.boundary).next() else {
            return Err(BuildError::Wires("boundary").into());
        };
        let moved = |[x0, y0, x1, y1]: Area| [x0 - left, y0 - bottom, x1 - left, y1 - bottom];
        let mut pins: Vec<Pin> = (self.pins().into_iter())
            .map(|name| {
                let usage = match name.as_str() {
                    SUPPLY => Use::Power,
                    GROUND => Use::Ground,
                    "CLK" => Use::Clock,
                    n if n.starts_with('Q') => Use::Output,
                    _ => Use::Input,
                };
                Pin { name, usage, shapes: Vec::new() }
            })
            .collect();
        let metals =
            [("met3", layers.met3_pin, layers.met3_label), ("met4", layers.met4_pin, layers.met4_label)];
        let mut taken = Vec::new();
        for (metal, shapes, labels) in metals {
            for area in drawn.on(shapes) {
                let inside = |[x, y]: [Nm; 2]| area[0] <= x && x <= area[2] && area[1] <= y && y <= area[3];
                let Some((_, name)) = drawn.texts(labels).find(|(at, _)| inside(*at)) else { continue };
                if let Some(pin) = pins.iter_mut().find(|pin| pin.name == name) {
                    pin.shapes.push((metal, moved(area)));
                    taken.push((metal, area));
                }
            }
        }
        let whole = [0, 0, right - left, top - bottom];
        let mut obstructions: Vec<_> = ["li1", "met1", "met2"].map(|metal| (metal, whole)).to_vec();
        let pins3 = taken.iter().filter(|(metal, _)| *metal == "met3").map(|(_, area)| area[3]).max();
        let above = pins3.unwrap_or(bottom) + p.rules.met34_space_nm;
        obstructions.push(("met3", moved([left, above, right, top])));
        let on3 = drawn.on(layers.met3).filter(|area| area[1] < above).map(|area| ("met3", area));
        let on4 = drawn.on(layers.met4).map(|area| ("met4", area));
        for (metal, area) in on3.chain(on4) {
            let pin = taken.iter().any(|(m, a)| {
                *m == metal && a[0] <= area[0] && area[2] <= a[2] && a[1] <= area[1] && area[3] <= a[3]
            });
            // A line that ends in a pin is blocked from the pin upwards.
            let end = taken.iter().find(|(m, a)| {
                *m == metal && a[0] <= area[0] && area[2] <= a[2] && area[1] <= a[1] && a[3] < area[3]
            });
            let from = end.map_or(area[1], |(_, a)| a[3]);
            if !pin {
                obstructions.push((metal, moved([area[0], from, area[2], area[3]])));
            }
        }
        Ok(Outline { size: [right - left, top - bottom], pins, obstructions })
    }

    /// The parts of the macro and where they are, in nanometres from its lower left corner.
    ///
    /// # Errors
    /// A part whose wires find no place.
    pub fn blocks(&self) -> Result<[(&'static str, Area); 5], Diagnostics> {
        let p = &self.0;
        let mut scratch = Cells::new(0);
        let drawn = p.base(&mut scratch)?;
        let [left, bottom, _, _] = drawn.on(p.process.layers.boundary).next().unwrap_or_default();
        let ([low, high], [start, end]) = (p.rails(), p.rail_x());
        let logic = start - 2 * p.process.logic.met3_pitch_nm;
        let (mux, sense) = (p.mux_bottom(), p.sense_y(p.sense_rows()));
        let precharge = p.precharge_y() + p.process.column.mux_y_nm;
        let moved = |[x0, y0, x1, y1]: Area| [x0 - left, y0 - bottom, x1 - left, y1 - bottom];
        Ok([
            ("array", moved([start, low, end, high])),
            ("decoder", moved([left, low, logic, high])),
            ("control", moved([left, bottom, logic, low])),
            ("precharge, multiplexer", moved([start, mux, end, precharge.max(low)])),
            ("sense", moved([start, sense, end, mux])),
        ])
    }
}
