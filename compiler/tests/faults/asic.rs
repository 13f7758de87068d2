//! Faults of layouts: cuts, cells, dies, bases, and the files themselves.

use pfmc_asic::process::Process;
use pfmc_ir::backend::{Backend, ProcessText};

use crate::bench::{Bench, Section};
use crate::layout::{Area, Item, Layout, shifted};

/// What of a layout faults need to know.
struct Rom {
    process: Process,
    /// Names of the tiles: the two halves of the first matrix, the second matrix.
    tiles: [String; 3],
}

/// A tile's array and its program's cuts, flat.
struct Program {
    prog: String,
    word_lines: usize,
    bit_lines: usize,
    /// By row of nodes and column, as `[bit line, ground]` cuts.
    full: usize,
    segment: usize,
    gap: i32,
    pitch: [i32; 2],
    offset: i32,
    sites: [i32; 2],
    cut_y: i32,
    layer: [i16; 2],
    size: i32,
}

impl Rom {
    fn program(&self, layout: &Layout, tile: usize) -> Program {
        let p = &self.process;
        let name = &self.tiles[tile];
        let base = layout.cell(&format!("{name}_rom")).iter().find_map(|i| match i {
            Item::Copy { name, .. } => name.strip_prefix("base_"),
            _ => None,
        });
        let (w, c) = base.unwrap().split_once('x').unwrap();
        let bit_lines: usize = c.parse().unwrap();
        let nm = |v: i64| i32::try_from(v).unwrap();
        let (segment, gap) = match p.mux() {
            Some(_) => ((p.strap.columns as usize).min(bit_lines), nm(p.strap.gap_nm)),
            None => (bit_lines, 0),
        };
        let cut = p.levels().cut;
        Program {
            prog: format!("{name}_prog"),
            word_lines: w.parse().unwrap(),
            bit_lines,
            full: p.tap_row.word_lines as usize,
            segment,
            gap,
            pitch: [nm(p.cell.pitch_x_nm), nm(p.cell.pitch_y_nm)],
            offset: nm(p.tap_row.offset_nm),
            sites: [nm(p.cell.cut_bit_line_x_nm[0]), nm(p.cell.cut_ground_x_nm[0])],
            cut_y: nm(p.cell.cut_y_nm[0]),
            layer: [cut.layer.layer, cut.layer.datatype],
            size: nm(cut.size_nm),
        }
    }
}

impl Program {
    fn x(&self, column: usize) -> i32 {
        (column / self.segment) as i32 * (self.segment as i32 * self.pitch[0] + self.gap)
            + (column % self.segment) as i32 * self.pitch[0]
    }

    fn y(&self, group: usize, node: usize) -> i32 {
        group as i32 * (self.full as i32 * self.pitch[1] + 2 * self.offset) + node as i32 * self.pitch[1]
    }

    /// The cut of a node on a site, 0 for the bit line's.
    fn cut(&self, group: usize, node: usize, column: usize, site: usize) -> Area {
        let (x, y) = (self.x(column) + self.sites[site], self.y(group, node) + self.cut_y);
        [x, y, x + self.size, y + self.size]
    }

    /// Index of a node's cut in a flat program, and its site.
    fn find(&self, items: &[Item], group: usize, node: usize, column: usize) -> (usize, usize) {
        let at = |site: usize| {
            let cut = self.cut(group, node, column, site);
            items.iter().position(|i| *i == Item::Rect(self.layer, cut))
        };
        at(0).map(|i| (i, 0)).or_else(|| Some((at(1)?, 1))).unwrap()
    }

    fn nodes(&self, group: usize) -> usize {
        self.full.min(self.word_lines - group * self.full) + 1
    }

    /// The first column from `first` on whose nodes in a row group are so unequally divided that no few moved cuts turn the
    /// rule for the first node.
    fn steady(&self, items: &[Item], group: usize, first: usize) -> usize {
        let nodes = self.nodes(group);
        let ones = |c: usize| (0..nodes).filter(|&n| self.find(items, group, n, c).1 == 0).count();
        (first..self.bit_lines).find(|&c| (2 * ones(c)).abs_diff(nodes) > 4).unwrap()
    }
}

