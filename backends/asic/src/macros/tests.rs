//! Circuits as logic, gates as drawn against gates as transistors, and what a layout may depend on.

use std::collections::{BTreeMap, BTreeSet};

use super::circuit::{self, PRECHARGE_FAR};
use super::gate::{Column, Gate, Kind, Term};
use super::netlist::{Channel, Dialect, GROUND, Netlist, SUPPLY};
use pfmc_ir::diag::Diagnostics;

use super::{BuildError, Macro, MacroShape};
use crate::bits::BitMatrix;
use crate::tests::{noise, process, variants};

fn random(word_lines: u32, bit_lines: u32, seed: u64) -> BitMatrix {
    let mut next = noise(seed);
    let mut bits = BitMatrix::new(word_lines as usize, bit_lines as usize);
    for word_line in 0..word_lines as usize {
        for bit_line in 0..bit_lines as usize {
            if next() & 1 == 1 {
                bits.set(word_line, bit_line);
            }
        }
    }
    bits
}

/// Settles gates from known nets.
fn settle(gates: &[Gate], nets: &mut BTreeMap<String, bool>) {
    let mut changed = true;
    while changed {
        changed = false;
        for gate in gates {
            let inputs: Option<Vec<bool>> = gate.inputs.iter().map(|i| nets.get(i).copied()).collect();
            let Some(inputs) = inputs else { continue };
            let out = match gate.kind {
                Kind::Inverter => !inputs[0],
                Kind::Nand => !inputs.iter().all(|&i| i),
                Kind::Nor => !inputs.iter().any(|&i| i),
                Kind::Keeper => continue,
            };
            changed |= nets.insert(gate.output.clone(), out) != Some(out);
        }
    }
}

#[test]
fn every_address_raises_one_word_line_and_one_select_line() {
    let p = process();
    for shape in [
        MacroShape { word_lines: 16, bit_lines: 16, mux: 16 },
        MacroShape { word_lines: 72, bit_lines: 128, mux: 8 },
        MacroShape { word_lines: 512, bit_lines: 64, mux: 16 },
    ] {
        let mut gates = circuit::control(&p, shape);
        let rows = circuit::RowAddress::new(&p, shape);
        for row in 0..shape.word_lines / 8 {
            let [mid, high] = rows.row_nets(row);
            gates.extend(circuit::chooser(&format!("row{row}"), [&mid, &high], &format!("row{row}")));
            for i in 0..8 {
                let (line, low) = (format!("WL{}", row * 8 + i), format!("low{i}"));
                gates.extend(circuit::driver(&line.to_lowercase(), &format!("row{row}"), &low, &line, 1));
            }
        }
        let bits = circuit::pins(&p, shape).iter().filter(|n| n.starts_with('A')).count();
        for address in
            (0..shape.word_lines * shape.mux).step_by((shape.word_lines * shape.mux / 97) as usize | 1)
        {
            for clock in [false, true] {
                let mut nets: BTreeMap<String, bool> =
                    (0..bits).map(|b| (format!("A{b}"), address >> b & 1 == 1)).collect();
                nets.extend([("CLK".into(), clock), ("CE".into(), true), (PRECHARGE_FAR.into(), clock)]);
                nets.insert("wld".into(), clock);
                settle(&gates, &mut nets);
                let high = |prefix: &str, n: u32| -> Vec<u32> {
                    (0..n).filter(|i| nets[&format!("{prefix}{i}")]).collect()
                };
                let want = if clock { vec![address / shape.mux] } else { vec![] };
                assert_eq!(high("WL", shape.word_lines), want, "{shape:?} {address}");
                assert_eq!(high("sel", shape.mux), [address % shape.mux]);
                // The precharge line is low, and so on, exactly while the clock is low.
                assert_eq!(nets["preb"], clock);
                assert_eq!(nets["en"], clock);
            }
        }
    }
}

#[test]
fn a_latch_follows_while_enabled_and_holds_after() {
    let gates = circuit::sense("s", "dl", "q");
    let mut nets: BTreeMap<String, bool> = BTreeMap::from([("s_q".into(), false), ("s_qb".into(), true)]);
    for (data, enable, want) in [
        (true, true, false),
        (false, true, true),
        (false, false, true),
        (true, false, true),
        (true, true, false),
        (false, false, false),
    ] {
        // The enable line falls before the data line changes.
        nets.insert("en".into(), enable);
        settle(&gates, &mut nets);
        nets.insert("dl".into(), data);
        settle(&gates, &mut nets);
        if enable || data {
            assert_eq!(nets["q"], want, "data {data} enable {enable}");
        }
    }
}

/// Transistors of columns as drawn: two neighbouring diffusions of a strip and the gate between them.
fn drawn(gate: &Gate) -> Vec<(bool, String, [String; 2])> {
    let leaf = gate.leaf(&process());
    let mut found = Vec::new();
    for (i, column) in leaf.columns.iter().enumerate() {
        let Column::Gate { net, n, p } = column else { continue };
        for (on, upper) in [(*n, false), (*p, true)] {
            let end = |i: usize| match &leaf.columns[i] {
                Column::Diff { n, p } => match if upper { p } else { n } {
                    Term::Net(net) => net.clone(),
                    // An inner net has the name of its column.
                    Term::Bare => format!("{upper}{i}"),
                    Term::Absent => panic!("a gate beside no diffusion"),
                },
                Column::Gate { .. } => panic!("two gates side by side"),
            };
            if on {
                found.push((upper, net.clone(), [end(i - 1), end(i + 1)]));
            }
        }
    }
    found
}

