//! The abstract, LEF 5.7.

use std::fmt::Write as _;

use super::{Outline, Use, um};
use crate::macros::draw::Area;

fn rectangles<'a>(text: &mut String, shapes: impl Iterator<Item = &'a (&'static str, Area)>, indent: &str) {
    let mut last = "";
    for (layer, area) in shapes {
        if *layer != last {
            let _ = writeln!(text, "{indent}LAYER {layer} ;");
            last = layer;
        }
        let [a, b, c, d] = area.map(um);
        let _ = writeln!(text, "{indent}  RECT {a} {b} {c} {d} ;");
    }
}

impl Outline {
    /// The outline as LEF macro `name`. Layers have their names in the process's technology LEF.
    pub fn lef(&self, name: &str) -> String {
        let [width, height] = self.size.map(um);
        let mut text = format!(
            "VERSION 5.7 ;\nBUSBITCHARS \"[]\" ;\nDIVIDERCHAR \"/\" ;\nUNITS\n  DATABASE MICRONS 1000 ;\nEND UNITS\n\n\
             MACRO {name}\n  CLASS BLOCK ;\n  FOREIGN {name} 0.000 0.000 ;\n  ORIGIN 0.000 0.000 ;\n  \
             SIZE {width} BY {height} ;\n  SYMMETRY X Y ;\n"
        );
        for pin in &self.pins {
            let (direction, usage) = match pin.usage {
                Use::Clock => ("INPUT", "CLOCK"),
                Use::Input => ("INPUT", "SIGNAL"),
                Use::Output => ("OUTPUT", "SIGNAL"),
                Use::Power => ("INOUT", "POWER"),
                Use::Ground => ("INOUT", "GROUND"),
            };
            let _ = writeln!(text, "  PIN {}\n    DIRECTION {direction} ;\n    USE {usage} ;", pin.name);
            // Straps are joined inside the macro: each is a port.
            for shape in &pin.shapes {
                text.push_str("    PORT\n");
                rectangles(&mut text, std::iter::once(shape), "      ");
                text.push_str("    END\n");
            }
            let _ = writeln!(text, "  END {}", pin.name);
        }
        text.push_str("  OBS\n");
        rectangles(&mut text, self.obstructions.iter(), "    ");
        let _ = writeln!(text, "  END\nEND {name}\n\nEND LIBRARY");
        text
    }
}