type Change = Box<dyn Fn(&mut Layout, &Rom)>;

/// A change of a flat program.
fn cuts(tile: usize, change: impl Fn(&mut Vec<Item>, &Program) + 'static) -> Change {
    Box::new(move |layout, rom| {
        let program = rom.program(layout, tile);
        let mut items = layout.flat(&program.prog);
        change(&mut items, &program);
        *layout.cell_mut(&program.prog) = items;
    })
}

/// A change of one cut of a column that keeps its rule; nodes beyond the last are the last.
fn one(
    tile: usize,
    group: usize,
    node: usize,
    column: usize,
    change: impl Fn(&mut Vec<Item>, usize, &Program) + 'static,
) -> Change {
    cuts(tile, move |items, p| {
        let column = p.steady(items, group, column);
        let (i, _) = p.find(items, group, node.min(p.nodes(group) - 1), column);
        change(items, i, p);
    })
}

#[allow(clippy::ptr_arg)] // one signature for all changes of a cut
fn flip(items: &mut Vec<Item>, i: usize, p: &Program) {
    let by = p.sites[1] - p.sites[0];
    let Item::Rect(_, [x, ..]) = items[i] else { panic!() };
    let on_bit_line = (0..p.bit_lines).any(|c| p.x(c) + p.sites[0] == x);
    items[i].shift([if on_bit_line { by } else { -by }, 0]);
}

/// Moves every cut of a program for which `to` has another node: `[group, node, column]`.
fn permute(items: &mut [Item], p: &Program, to: &dyn Fn([usize; 3]) -> [usize; 3]) {
    for item in items {
        let Item::Rect(_, area) = item else { panic!() };
        let column = (0..p.bit_lines).find(|&c| (p.sites).iter().any(|s| p.x(c) + s == area[0])).unwrap();
        let site = usize::from(p.x(column) + p.sites[0] != area[0]);
        let groups = p.word_lines.div_ceil(p.full);
        let [group, node] = (0..groups)
            .flat_map(|g| (0..p.nodes(g)).map(move |n| [g, n]))
            .find(|&[g, n]| p.y(g, n) + p.cut_y == area[1])
            .unwrap();
        let [g, n, c] = to([group, node, column]);
        *area = p.cut(g, n, c, site);
    }
}

