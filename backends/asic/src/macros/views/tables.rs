//! Tables: pins, layers, layer properties, layers that depend on weights.

use std::fmt::Write as _;

use super::{Outline, Use, um};
use crate::process::Process;

/// Colours of layers in pictures and in KLayout, by role; what is not named is grey.
pub fn colour(role: &str) -> [u8; 3] {
    match role.trim_end_matches("_pin") {
        "nwell" => [0xd8, 0xd0, 0xa8],
        "diff" => [0x4c, 0xa8, 0x54],
        "tap" => [0x8c, 0xc8, 0x6c],
        "poly" => [0xd0, 0x3c, 0x3c],
        "li1" => [0x9c, 0x7c, 0xc8],
        "licon" | "npc" => [0x60, 0x60, 0x60],
        "mcon" | "via" => [0x20, 0x20, 0x20],
        "met1" => [0x4c, 0x84, 0xe0],
        "met2" => [0xe0, 0x94, 0x3c],
        "met3" => [0x3c, 0xb4, 0xb4],
        "met4" => [0xc8, 0x50, 0xa0],
        _ => [0xa0, 0xa0, 0xa0],
    }
}

impl Outline {
    /// Pins as CSV: name, use, layer, rectangle in nanometres, a line a shape.
    pub fn pin_list(&self) -> String {
        let mut text = "pin,use,layer,x0_nm,y0_nm,x1_nm,y1_nm\n".to_owned();
        for pin in &self.pins {
            let usage = match pin.usage {
                Use::Clock => "clock",
                Use::Input => "input",
                Use::Output => "output",
                Use::Power => "power",
                Use::Ground => "ground",
            };
            for (layer, [a, b, c, d]) in &pin.shapes {
                let _ = writeln!(text, "{},{usage},{layer},{a},{b},{c},{d}", pin.name);
            }
        }
        text
    }

    /// Area in square micrometres.
    pub fn area_um2(&self) -> f64 {
        self.size[0] as f64 * self.size[1] as f64 * 1e-6
    }

    /// Size in micrometres, for messages.
    pub fn size_um(&self) -> [String; 2] {
        self.size.map(um)
    }
}

/// The layers that are drawn, a line each: role, GDS layer, GDS datatype.
pub fn layer_map(process: &Process) -> String {
    let mut text = format!("# {}: role, GDS layer, GDS datatype\n", process.name);
    for (role, layer) in process.layers.drawn() {
        let _ = writeln!(text, "{role} {} {}", layer.layer, layer.datatype);
    }
    let l = &process.layers;
    for (role, layer) in [
        ("li1_label", l.li1_label),
        ("met1_label", l.met1_label),
        ("met2_label", l.met2_label),
        ("met3_label", l.met3_label),
        ("met4_label", l.met4_label),
    ] {
        let _ = writeln!(text, "{role} {} {}", layer.layer, layer.datatype);
    }
    text
}

/// The layers as KLayout shows them.
pub fn layer_properties(process: &Process) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<layer-properties>\n".to_owned();
    for (role, layer) in process.layers.drawn() {
        let [r, g, b] = colour(role);
        let pattern = if role == "boundary" || role == "nwell" { "I1" } else { "I5" };
        let _ = writeln!(
            text,
            " <properties>\n  <frame-color>#{r:02x}{g:02x}{b:02x}</frame-color>\n  \
             <fill-color>#{r:02x}{g:02x}{b:02x}</fill-color>\n  <dither-pattern>{pattern}</dither-pattern>\n  \
             <visible>true</visible>\n  <name>{role}</name>\n  <source>{}/{}@1</source>\n </properties>",
            layer.layer, layer.datatype
        );
    }
    text.push_str("</layer-properties>\n");
    text
}

/// The layers that a retrained model changes, a line each: role, GDS layer, GDS datatype.
pub fn weight_layers(process: &Process) -> String {
    let cut = process.levels().cut;
    format!("{} {} {}\n", cut.name, cut.layer.layer, cut.layer.datatype)
}