#[test]
fn gates_are_drawn_as_their_transistors() {
    let p = process();
    for gate in [
        Gate::inverter("g", "a", "y", 1),
        Gate::inverter("g", "a", "y", 4),
        Gate::nand("g", &["a", "b"], "y"),
        Gate::nand("g", &["a", "b", "c", "d"], "y"),
        Gate::nor("g", ["a", "b"], "y"),
        Gate::keeper("g", "a", "b", "y"),
    ] {
        let mut netlist = Netlist::default();
        gate.transistors(&p, &mut netlist);
        let known = |net: &str| {
            if [GROUND, SUPPLY, "y"].contains(&net) { net.to_owned() } else { "inner".to_owned() }
        };
        let sorted = |upper: bool, gate: String, mut ends: [String; 2]| {
            ends.sort();
            (upper, gate, ends)
        };
        let mut want: Vec<_> = (netlist.transistors.iter())
            .map(|t| {
                let [d, g, s] = [t.drain, t.gate, t.source].map(|n| netlist.name(n).to_owned());
                sorted(t.channel == Channel::P, g, [known(&d), known(&s)])
            })
            .collect();
        let mut got: Vec<_> = (drawn(&gate).into_iter())
            .map(|(upper, g, [a, b])| sorted(upper, g, [known(&a), known(&b)]))
            .collect();
        want.sort();
        got.sort();
        assert_eq!(got, want, "{gate:?}");
    }
}

#[test]
fn no_two_nets_differ_by_case_alone() {
    let p = process();
    let shape = MacroShape { word_lines: 64, bit_lines: 64, mux: 8 };
    let rom = Macro::new(&p, shape).unwrap();
    let text = rom.spice(&random(64, 64, 1), "rom", Dialect::Compare);
    let nets: BTreeSet<&str> =
        text.lines().filter(|l| l.starts_with('M')).flat_map(|l| l.split(' ').skip(1).take(4)).collect();
    let lower: BTreeSet<String> = nets.iter().map(|n| n.to_lowercase()).collect();
    assert_eq!(nets.len(), lower.len());
    // 64 x 64 in the array, a precharge and a multiplexer transistor a bit line.
    let of = |width: &str| text.lines().filter(|l| l.ends_with(width)).count();
    assert_eq!((of("W=0.42u") - 3 * 8, of("W=1.2u"), of("W=2.13u")), (64 * 64, 64, 64));
}

#[test]
fn only_the_program_depends_on_the_bits() {
    for rom in &variants() {
        let p = rom.process();
        // A hundred sets of weights of the smallest macro, two of one with straps.
        for (shape, sets) in [
            (MacroShape { word_lines: 16, bit_lines: 16, mux: 16 }, 100),
            (MacroShape { word_lines: 72, bit_lines: 128, mux: 8 }, 2),
        ] {
            let rom = Macro::new(p, shape).unwrap();
            let size = (shape.word_lines, shape.bit_lines);
            let layout = rom.layout("rom").unwrap();
            let first = layout.gds(&random(size.0, size.1, 1)).unwrap();
            let program = first.windows(8).position(|w| w == b"rom_prog").unwrap();
            for seed in 2..=sets {
                let other = layout.gds(&random(size.0, size.1, seed)).unwrap();
                // The cell's own head, with its dates, comes before its name.
                assert!(program > 10_000 && first[..program] == other[..program]);
                assert!(first[program..] != other[program..]);
            }
            assert_eq!(rom.layout("rom").unwrap().gds(&random(size.0, size.1, 1)).unwrap(), first);
        }
    }
}

#[test]
fn shapes_outside_of_the_boundary_are_refused() {
    let shape = MacroShape { word_lines: 16, bit_lines: 32, mux: 16 };
    let mut p = process();
    assert!(Macro::new(&p, shape).unwrap().draw("rom").is_ok());
    p.column.gate_offset_nm *= 1000;
    let refused = Macro::new(&p, shape).unwrap().draw("rom").unwrap_err();
    assert!(
        refused.0[0].code.id == "E0523" && refused.0[0].message.contains("outside of the boundary"),
        "{refused}"
    );
}

#[test]
fn sizes_that_cannot_be_built_are_refused_with_every_reason() {
    let p = process();
    let refused = Macro::new(&p, MacroShape { word_lines: 12, bit_lines: 100, mux: 5 }).err().unwrap();
    assert_eq!(refused.0.len(), 3, "{refused}");
    assert!(refused.0.iter().all(|d| d.code.id == "E0523"));
    for (word_lines, bit_lines) in [(0, 64), (u32::MAX, 64), (64, 0), (64, u32::MAX)] {
        assert!(Macro::new(&p, MacroShape { word_lines, bit_lines, mux: 16 }).is_err());
    }
    let rom = Macro::new(&p, MacroShape { word_lines: 16, bit_lines: 16, mux: 16 }).unwrap();
    let code = |e: BuildError| Diagnostics::from(e).0[0].code.id;
    let wide = BitMatrix::new(16, 32);
    let layout = rom.layout("rom").unwrap();
    assert_eq!([layout.gds(&wide), layout.oasis(&wide)].map(|r| code(r.unwrap_err())), ["E0523"; 2]);
    // `_base` and `_prog` are added to the name.
    for name in ["a name", &"a".repeat(28)] {
        let layout = rom.layout(name).unwrap();
        let bits = BitMatrix::new(16, 16);
        assert_eq!([layout.gds(&bits), layout.oasis(&bits)].map(|r| code(r.unwrap_err())), ["E0505"; 2]);
    }
}