/// Faults of programs: name, codes when the GDSII file or both have it, codes when the OASIS file alone has it.
fn programs() -> Vec<(&'static str, &'static str, &'static str, Change)> {
    let swap = |a: usize, b: usize| {
        move |c: usize| {
            if c == a {
                b
            } else if c == b {
                a
            } else {
                c
            }
        }
    };
    vec![
        ("flipped cut of a code, inner node", "E0520", "E0531", one(0, 0, 5, 14, flip)),
        ("flipped cut of a code, lowest node", "E0520", "E0531", one(0, 0, 0, 30, flip)),
        (
            "flipped cut between two row groups, below the tap row",
            "E0520",
            "E0531",
            one(2, 0, usize::MAX, 0, flip),
        ),
        ("flipped cut between two row groups, above the tap row", "E0520", "E0531", one(2, 1, 0, 0, flip)),
        ("flipped cut of a scale", "E0520", "E0531", one(0, 0, 13, 40, flip)),
        ("flipped cut of the unit", "E0520", "E0531", one(0, 0, 15, 3, flip)),
        ("flipped cut of an unused cell", "E0520", "E0531", one(0, 0, 15, 200, flip)),
        (
            "two flipped cuts of one word line",
            "E0520",
            "E0531",
            cuts(0, |items, p| {
                for first in [10, 90] {
                    let c = p.steady(items, 0, first);
                    let (i, _) = p.find(items, 0, 6, c);
                    flip(items, i, p);
                }
            }),
        ),
        (
            "moved cut, 5 nm along x",
            "E0516 E0517",
            "E0516 E0517",
            one(0, 0, 5, 14, |items, i, _| items[i].shift([5, 0])),
        ),
        (
            "moved cut, 5 nm along y",
            "E0516 E0517",
            "E0516 E0517",
            one(0, 0, 5, 14, |items, i, _| items[i].shift([0, 5])),
        ),
        (
            "moved cut, to the next node",
            "E0517 E0518",
            "E0517 E0518",
            one(0, 0, 5, 14, |items, i, p| items[i].shift([0, p.pitch[1]])),
        ),
        (
            "moved cut, to the next column",
            "E0517 E0518",
            "E0517 E0518",
            one(0, 0, 5, 14, |items, i, p| items[i].shift([p.pitch[0], 0])),
        ),
        (
            "moved cut, out of the array",
            "E0516 E0517",
            "E0516 E0517",
            one(0, 0, 5, 14, |items, i, p| items[i].shift([-40 * p.pitch[0], 0])),
        ),
        (
            "cut 5 nm too wide",
            "E0516 E0517",
            "E0516 E0517",
            one(1, 0, 4, 8, |items, i, _| {
                if let Item::Rect(_, a) = &mut items[i] {
                    a[2] += 5
                }
            }),
        ),
        (
            "cut 5 nm too low",
            "E0516 E0517",
            "E0516 E0517",
            one(1, 0, 4, 8, |items, i, _| {
                if let Item::Rect(_, a) = &mut items[i] {
                    a[3] -= 5
                }
            }),
        ),
        ("missing cut", "E0517", "E0517", one(0, 0, 5, 14, |items, i, _| drop(items.remove(i)))),
        (
            "missing cuts of a column",
            "E0517",
            "E0517",
            cuts(1, |items, p| {
                for node in 0..p.nodes(0) {
                    let (i, _) = p.find(items, 0, node, 9);
                    items.remove(i);
                }
            }),
        ),
        (
            "missing cuts of a row of nodes",
            "E0517",
            "E0517",
            cuts(1, |items, p| {
                let y = p.y(0, 3) + p.cut_y;
                items.retain(|i| !matches!(i, Item::Rect(_, a) if a[1] == y));
            }),
        ),
        ("no cuts at all", "E0517", "E0517", cuts(1, |items, _| items.clear())),
        ("doubled cut", "E0518", "E0518", one(0, 0, 5, 14, |items, i, _| items.push(items[i].clone()))),
        ("doubled program", "E0518", "E0518", cuts(2, |items, _| items.extend_from_within(..))),
        (
            "node cut to bit line and ground",
            "E0518",
            "E0518",
            one(0, 0, 5, 14, |items, i, p| {
                items.push(items[i].clone());
                flip(items, i, p);
            }),
        ),
        (
            "swapped columns, neighbours",
            "E0520",
            "E0531",
            cuts(2, move |items, p| permute(items, p, &|[g, n, c]| [g, n, swap(20, 21)(c)])),
        ),
        (
            "swapped columns, of two segments",
            "E0520",
            "E0531",
            cuts(0, move |items, p| permute(items, p, &|[g, n, c]| [g, n, swap(3, 131)(c)])),
        ),
        (
            "columns moved by one",
            "E0520",
            "E0531",
            cuts(0, |items, p| {
                let all = p.bit_lines;
                permute(items, p, &|[g, n, c]| [g, n, (c + 1) % all]);
            }),
        ),
        (
            "x mirrored",
            "E0520",
            "E0531",
            cuts(0, |items, p| {
                let all = p.bit_lines;
                permute(items, p, &|[g, n, c]| [g, n, all - 1 - c]);
            }),
        ),
        (
            "bits of codes reversed",
            "E0520",
            "E0531",
            cuts(0, |items, p| permute(items, p, &|[g, n, c]| [g, n, c ^ 3])),
        ),
        (
            "program of the other half of the matrix",
            "E0520",
            "E0531",
            Box::new(|layout, rom| {
                let [a, b] = [0, 1].map(|t| rom.program(layout, t).prog);
                let other = layout.cell(&b).clone();
                *layout.cell_mut(&a) = other;
            }),
        ),
        (
            "programs of the two halves of the matrix swapped",
            "E0520",
            "E0531",
            Box::new(|layout, rom| {
                let [a, b] = [0, 1].map(|t| rom.program(layout, t).prog);
                let (x, y) = (layout.cell(&a).clone(), layout.cell(&b).clone());
                *layout.cell_mut(&a) = y;
                *layout.cell_mut(&b) = x;
            }),
        ),
        (
            "a complemented column of a row group",
            "E0519",
            "E0519",
            cuts(2, |items, p| {
                for node in 0..p.nodes(1) {
                    let (i, _) = p.find(items, 1, node, 7);
                    flip(items, i, p);
                }
            }),
        ),
        (
            "a complemented row group",
            "E0519",
            "E0519",
            cuts(2, |items, p| {
                for column in 0..p.bit_lines {
                    for node in 0..p.nodes(0) {
                        let (i, _) = p.find(items, 0, node, column);
                        flip(items, i, p);
                    }
                }
            }),
        ),
        (
            "a cut on another layer",
            "E0516 E0517",
            "E0516 E0517",
            one(0, 0, 5, 14, |items, i, _| {
                if let Item::Rect(layer, _) = &mut items[i] {
                    layer[1] += 1
                }
            }),
        ),
        (
            "a shape on another layer in a program",
            "E0516",
            "E0516",
            cuts(0, |items, _| items.push(Item::Rect([99, 1], [0, 0, 500, 500]))),
        ),
        (
            "a label in a program",
            "E0516",
            "E0530",
            cuts(0, |items, p| items.push(Item::Label(p.layer, [0, 0], "BL".to_owned()))),
        ),
    ]
}

