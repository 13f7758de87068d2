//! Transistor netlists: nets, transistors and their SPICE text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::process::Nm;

/// The ground net, also the substrate.
pub const GROUND: &str = "VGND";
/// The supply net, also every well.
pub const SUPPLY: &str = "VPWR";

/// A net of a [`Netlist`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net(u32);

/// Kind of a transistor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// n-channel, bulk on ground.
    N,
    /// p-channel, bulk on the supply.
    P,
}

/// A transistor; source and drain may be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transistor {
    /// Kind.
    pub channel: Channel,
    /// Drain.
    pub drain: Net,
    /// Gate.
    pub gate: Net,
    /// Source.
    pub source: Net,
    /// Channel width.
    pub width_nm: Nm,
    /// Channel length.
    pub length_nm: Nm,
}

/// How SPICE text names transistors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `M` elements, lengths with unit `u`: what comparison of netlists reads.
    Compare,
    /// `X` elements, lengths in micrometres, with junction areas: what the foundry's models read.
    Simulate,
}

/// Transistors between named nets.
#[derive(Debug, Clone, Default)]
pub struct Netlist {
    names: Vec<String>,
    by_name: BTreeMap<String, u32>,
    /// Transistors in a fixed order.
    pub transistors: Vec<Transistor>,
}

impl Netlist {
    /// The net of a name, made if there is none.
    pub fn net(&mut self, name: &str) -> Net {
        if let Some(&id) = self.by_name.get(name) {
            return Net(id);
        }
        let id = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.by_name.insert(name.to_owned(), id);
        Net(id)
    }

    /// Name of a net.
    pub fn name(&self, net: Net) -> &str {
        self.names.get(net.0 as usize).map_or("", String::as_str)
    }

    /// Number of nets.
    pub fn nets(&self) -> usize {
        self.names.len()
    }

    /// Adds a transistor.
    pub fn add(
        &mut self,
        channel: Channel,
        [drain, gate, source]: [&str; 3],
        [width_nm, length_nm]: [Nm; 2],
    ) {
        let [drain, gate, source] = [drain, gate, source].map(|n| self.net(n));
        self.transistors.push(Transistor { channel, drain, gate, source, width_nm, length_nm });
    }

    /// A subcircuit. `models` are the n- and the p-channel model, `junction_nm` the length of diffusion
    /// beside a gate from which junction areas are estimated.
    pub fn spice(
        &self,
        name: &str,
        pins: &[String],
        dialect: Dialect,
        models: [&str; 2],
        junction_nm: Nm,
    ) -> String {
        let mut text = format!(".subckt {name}");
        for (i, pin) in pins.iter().enumerate() {
            let _ = write!(text, "{}{pin}", if i % 16 == 15 { "\n+ " } else { " " });
        }
        text.push('\n');
        let um = |nm: Nm| nm as f64 / 1000.0;
        for (i, t) in self.transistors.iter().enumerate() {
            let [d, g, s] = [t.drain, t.gate, t.source].map(|n| self.name(n));
            let (bulk, model) = match t.channel {
                Channel::N => (GROUND, models[0]),
                Channel::P => (SUPPLY, models[1]),
            };
            let (w, l) = (um(t.width_nm), um(t.length_nm));
            let _ = match dialect {
                Dialect::Compare => writeln!(text, "M{i} {d} {g} {s} {bulk} {model} L={l}u W={w}u"),
                Dialect::Simulate => {
                    let (area, edge) = (w * um(junction_nm), 2.0 * um(junction_nm));
                    writeln!(
                        text,
                        "X{i} {d} {g} {s} {bulk} {model} l={l} w={w} ad={area:.4} as={area:.4} pd={edge:.3} \
                         ps={edge:.3}"
                    )
                }
            };
        }
        let _ = writeln!(text, ".ends {name}");
        text
    }
}
