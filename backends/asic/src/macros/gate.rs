//! Gates of the periphery: their transistors, and the columns they are drawn as.
//!
//! The two are written down apart from each other, so that comparing extracted transistors with the
//! netlist says something.

use crate::macros::netlist::{Channel, GROUND, Netlist, SUPPLY};
use crate::process::{Nm, Process};

/// What a gate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One input.
    Inverter,
    /// Two to four inputs; the last is nearest to the output.
    Nand,
    /// Two inputs.
    Nor,
    /// Inputs `precharge` and `sensed`: charges the output while `precharge` is low, and holds it high
    /// weakly, through two transistors in series, while `sensed` is low.
    Keeper,
}

/// A gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Function.
    pub kind: Kind,
    /// Unique name; inner nets are named after it.
    pub name: String,
    /// Nets.
    pub inputs: Vec<String>,
    /// Net.
    pub output: String,
    /// Parallel transistors of an inverter.
    pub fingers: u32,
}

/// What a diffusion of a column is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// There is none.
    Absent,
    /// Between two gates, without a contact.
    Bare,
    /// Contacted.
    Net(String),
}

/// A column of a gate as drawn, left to right: diffusions and gates alternate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// Diffusions of the n- and the p-channel strip.
    Diff {
        /// n-channel.
        n: Term,
        /// p-channel.
        p: Term,
    },
    /// A gate over one strip or both.
    Gate {
        /// Its net.
        net: String,
        /// Crosses the n-channel strip.
        n: bool,
        /// Crosses the p-channel strip.
        p: bool,
    },
}

/// A gate as drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Columns, a diffusion first and last.
    pub columns: Vec<Column>,
    /// Widths of the n- and the p-channel transistors.
    pub widths_nm: [Nm; 2],
}

impl Leaf {
    /// Left to right exchanged.
    pub fn mirrored(&self) -> Leaf {
        Leaf { columns: self.columns.iter().rev().cloned().collect(), widths_nm: self.widths_nm }
    }
}

fn net(name: &str) -> Term {
    Term::Net(name.to_owned())
}

fn diff(n: Term, p: Term) -> Column {
    Column::Diff { n, p }
}

impl Gate {
    /// An inverter of `fingers` parallel transistors.
    pub fn inverter(name: impl Into<String>, input: &str, output: &str, fingers: u32) -> Gate {
        Gate {
            kind: Kind::Inverter,
            name: name.into(),
            inputs: vec![input.into()],
            output: output.into(),
            fingers,
        }
    }

    /// Two to four inputs.
    pub fn nand(name: impl Into<String>, inputs: &[&str], output: &str) -> Gate {
        let inputs = inputs.iter().map(|&i| i.to_owned()).collect();
        Gate { kind: Kind::Nand, name: name.into(), inputs, output: output.into(), fingers: 1 }
    }

    /// Two inputs.
    pub fn nor(name: impl Into<String>, inputs: [&str; 2], output: &str) -> Gate {
        let inputs = inputs.iter().map(|&i| i.to_owned()).collect();
        Gate { kind: Kind::Nor, name: name.into(), inputs, output: output.into(), fingers: 1 }
    }

    /// Precharge and keeper of a data line.
    pub fn keeper(name: impl Into<String>, precharge: &str, sensed: &str, output: &str) -> Gate {
        let inputs = vec![precharge.to_owned(), sensed.to_owned()];
        Gate { kind: Kind::Keeper, name: name.into(), inputs, output: output.into(), fingers: 1 }
    }

    /// Adds the gate's transistors.
    pub fn transistors(&self, process: &Process, netlist: &mut Netlist) {
        let l = &process.logic;
        let length = process.rules.poly_width_nm;
        let [n, p] = [l.n_diff_y_nm, l.p_diff_y_nm].map(|[low, high]| [high - low, length]);
        let out = self.output.as_str();
        // Transistors in series between two nets, first gate at `from`.
        let series = |netlist: &mut Netlist, channel, size, from: &str, gates: &[String], tag: &str| {
            let mut below = from.to_owned();
            for (i, gate) in gates.iter().enumerate() {
                let above =
                    if i + 1 == gates.len() { out.to_owned() } else { format!("{}_{tag}{i}", self.name) };
                netlist.add(channel, [&above, gate, &below], size);
                below = above;
            }
        };
        let each = |netlist: &mut Netlist, channel, size, from: &str| {
            for gate in &self.inputs {
                netlist.add(channel, [out, gate, from], size);
            }
        };
        match self.kind {
            Kind::Inverter => {
                for _ in 0..self.fingers {
                    each(netlist, Channel::N, n, GROUND);
                    each(netlist, Channel::P, p, SUPPLY);
                }
            }
            Kind::Nand => {
                series(netlist, Channel::N, n, GROUND, &self.inputs, "n");
                each(netlist, Channel::P, p, SUPPLY);
            }
            Kind::Nor => {
                each(netlist, Channel::N, n, GROUND);
                series(netlist, Channel::P, p, SUPPLY, &self.inputs, "p");
            }
            Kind::Keeper => {
                let size = [l.keeper_width_nm, length];
                let [precharge, sensed] = [&self.inputs[..1], &self.inputs[1..]];
                series(netlist, Channel::P, size, SUPPLY, precharge, "c");
                series(netlist, Channel::P, size, SUPPLY, &[sensed, sensed].concat(), "k");
            }
        }
    }

    /// The gate as drawn.
    pub fn leaf(&self, process: &Process) -> Leaf {
        let l = &process.logic;
        let full = [l.n_diff_y_nm, l.p_diff_y_nm].map(|[low, high]| high - low);
        let out = self.output.as_str();
        let power = || diff(net(GROUND), net(SUPPLY));
        let gate = |name: &str| Column::Gate { net: name.to_owned(), n: true, p: true };
        let mut columns = vec![power()];
        match self.kind {
            Kind::Inverter => {
                for i in 0..self.fingers {
                    columns.push(gate(&self.inputs[0]));
                    columns.push(if i % 2 == 0 { diff(net(out), net(out)) } else { power() });
                }
            }
            Kind::Nand => {
                for (i, input) in self.inputs.iter().enumerate() {
                    columns.push(gate(input));
                    let n = if i + 1 == self.inputs.len() { net(out) } else { Term::Bare };
                    columns.push(diff(n, net(if i % 2 == 0 { out } else { SUPPLY })));
                }
            }
            Kind::Nor => {
                for (i, input) in self.inputs.iter().enumerate() {
                    columns.push(gate(input));
                    let p = if i + 1 == self.inputs.len() { net(out) } else { Term::Bare };
                    columns.push(diff(net(if i % 2 == 0 { out } else { GROUND }), p));
                }
            }
            Kind::Keeper => {
                let gate = |name: &str| Column::Gate { net: name.to_owned(), n: false, p: true };
                let p = |term| diff(Term::Absent, term);
                let [precharge, sensed] = [&self.inputs[0], &self.inputs[1]];
                let columns = vec![
                    p(net(SUPPLY)),
                    gate(precharge),
                    p(net(out)),
                    gate(sensed),
                    p(Term::Bare),
                    gate(sensed),
                    p(net(SUPPLY)),
                ];
                return Leaf { columns, widths_nm: [0, l.keeper_width_nm] };
            }
        }
        Leaf { columns, widths_nm: full }
    }
}