/// Faults of rows of nodes, in a row group of an odd number of nodes, whose rule for the first node has no ties.
fn rows() -> Vec<(&'static str, &'static str, &'static str, Change)> {
    let moved = |to: fn(usize, usize) -> usize| {
        cuts(2, move |items, p| {
            let all = p.nodes(0);
            permute(items, p, &|[g, n, c]| [g, if g == 0 { to(n, all) } else { n }, c]);
        })
    };
    vec![
        ("word lines moved by one", "E0520", "E0531", moved(|n, all| (n + 1) % all)),
        ("word lines upside down", "E0520", "E0531", moved(|n, all| all - 1 - n)),
        (
            "two rows of nodes swapped",
            "E0520",
            "E0531",
            moved(|n, _| match n {
                4 => 5,
                5 => 4,
                n => n,
            }),
        ),
    ]
}

fn rom_cell(tile: usize, change: impl Fn(&mut Vec<Item>, &str) + 'static) -> Change {
    Box::new(move |layout, rom| {
        let prog = rom.program(layout, tile).prog;
        change(layout.cell_mut(&format!("{}_rom", rom.tiles[tile])), &prog);
    })
}

fn reference<'a>(items: &'a mut [Item], of: &str) -> &'a mut Item {
    items.iter_mut().find(|i| matches!(i, Item::Copy { name, .. } if name == of)).unwrap()
}

fn die(change: impl Fn(&mut Vec<Item>, &Rom) + 'static) -> Change {
    Box::new(move |layout, rom| change(layout.cell_mut("die0"), rom))
}

/// Faults of cells around programs, of all processes.
fn cells() -> Vec<(&'static str, &'static str, Change)> {
    let tile = |rom: &Rom, i: usize| format!("{}_rom", rom.tiles[i]);
    vec![
        (
            "a tile without its base",
            "E0513",
            rom_cell(0, |items, prog| items.retain(|i| matches!(i, Item::Copy { name, .. } if name == prog))),
        ),
        (
            "a tile without its program",
            "E0513",
            rom_cell(0, |items, prog| {
                items.retain(|i| !matches!(i, Item::Copy { name, .. } if name == prog))
            }),
        ),
        (
            "a tile with its program twice",
            "E0513",
            rom_cell(0, |items, prog| {
                let again = reference(items, prog).clone();
                items.push(again);
            }),
        ),
        (
            "a tile with two bases",
            "E0513",
            rom_cell(0, |items, prog| {
                let again = items
                    .iter()
                    .find(|i| !matches!(i, Item::Copy { name, .. } if name == prog))
                    .unwrap()
                    .clone();
                items.push(again);
            }),
        ),
        (
            "a program moved by a row against its base",
            "E0513",
            rom_cell(0, |items, prog| reference(items, prog).shift([0, 430])),
        ),
        (
            "a mirrored program",
            "E0513",
            rom_cell(0, |items, prog| {
                if let Item::Copy { mirrored, .. } = reference(items, prog) {
                    *mirrored = true
                }
            }),
        ),
        (
            "a repeated program",
            "E0513",
            rom_cell(0, |items, prog| {
                if let Item::Copy { counts, steps, .. } = reference(items, prog) {
                    (*counts, *steps) = ([1, 2], [0, 50_000]);
                }
            }),
        ),
        (
            "a shape beside base and program in a tile",
            "E0513",
            rom_cell(0, |items, _| items.push(Item::Rect([67, 20], [0, 0, 500, 500]))),
        ),
        (
            "a tile on the base of another size",
            "E0515",
            Box::new(|layout, rom| {
                let other = layout.cell(&format!("{}_rom", rom.tiles[2])).iter().find_map(|i| match i {
                    Item::Copy { name, .. } if name.starts_with("base_") => Some(name.clone()),
                    _ => None,
                });
                let items = layout.cell_mut(&format!("{}_rom", rom.tiles[0]));
                for item in items {
                    if let Item::Copy { name, .. } = item
                        && name.starts_with("base_")
                    {
                        *name = other.clone().unwrap();
                    }
                }
            }),
        ),
        (
            "a tile's cell missing",
            "E0512",
            Box::new(move |layout, rom| layout.cells.retain(|c| c.0 != tile(rom, 1))),
        ),
        (
            "a program's cell missing",
            "E0512",
            Box::new(|layout, rom| {
                let prog = rom.program(layout, 1).prog;
                layout.cells.retain(|c| c.0 != prog);
            }),
        ),
        (
            "a pattern's cell missing",
            "E0512",
            Box::new(|layout, rom| {
                let prog = rom.program(layout, 1).prog;
                let used = layout.cell(&prog).iter().find_map(|i| match i {
                    Item::Copy { name, .. } => Some(name.clone()),
                    _ => None,
                });
                layout.cells.retain(|c| Some(&c.0) != used.as_ref());
            }),
        ),
        (
            "a cell defined twice",
            "E0512",
            Box::new(|layout, _| layout.cells.push(("die0".to_owned(), Vec::new()))),
        ),
        (
            "a program that refers to itself",
            "E0522",
            Box::new(|layout, rom| {
                let prog = rom.program(layout, 1).prog;
                layout.cell_mut(&prog).push(Item::copy(&prog, [0, 0]));
            }),
        ),
        (
            "a tile placed twice in one place",
            "E0514",
            die(move |items, rom| {
                let again = reference(items, &tile(rom, 2)).clone();
                items.push(again);
            }),
        ),
        (
            "a mirrored tile",
            "E0514",
            die(move |items, rom| {
                if let Item::Copy { mirrored, .. } = reference(items, &tile(rom, 2)) {
                    *mirrored = true
                }
            }),
        ),
        (
            "a die without boundary",
            "E0514",
            Box::new(|layout, rom| {
                let boundary = rom.process.layers.boundary;
                layout
                    .cell_mut("die0")
                    .retain(|i| !matches!(i, Item::Rect(l, _) if *l == [boundary.layer, boundary.datatype]));
            }),
        ),
        (
            "a die larger than the reticle",
            "E0514",
            Box::new(|layout, rom| {
                let boundary = rom.process.layers.boundary;
                for item in layout.cell_mut("die0") {
                    if let Item::Rect(l, a) = item
                        && *l == [boundary.layer, boundary.datatype]
                    {
                        a[2] += 40_000_000;
                    }
                }
            }),
        ),
    ]
}

/// Faults that move tiles on a die, and what else is found there: it depends on what a die has.
fn places(macros: bool) -> Vec<(&'static str, &'static str, Change)> {
    let tile = |rom: &Rom, i: usize| format!("{}_rom", rom.tiles[i]);
    let power = if macros { "E0509 E0514" } else { "E0514" };
    vec![
        (
            "a tile not placed",
            if macros { "E0509" } else { "E0514" },
            die(move |items, rom| {
                items.retain(|i| !matches!(i, Item::Copy { name, .. } if *name == tile(rom, 2)))
            }),
        ),
        (
            "a tile beyond the die",
            power,
            die(move |items, rom| reference(items, &tile(rom, 2)).shift([3_000_000, 0])),
        ),
        (
            "a tile over another",
            power,
            die(move |items, rom| {
                let Item::Copy { at, .. } = *reference(items, &tile(rom, 0)) else { panic!() };
                if let Item::Copy { at: to, .. } = reference(items, &tile(rom, 1)) {
                    *to = at
                }
            }),
        ),
    ]
}

/// Faults of what a die with macros has beside tiles.
fn furniture() -> Vec<(&'static str, &'static str, Change)> {
    let layer = |l: pfmc_asic::process::Layer| [l.layer, l.datatype];
    let straps = move |rom: &Rom, items: &[Item]| -> Vec<usize> {
        let met5 = layer(rom.process.die.met5);
        (0..items.len()).filter(|&i| matches!(&items[i], Item::Rect(l, _) if *l == met5)).collect()
    };
    vec![
        (
            "the labels of the supplies swapped",
            "E0509",
            die(|items, _| {
                for item in items {
                    if let Item::Label(_, _, text) = item {
                        *text = match text.as_str() {
                            "VPWR" => "VGND",
                            "VGND" => "VPWR",
                            other => other,
                        }
                        .to_owned();
                    }
                }
            }),
        ),
        (
            "no labels of supplies",
            "E0509",
            die(|items, _| {
                items.retain(|i| !matches!(i, Item::Label(_, _, t) if t == "VPWR" || t == "VGND"))
            }),
        ),
        (
            "cuts to the power straps missing",
            "E0509",
            die(|items, _| {
                items.retain(|i| !matches!(i, Item::Copy { name, .. } if name.starts_with("base_vias0")));
            }),
        ),
        (
            "met5 over both rings",
            "E0509",
            die(move |items, rom| {
                let all = straps(rom, items);
                let areas = all.iter().map(|&i| match items[i] {
                    Item::Rect(_, a) => a,
                    _ => panic!(),
                });
                let over = areas.fold([i32::MAX, i32::MAX, i32::MIN, i32::MIN], |m, a| {
                    [m[0].min(a[0]), m[1].min(a[1]), m[2].max(a[2]), m[3].max(a[3])]
                });
                items.push(Item::Rect(layer(rom.process.die.met5), over));
            }),
        ),
        (
            "a shape of met1 on the die",
            "E0514",
            die(move |items, rom| items.push(Item::Rect(layer(rom.process.layers.met1), [0, 0, 500, 500]))),
        ),
        (
            "met3 over a tile",
            "E0514",
            die(move |items, rom| {
                let Item::Copy { at, .. } = *reference(items, &format!("{}_rom", rom.tiles[0])) else {
                    panic!()
                };
                items.push(Item::Rect(
                    layer(rom.process.layers.met3),
                    shifted([5_000, 5_000, 8_000, 8_000], at),
                ));
            }),
        ),
        (
            "the outline of lanes over their tile",
            "E0514",
            die(|items, _| {
                let lanes = items
                    .iter_mut()
                    .find(|i| matches!(i, Item::Copy { name, .. } if name.starts_with("base_lanes")))
                    .unwrap();
                lanes.shift([0, 30_000]);
            }),
        ),
    ]
}

/// Elements of the cells of a base, missing, doubled and moved, in turn.
fn bases(layout: &Layout, rom: &Rom, count: usize) -> Vec<(String, Layout)> {
    let base = layout.cell(&format!("{}_rom", rom.tiles[0])).iter().find_map(|i| match i {
        Item::Copy { name, .. } if name.starts_with("base_") => Some(name.clone()),
        _ => None,
    });
    let mut names = vec![base.unwrap()];
    let mut next = 0;
    while let Some(name) = names.get(next).cloned() {
        for item in layout.cell(&name) {
            if let Item::Copy { name, .. } = item
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        next += 1;
    }
    let mut out = Vec::new();
    let step = names.len().div_ceil(count).max(1);
    for (i, name) in names.iter().step_by(step).enumerate() {
        let items = layout.cell(name);
        let at = items.len() * (i % 7) / 7;
        let what = match &items[at] {
            Item::Rect(l, _) => format!("shape {at} on {}/{}", l[0], l[1]),
            Item::Copy { name, .. } => format!("reference {at}, to {name},"),
            Item::Label(_, _, t) => format!("label {at}, {t},"),
        };
        let mut changed = layout.clone();
        let of = changed.cell_mut(name);
        let how = match i % 3 {
            0 => {
                of.remove(at);
                "missing"
            }
            1 => {
                let again = of[at].clone();
                of.push(again);
                "doubled"
            }
            _ => {
                of[at].shift([10, 0]);
                "moved by 10 nm"
            }
        };
        out.push((format!("{what} of {name} {how}"), changed));
    }
    out
}

/// Faults of the bytes of the two files.
fn damage(section: &mut Section, bench: &Bench) {
    let (gds, oas) = (&bench.files["layout.gds"], &bench.files["layout.oas"]);
    let mut judge = |fault: &str, expect: &str, name: &str, bytes: Option<Vec<u8>>| {
        section.judge(fault, expect, bench.sealed(&[(name, bytes)], false));
    };
    judge("layout.gds truncated in the middle", "E0511", "layout.gds", Some(gds[..gds.len() / 2].to_vec()));
    judge("layout.gds without its last record", "E0511", "layout.gds", Some(gds[..gds.len() - 4].to_vec()));
    judge("layout.gds empty", "E0510", "layout.gds", Some(Vec::new()));
    judge("layout.gds with bytes after its end", "E0511", "layout.gds", Some([&gds[..], &[1]].concat()));
    judge("layout.gds with a record of impossible length", "E0511", "layout.gds", {
        let mut bad = gds.clone();
        let at = bad.windows(4).rposition(|w| w == [0, 4, 0x11, 0]).unwrap();
        bad[at + 1] = 3;
        Some(bad)
    });
    judge("layout.gds in another unit", "E0510", "layout.gds", {
        // UNITS: record of 20 bytes, type 3, reals of 8 bytes; the lowest byte of an exponent of 16.
        let mut bad = gds.clone();
        let at = bad.windows(4).position(|w| w == [0, 20, 3, 5]).unwrap();
        bad[at + 12] += 1;
        Some(bad)
    });
    judge("layout.gds is layout.oas", "E0511", "layout.gds", Some(oas.clone()));
    judge("layout.oas truncated in the middle", "E0530", "layout.oas", Some(oas[..oas.len() / 2].to_vec()));
    judge("layout.oas empty", "E0510", "layout.oas", Some(Vec::new()));
    judge("layout.oas with a changed byte", "E0530", "layout.oas", {
        let mut bad = oas.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        Some(bad)
    });
    judge("layout.oas is layout.gds", "E0530", "layout.oas", Some(gds.clone()));
}

fn rom(process: &str, bench: &Bench) -> Rom {
    let text: ProcessText = pfmc_asic::Asic.processes().into_iter().find(|p| p.name == process).unwrap();
    let layout = Layout::of(&bench.files["layout.gds"]);
    let mut tiles: Vec<String> = (layout.cells.iter())
        .filter_map(|c| c.0.strip_suffix("_rom"))
        .filter(|n| n.contains("w1") || n.contains("w2"))
        .map(str::to_owned)
        .collect();
    tiles.sort_by_key(|n| (n.contains("w2"), n.clone()));
    Rom { process: Process::open(&text).unwrap(), tiles: tiles.try_into().unwrap() }
}

/// All faults of layouts of a process.
pub fn section(process: &str) -> Section {
    let bench = Bench::asic(process);
    let rom = rom(process, &bench);
    let sound = Layout::of(&bench.files["layout.gds"]);
    let macros = rom.process.mux().is_some();
    let mut section = Section::new(
        &format!("Masks, {process}"),
        "In `layout.gds` alone, where nothing else is said, or in both files, or in `layout.oas` alone.",
    );
    let changed = |change: &Change| {
        let mut layout = sound.clone();
        change(&mut layout, &rom);
        layout
    };
    for (fault, gds, oas, change) in programs().into_iter().chain(rows()) {
        let layout = changed(&change);
        let (a, b) = (Some(layout.gds()), Some(layout.oasis()));
        section.judge(fault, gds, bench.sealed(&[("layout.gds", a.clone())], false));
        section.judge(
            &format!("{fault}; both files"),
            gds,
            bench.sealed(&[("layout.gds", a), ("layout.oas", b.clone())], false),
        );
        section.judge(&format!("{fault}; layout.oas"), oas, bench.sealed(&[("layout.oas", b)], false));
    }
    let mut others = cells();
    others.extend(places(macros));
    if macros {
        others.extend(furniture());
    }
    for (fault, expect, change) in others {
        let layout = changed(&change);
        section.judge(fault, expect, bench.sealed(&[("layout.gds", Some(layout.gds()))], false));
    }
    // In both files, so that none contradicts the other: the manifest says where tiles are.
    for (fault, change) in elsewhere() {
        let layout = changed(&change);
        let files = [("layout.gds", Some(layout.gds())), ("layout.oas", Some(layout.oasis()))];
        section.judge(&format!("{fault}; both files"), "E0702", bench.sealed(&files, false));
    }
    if macros {
        for (fault, layout) in bases(&sound, &rom, 14) {
            section.judge(&fault, "E0515", bench.sealed(&[("layout.gds", Some(layout.gds()))], false));
        }
    }
    let without_tap = {
        let mut layout = sound.clone();
        let name = layout.cells.iter().map(|c| c.0.clone()).find(|n| n.starts_with("base_taps")).unwrap();
        layout.cell_mut(&name).remove(0);
        layout
    };
    section.judge("missing tap", "E0515", bench.sealed(&[("layout.gds", Some(without_tap.gds()))], false));
    for (fault, layout) in beside(&sound) {
        section.judge(
            &format!("{fault}; layout.oas"),
            "E0531",
            bench.sealed(&[("layout.oas", Some(layout.oasis()))], false),
        );
    }
    damage(&mut section, &bench);
    section
}

/// Tiles that are somewhere else on their die, clear of all others.
fn elsewhere() -> Vec<(&'static str, Change)> {
    let tile = |rom: &Rom, i: usize| format!("{}_rom", rom.tiles[i]);
    vec![(
        "two tiles of one size swapped on the die",
        die(move |items, rom| {
            let place = |i: &Item| match i {
                Item::Copy { at, .. } => *at,
                _ => panic!(),
            };
            let [a, b] = [0, 1].map(|t| tile(rom, t));
            let (pa, pb) = (place(reference(items, &a)), place(reference(items, &b)));
            for (name, to) in [(a, pb), (b, pa)] {
                if let Item::Copy { at, .. } = reference(items, &name) {
                    *at = to
                }
            }
        }),
    )]
}

/// Differences between the two files outside of programs.
fn beside(sound: &Layout) -> Vec<(&'static str, Layout)> {
    let with = |change: &dyn Fn(&mut Layout)| {
        let mut layout = sound.clone();
        change(&mut layout);
        layout
    };
    vec![
        ("a cell more", with(&|l| l.cells.push(("more".to_owned(), Vec::new())))),
        (
            "a cell of the base without its first element",
            with(&|l| {
                let at = l.cells.iter().position(|c| c.0.starts_with("base_") && c.1.len() > 2).unwrap();
                l.cells[at].1.remove(0);
            }),
        ),
        ("the die without one of its elements", with(&|l| drop(l.cell_mut("die0").pop()))),
        ("the die moved by 5 nm", with(&|l| l.cell_mut("die0").iter_mut().for_each(|i| i.shift([5, 0])))),
        (
            "a program missing",
            with(&|l| {
                let at = l.cells.iter().position(|c| c.0.ends_with("_prog")).unwrap();
                l.cells.remove(at);
            }),
        ),
    ]
}
