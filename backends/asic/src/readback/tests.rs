//! Faults put into layouts, each of which must be reported.

use super::*;
use crate::Rom;
use crate::sink::Sink;
use crate::stream::Cells;
use crate::tests::{Model, bare, mixed, noise, process, variants};
use library::Shape;

fn open(process: &Process, model: &Model, bytes: Vec<u8>) -> Result<Vec<Diagnostics>, Diagnostics> {
    let read = RomReadBack::of_bytes(process, &model.program, Box::new(bytes))?;
    let checked = model.contents.iter().enumerate().map(|(i, c)| read.check(TileId(i as u32), c));
    Ok(checked.filter_map(Result::err).collect())
}

/// All problems of a layout in the default process as text, whatever stage finds them.
fn problems(model: &Model, bytes: Vec<u8>) -> Vec<String> {
    problems_by(&process(), model, bytes)
}

/// The same by another process.
fn problems_by(process: &Process, model: &Model, bytes: Vec<u8>) -> Vec<String> {
    let all = match open(process, model, bytes) {
        Ok(by_tile) => by_tile.into_iter().flat_map(|d| d.0).collect(),
        Err(d) => d.0,
    };
    all.iter().map(ToString::to_string).collect()
}

/// Replaces a cell by what `write` writes in its place.
fn replace(bytes: &[u8], cell: &str, write: impl FnOnce(&mut Cells)) -> Vec<u8> {
    let library = Library::new(Box::new(bytes.to_vec())).unwrap();
    let id = library.find(cell.as_bytes()).unwrap();
    let start = library.elements(id).offset();
    let mut elements = library.elements(id);
    while elements.read().unwrap().is_some() {}
    let end = elements.offset() + 4;
    let mut cells = Cells::new(0);
    cells.begin(cell).unwrap();
    let head = cells.into_bytes().len();
    let mut cells = Cells::new(0);
    write(&mut cells);
    [&bytes[..start - head], &cells.into_bytes(), &bytes[end..]].concat()
}

/// Cuts of a cell, flat.
fn cuts(bytes: &[u8], cell: &str) -> Vec<[i64; 4]> {
    let library = Library::new(Box::new(bytes.to_vec())).unwrap();
    let mut cuts = Vec::new();
    let id = library.find(cell.as_bytes()).unwrap();
    library
        .resolve(id, 1 << 20, &mut |_, shape| match shape {
            Shape::Rectangle(area) => cuts.push(area),
            other => panic!("{other:?}"),
        })
        .unwrap();
    cuts
}

/// The layout with the cuts of a tile changed.
fn with_cuts(rom: &Rom, model: &Model, tile: &str, change: impl FnOnce(&mut Vec<[i64; 4]>)) -> Vec<u8> {
    let bytes = model.file(rom, "layout.gds");
    let prog = format!("{tile}_prog");
    let mut cuts = cuts(&bytes, &prog);
    change(&mut cuts);
    replace(&bytes, &prog, |cells| {
        cells.begin(&prog).unwrap();
        for cut in cuts {
            cells.rectangle(rom.process.levels().cut.layer, cut).unwrap();
        }
        cells.end().unwrap();
    })
}

/// Column of a cut of a macro of one segment.
fn column_of(rom: &Rom, cut: [i64; 4]) -> i64 {
    cut[0].div_euclid(rom.process.cell.pitch_x_nm)
}

/// Index of the cut on a node of the first row group.
fn cut_at(rom: &Rom, cuts: &[[i64; 4]], node: i64, column: i64) -> usize {
    let c = &rom.process.cell;
    let on = |cut: &[i64; 4]| cut[1] == node * c.pitch_y_nm + c.cut_y_nm[0] && column_of(rom, *cut) == column;
    cuts.iter().position(on).unwrap()
}

/// A cut on the other site of its node.
fn other_site(rom: &Rom, cut: [i64; 4]) -> [i64; 4] {
    let c = &rom.process.cell;
    let between = c.cut_ground_x_nm[0] - c.cut_bit_line_x_nm[0];
    let on_bit_line = cut[0].rem_euclid(c.pitch_x_nm) == c.cut_bit_line_x_nm[0];
    let shift = if on_bit_line { between } else { -between };
    [cut[0] + shift, cut[1], cut[2] + shift, cut[3]]
}

/// The first bit line of tile w0 from `first` on whose lowest strip keeps its rule for the first node when one cut moves.
fn steady(rom: &Rom, model: &Model, first: i64) -> i64 {
    let cuts = cuts(&model.file(rom, "layout.gds"), "w0_prog");
    let (c, nodes) = (&rom.process.cell, i64::from(rom.process.tap_row.word_lines) + 1);
    let on_bit_line = |bit_line: i64| {
        let on = |node: i64| cuts[cut_at(rom, &cuts, node, bit_line)][0].rem_euclid(c.pitch_x_nm);
        (0..nodes).filter(|&node| on(node) == c.cut_bit_line_x_nm[0]).count() as i64
    };
    (first..).find(|&bit_line| (2 * on_bit_line(bit_line) - nodes).abs() > 2).unwrap()
}

#[test]
fn cuts_may_be_flat() {
    for rom in &variants() {
        let model = mixed();
        assert_eq!(problems_by(&rom.process, &model, with_cuts(rom, &model, "w0", |_| ())), [""; 0]);
    }
}

#[test]
fn one_moved_inner_cut_is_two_bits_and_one_problem() {
    for rom in &variants() {
        let model = mixed();
        // Node 5 is between word lines 4 and 5; bit line 14 is bit 2 of column 3.
        let line = steady(rom, &model, 14);
        let (bit, n) = (line % 4, line / 4);
        let bytes = with_cuts(rom, &model, "w0", |cuts| {
            let i = cut_at(rom, cuts, 5, line);
            cuts[i] = other_site(rom, cuts[i]);
        });
        let got = problems_by(&rom.process, &model, bytes);
        let [problem] = got.as_slice() else { panic!("{got:#?}") };
        let want =
            format!("error[E0520]: tile w0: word lines 4 and 5, bit line {line}: bit {bit} of code (4, {n})");
        assert!(problem.starts_with(&want), "{problem}");
        assert!(problem.contains(&format!("; bit {bit} of code (5, {n}), which reads ")), "{problem}");
        let origin = format!("tensor \"layer.0.weight\" [k 4..6, n {n}..{}]", n + 1);
        assert!(problem.contains(&origin), "{problem}");
    }
}

#[test]
fn a_moved_cut_at_the_end_of_a_strip_is_one_bit() {
    for rom in &variants() {
        let lines = rom.process.tap_row.word_lines;
        let model = mixed();
        let bytes = with_cuts(rom, &model, "w0", |cuts| {
            // The top node of the first row group: above its last word line.
            let i = cut_at(rom, cuts, i64::from(lines), 8);
            cuts[i] = other_site(rom, cuts[i]);
        });
        let got = problems_by(&rom.process, &model, bytes);
        // Word lines 32 and 33 hold scales.
        let want = format!("word line {}, bit line 8: bit 0 of code ({}, 2)", lines - 1, lines - 3);
        assert!(got.len() == 1 && got[0].contains(&want), "{got:#?}");
    }
}

#[test]
fn faults_in_scales_unit_data_and_unused_cells_are_named() {
    for rom in &variants() {
        let model = mixed();
        // Word lines 32 and 33 of w0 are scale rows.
        let line = steady(rom, &model, 4);
        let scale =
            |bit: i64| format!("bit {bit} of the scale of rows 0..32, column {}, which reads", line / 4);
        let scales = [scale(line % 4), scale(line % 4 + 4)];
        for (tile, node, column, expected) in [
            ("w0", 33, line, scales[0].as_str()),
            ("w0", 33, line, scales[1].as_str()),
            // The macro's word line 1 is beyond the data.
            ("d0", 1, 17, "tile d0: word lines 0 and 1, bit line 17: bit 1 of byte 2, which reads"),
            ("d0", 1, 17, "; a cell that nothing uses, which reads 1 for 0"),
            ("d0", 1, 17, "tensor \"bias.0\""),
            ("w1", 14, 10, "bit 10 of the unit, which reads"),
        ] {
            let bytes = with_cuts(rom, &model, tile, |cuts| {
                let i = cut_at(rom, cuts, node, column);
                cuts[i] = other_site(rom, cuts[i]);
            });
            let got = problems_by(&rom.process, &model, bytes);
            assert!(got.iter().any(|p| p.contains(expected)), "{expected}: {got:#?}");
        }
        // The header of w1 is word line 14 of 15, its bit lines from 32 on are unused.
        let bytes = with_cuts(rom, &model, "w1", |cuts| {
            let i = cut_at(rom, cuts, 15, 60);
            cuts[i] = other_site(rom, cuts[i]);
        });
        let got = problems_by(&rom.process, &model, bytes);
        assert!(got[0].contains("word lines 14 and 15, bit line 60: a cell that nothing uses"), "{got:#?}");
    }
}

#[test]
fn missing_doubled_and_shorting_cuts_are_named() {
    for rom in &variants() {
        let model = mixed();
        let changed = |change: &dyn Fn(&mut Vec<[i64; 4]>, usize)| {
            problems_by(
                &rom.process,
                &model,
                with_cuts(rom, &model, "w0", |cuts| change(cuts, cut_at(rom, cuts, 5, 14))),
            )
        };
        let missing = changed(&|cuts, i| {
            cuts.remove(i);
        });
        assert!(missing.len() == 1 && missing[0].contains("E0517"), "{missing:#?}");
        assert!(
            missing[0].contains("bit line 14, the node between word lines 4 and 5 has no cut"),
            "{missing:#?}"
        );
        let twice = changed(&|cuts, i| cuts.push(cuts[i]));
        assert!(
            twice.len() == 1 && twice[0].contains("E0518") && twice[0].contains("same cut twice"),
            "{twice:#?}"
        );
        let both = changed(&|cuts, i| cuts.push(other_site(rom, cuts[i])));
        assert!(both.len() == 1 && both[0].contains("cut to the bit line and to ground"), "{both:#?}");
    }
}

#[test]
fn cuts_off_their_sites_are_named() {
    for rom in &variants() {
        let model = mixed();
        let (size, far) = (rom.process.levels().cut.size_nm, rom.process.cell.pitch_x_nm * 40);
        for (shift, expected) in [
            ([5, 0, 5, 0], "is on no site".to_owned()),
            ([0, 5, 0, 5], "is on no site".to_owned()),
            ([0, 0, 5, 0], format!("cut of {} nm x {size} nm", size + 5)),
            ([0, 0, 0, -5], format!("cut of {size} nm x {} nm", size - 5)),
            ([far, 0, far, 0], "is on no site".to_owned()),
            ([0, 1_000_000, 0, 1_000_000], "is on no site".to_owned()),
            ([-far, 0, -far, 0], "is on no site".to_owned()),
        ] {
            let bytes = with_cuts(rom, &model, "w0", |cuts| {
                let i = cut_at(rom, cuts, 5, 14);
                for (c, s) in cuts[i].iter_mut().zip(shift) {
                    *c += s;
                }
            });
            let got = problems_by(&rom.process, &model, bytes);
            assert!(got[0].contains("E0516") && got[0].contains(&expected), "{expected} {got:#?}");
        }
    }
}

#[test]
fn a_complemented_column_of_a_row_group_is_an_error() {
    for rom in &variants() {
        let model = mixed();
        let lines = rom.process.tap_row.word_lines;
        let top = i64::from(lines + 1) * rom.process.cell.pitch_y_nm;
        let bytes = with_cuts(rom, &model, "w0", |cuts| {
            for cut in cuts.iter_mut().filter(|c| column_of(rom, **c) == 7 && c[1] < top) {
                *cut = other_site(rom, *cut);
            }
        });
        let got = problems_by(&rom.process, &model, bytes);
        assert!(got.len() == 1 && got[0].contains("E0519"), "{got:#?}");
        assert!(got[0].contains(&format!("word lines 0..{lines}, bit line 7")), "{got:#?}");
    }
}

#[test]
fn swapped_columns_are_reported_with_a_count_instead_of_a_flood() {
    for rom in &variants() {
        let model = mixed();
        let pitch = rom.process.cell.pitch_x_nm;
        let bytes = with_cuts(rom, &model, "w2", |cuts| {
            for cut in cuts.iter_mut() {
                let shift = match column_of(rom, *cut) {
                    20 => pitch,
                    21 => -pitch,
                    _ => 0,
                };
                cut[0] += shift;
                cut[2] += shift;
            }
        });
        let got = problems_by(&rom.process, &model, bytes);
        assert_eq!(got.len(), cuts::REPORTED, "{got:#?}");
        assert!(got.last().unwrap().contains("more problems of this cell"), "{got:#?}");
    }
}

#[test]
fn shapes_on_other_layers_and_labels_in_a_program_are_errors() {
    for rom in &variants() {
        let model = mixed();
        let bytes = model.file(rom, "layout.gds");
        let rail = rom.process.levels().rail;
        let with = |write: &dyn Fn(&mut Cells)| {
            let cuts = cuts(&bytes, "w0_prog");
            problems_by(
                &rom.process,
                &model,
                replace(&bytes, "w0_prog", |cells| {
                    cells.begin("w0_prog").unwrap();
                    for cut in cuts {
                        cells.rectangle(rom.process.levels().cut.layer, cut).unwrap();
                    }
                    write(cells);
                    cells.end().unwrap();
                }),
            )
        };
        let metal = with(&|c| c.rectangle(rail.layer, [0, 0, 140, 600]).unwrap());
        assert!(metal[0].contains(&format!("on layer {}, not the cut layer", rail.layer)), "{metal:#?}");
        let label = with(&|c| c.label(rail.label, [0, 0], "BL0").unwrap());
        assert!(label[0].contains("no rectangle"), "{label:#?}");
        let base = with(&|c| c.copy("base_tap", [0, 0]).unwrap());
        assert!(base[0].contains("on layer 66/44, not the cut layer"), "{base:#?}");
        let itself = with(&|c| c.copy("w0_prog", [0, 0]).unwrap());
        assert!(itself[0].contains("E0522"), "{itself:#?}");
        let endless = with(&|c| {
            for _ in 0..8 {
                c.copies("w0_prog", [0, 0], [32_767, 32_767], [0, 0]).unwrap();
            }
        });
        assert!(endless[0].contains("E0522"), "{endless:#?}");
        let nowhere = with(&|c| c.copy("p_none", [0, 0]).unwrap());
        assert!(nowhere[0].contains("refers to cell p_none, which is not in the file"), "{nowhere:#?}");
    }
}

#[test]
fn turned_references_are_resolved() {
    for rom in &variants() {
        let model = mixed();
        let bytes = model.file(rom, "layout.gds");
        // Every cut through a cell that is a half turn of itself, turned by a half turn.
        let (cuts, cut) = (cuts(&bytes, "w0_prog"), rom.process.levels().cut);
        let half = cut.size_nm / 2;
        let bytes = replace(&bytes, "w0_prog", |cells| {
            cells.begin("cut").unwrap();
            cells.rectangle(cut.layer, [-half, -half, half, half]).unwrap();
            cells.end().unwrap();
            cells.begin("w0_prog").unwrap();
            for cut in &cuts {
                cells.copy("cut", [(cut[0] + cut[2]) / 2, (cut[1] + cut[3]) / 2]).unwrap();
            }
            cells.end().unwrap();
        });
        assert_eq!(problems_by(&rom.process, &model, bytes.clone()), [""; 0]);
        // SNAME "cut\0", then a mirror and a quarter turn: 90 = 0x42 5a 00...
        let name = [0, 8, 0x12, 6, b'c', b'u', b't', 0];
        let turn =
            [&name[..], &[0, 6, 0x1a, 1, 0x80, 0, 0, 12, 0x1c, 5, 0x42, 0x5a, 0, 0, 0, 0, 0, 0]].concat();
        let mut turned = Vec::new();
        let mut rest = &bytes[..];
        while let Some(at) = rest.windows(name.len()).position(|w| w == name) {
            turned.extend_from_slice(&rest[..at]);
            turned.extend_from_slice(&turn);
            rest = &rest[at + name.len()..];
        }
        turned.extend_from_slice(rest);
        assert!(turned.len() > bytes.len());
        assert_eq!(problems_by(&rom.process, &model, turned), [""; 0]);
    }
}

#[test]
fn tiles_must_be_one_base_and_one_program_placed_once() {
    let model = mixed();
    let bytes = model.layout();
    let base = {
        let library = Library::new(Box::new(bytes.clone())).unwrap();
        let p = process();
        let f = Format::of(&p, &model.program, TileId(0)).unwrap();
        let name = format!("base_{}x{}", f.array[0], f.array[1]);
        library.find(name.as_bytes()).unwrap();
        name
    };
    let tile = |write: &dyn Fn(&mut Cells)| {
        let bytes = replace(&bytes, "w0_rom", |c| {
            c.begin("w0_rom").unwrap();
            write(c);
            c.end().unwrap();
        });
        problems(&model, bytes).remove(0)
    };
    let both = |c: &mut Cells| {
        c.copy(&base, [0, 0]).unwrap();
        c.copy("w0_prog", [0, 0]).unwrap();
    };
    for (problem, expected) in [
        (tile(&|c| c.copy("w0_prog", [0, 0]).unwrap()), "it has no base"),
        (tile(&|c| c.copy(&base, [0, 0]).unwrap()), "it has 0 references to w0_prog"),
        (
            tile(&|c| {
                both(c);
                c.copy("w0_prog", [0, 0]).unwrap();
            }),
            "it has 2 references",
        ),
        (
            tile(&|c| {
                both(c);
                c.copy("w1_prog", [0, 0]).unwrap();
            }),
            "more than one base",
        ),
        (
            tile(&|c| {
                c.copy(&base, [0, 0]).unwrap();
                c.copy("w0_prog", [0, 430]).unwrap();
            }),
            "moved, turned or repeated",
        ),
        (
            tile(&|c| {
                both(c);
                c.rectangle(process().layers.mcon, [0, 0, 5, 5]).unwrap();
            }),
            "shapes of its own",
        ),
        (
            tile(&|c| {
                c.copy("base_tap", [0, 0]).unwrap();
                c.copy("w0_prog", [0, 0]).unwrap();
            }),
            "E0515",
        ),
    ] {
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
}

#[test]
fn arrays_alone_are_placed_once() {
    let (rom, model) = (bare(), mixed());
    let bytes = model.file(&rom, "layout.gds");
    let die = |names: &[(&str, [i64; 2])]| {
        let bytes = replace(&bytes, "die0", |c| {
            c.begin("die0").unwrap();
            c.rectangle(process().layers.boundary, [0, 0, 3_000_000, 3_000_000]).unwrap();
            for (name, at) in names {
                c.copy(name, *at).unwrap();
            }
            c.end().unwrap();
        });
        problems_by(rom.process(), &model, bytes).join("\n")
    };
    let all =
        [("w0_rom", [300_000, 300_000]), ("w1_rom", [300_000, 600_000]), ("d0_rom", [300_000, 900_000])];
    assert!(die(&all).contains("tile w2 is placed 0 times"));
    let others = [("w2_rom", 1_200_000), ("w3_rom", 1_500_000), ("w4_rom", 1_800_000), ("w5_rom", 2_100_000)];
    let good: Vec<_> = all.into_iter().chain(others.map(|(name, y)| (name, [300_000, y]))).collect();
    assert_eq!(die(&good), "");
    let twice: Vec<_> = good.iter().copied().chain([("w0_rom", [2_000_000, 300_000])]).collect();
    assert!(die(&twice).contains("tile w0 is placed 2 times"));
    let over: Vec<_> =
        good.iter().map(|&(n, at)| (n, if n == "w1_rom" { [305_000, 305_000] } else { at })).collect();
    assert!(die(&over).contains("tiles w0 and w1 overlap"), "{}", die(&over));
    let out: Vec<_> =
        good.iter().map(|&(n, at)| (n, if n == "w1_rom" { [2_980_000, 300_000] } else { at })).collect();
    assert!(die(&out).contains("leaves the boundary"));
    let foreign: Vec<_> = good.iter().copied().chain([("base_tap", [0, 0])]).collect();
    assert!(die(&foreign).contains("base_tap is no tile of the program"));
}

/// The layout with elements added at the start of a cell.
fn with_more(bytes: &[u8], cell: &str, write: impl FnOnce(&mut Cells)) -> Vec<u8> {
    let library = Library::new(Box::new(bytes.to_vec())).unwrap();
    let start = library.elements(library.find(cell.as_bytes()).unwrap()).offset();
    let mut cells = Cells::new(0);
    write(&mut cells);
    [&bytes[..start], &cells.into_bytes(), &bytes[start..]].concat()
}

#[test]
fn what_lies_on_a_die_beside_macros_harms_none() {
    for rom in &variants() {
        let model = Model::new().codes(20, 9, 4, 8, 1).data(100, 2);
        let bytes = model.file(rom, "layout.gds");
        let p = &rom.process;
        let library = Library::new(Box::new(bytes.clone())).unwrap();
        // Where the tiles and the straps are.
        let mut elements = library.elements(library.find(b"die0").unwrap());
        let (mut at, mut straps, mut uncut) = (None, Vec::new(), Vec::new());
        let mut start = elements.offset();
        while let Some(element) = elements.read().unwrap() {
            match element {
                Element::Copy { name: b"w0_rom", at: origin, .. } => at = Some(origin),
                Element::Copy { name: b"base_via4", .. } => {
                    uncut.push([&bytes[..start], &bytes[elements.offset()..]].concat());
                }
                Element::Rectangle { layer: [72, 20], area } => {
                    straps.push((area, [&bytes[..start], &bytes[elements.offset()..]].concat()));
                }
                _ => {}
            }
            start = elements.offset();
        }
        let [x, y] = at.unwrap();
        assert!(straps.len() > 8 && uncut.len() > 8);
        let with = |write: &dyn Fn(&mut Cells)| {
            problems_by(&rom.process, &model, with_more(&bytes, "die0", write)).join("\n")
        };
        let met2 = with(&|c| c.rectangle(p.layers.met2, [x, y, x + 500, y + 500]).unwrap());
        assert!(met2.contains("on layer 69/20, which tiles alone may have"), "{met2}");
        let tap = with(&|c| c.copy("base_tap", [x, y]).unwrap());
        assert!(tap.contains("E0514") && tap.contains(&format!("layer {}", p.levels().cut.layer)), "{tap}");
        let over = with(&|c| c.rectangle(p.layers.met4, [x, y, x + 500, y + 500]).unwrap());
        assert!(over.contains("lies over tile w0 and on no pin of it"), "{over}");
        // A ring without its metal leaves cuts on nothing; one bridge joins the two nets.
        for (area, without) in &straps {
            let got = problems_by(&rom.process, &model, without.clone()).join("\n");
            assert!(got.contains("E0509"), "{area:?}: {got}");
        }
        let [a, b] = [straps[4].0, straps[5].0];
        let bridge = [a[0].max(b[0]) + 100, a[1].min(b[1]), a[0].max(b[0]) + 1800, a[3].max(b[3])];
        let short = with(&|c| c.rectangle(p.die.met5, bridge).unwrap());
        assert!(short.contains("the supply and ground meet"), "{short}");
        // Without any of the cuts to its straps the tile has no power.
        let vias = replace(&bytes, "base_vias0_32x48", |c| {
            c.begin("base_vias0_32x48").unwrap();
            c.end().unwrap();
        });
        let got = problems_by(&rom.process, &model, vias).join("\n");
        assert!(got.contains("a pin VPWR of tile w0 is not joined to the ring of that net"), "{got}");
        // Lanes over the other tile.
        let lanes = with(&|c| c.copy("base_lanes_32x48_u4_3", [x, y]).unwrap());
        assert!(lanes.contains("an outline of lanes overlaps"), "{lanes}");
    }
}

#[test]
fn every_part_of_an_array_alone_is_checked() {
    let rom = bare();
    let problems = |model: &Model, bytes: Vec<u8>| problems_by(rom.process(), model, bytes);
    let model = Model::new().codes(70, 9, 4, 32, 1);
    let bytes = model.file(&rom, "layout.gds");
    assert_eq!(problems(&model, bytes.clone()), [""; 0]);
    // Every cell of the base array without any one of its elements, and with any one moved.
    let names: Vec<String> = {
        let library = Library::new(Box::new(bytes.clone())).unwrap();
        let found =
            ["base_node", "base_tap", "base_strip_64", "base_rows_64x36", "base_taps_36", "base_rails_77"];
        found.iter().filter(|n| library.find(n.as_bytes()).is_some()).map(ToString::to_string).collect()
    };
    assert_eq!(names.len(), 6);
    let checked = ["65/20", "66/20", "66/44", "67/20", "67/44", "68/20", "65/44"];
    for name in names {
        let library = Library::new(Box::new(bytes.clone())).unwrap();
        let id = library.find(name.as_bytes()).unwrap();
        let mut elements = Vec::new();
        let mut all = library.elements(id);
        let mut start = all.offset();
        while let Some(element) = all.read().unwrap() {
            let matters = match &element {
                Element::Rectangle { layer, area } => {
                    let inside = area[2] > 0 && area[0] < 36 * 770;
                    inside && checked.contains(&format!("{}/{}", layer[0], layer[1]).as_str())
                }
                _ => true,
            };
            elements.push((start..all.offset(), matters));
            start = all.offset();
        }
        for (range, matters) in elements {
            if matters {
                let without = [&bytes[..range.start], &bytes[range.end..]].concat();
                let got = problems(&model, without);
                assert!(got.iter().any(|p| p.contains("E0515")), "{name} {range:?}: {got:#?}");
                let doubled = [&bytes[..range.end], &bytes[range.start..]].concat();
                let got = problems(&model, doubled);
                assert!(got.iter().any(|p| p.contains("E0515")), "{name} {range:?}: {got:#?}");
            }
        }
    }
}

#[test]
fn every_part_of_a_macro_is_checked() {
    for rom in &variants() {
        let model = Model::new().codes(10, 3, 4, 32, 1);
        let bytes = model.file(rom, "layout.gds");
        assert_eq!(problems_by(&rom.process, &model, bytes.clone()), [""; 0]);
        let library = Library::new(Box::new(bytes.clone())).unwrap();
        // All cells of the base, from its own down.
        let mut names = vec![b"base_16x32".to_vec()];
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            let mut elements = library.elements(library.find(&name).unwrap());
            while let Some(element) = elements.read().unwrap() {
                if let Element::Copy { name, .. } = element
                    && !names.iter().any(|n| n == name)
                {
                    names.push(name.to_vec());
                }
            }
            next += 1;
        }
        assert!(names.len() > 15, "{names:?}");
        let mut checked = 0;
        for name in names {
            let mut elements = library.elements(library.find(&name).unwrap());
            let mut parts = Vec::new();
            let mut start = elements.offset();
            while elements.read().unwrap().is_some() {
                parts.push(start..elements.offset());
                start = elements.offset();
            }
            // Of the many elements of a cell a few that lie apart.
            let step = parts.len().div_ceil(9);
            for range in parts.into_iter().step_by(step) {
                let without = [&bytes[..range.start], &bytes[range.end..]].concat();
                let doubled = [&bytes[..range.end], &bytes[range.start..]].concat();
                for damaged in [without, doubled] {
                    let got = problems_by(&rom.process, &model, damaged);
                    let name = String::from_utf8_lossy(&name);
                    assert!(got.iter().all(|p| p.contains("E0515")), "{name} {range:?}: {got:#?}");
                    assert!(!got.is_empty(), "{name} {range:?}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 150, "{checked}");
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let model = Model::new().codes(3, 2, 4, 2, 1);
    let bytes = model.file(&bare(), "layout.gds");
    for end in (0..bytes.len()).step_by(7).chain(bytes.len() - 6..bytes.len()) {
        let got = problems(&model, bytes[..end].to_vec());
        assert!(got.len() == 1 && got[0].contains("E0511"), "{end}: {got:#?}");
    }
    let longer = [&bytes[..], &[1]].concat();
    assert!(problems(&model, longer)[0].contains("bytes follow the end"));
}

#[test]
fn no_damage_changes_a_weight_unnoticed_or_ends_in_a_panic() {
    let model = Model::new().codes(20, 5, 4, 8, 1).data(40, 2);
    let rom = bare();
    let bytes = model.file(&rom, "layout.gds");
    let mut next = noise(7);
    let (mut noticed, mut harmless) = (0, 0);
    for round in 0..2000 {
        let mut damaged = bytes.clone();
        let at = (next() % bytes.len() as u64) as usize;
        if round % 2 == 0 {
            damaged[at] ^= 1 << (next() % 8);
        } else {
            damaged[at] = next() as u8;
        }
        if problems_by(rom.process(), &model, damaged).is_empty() { harmless += 1 } else { noticed += 1 }
    }
    // Dates, labels' letters, implants and flags of no meaning are all that may change.
    assert!(noticed > 3 * harmless, "{noticed} {harmless}");
    // Of macros all shapes and texts are checked: dates and flags are left.
    let bytes = model.layout();
    let (mut noticed, mut harmless) = (0, 0);
    for _ in 0..150 {
        let mut damaged = bytes.clone();
        let at = (next() % bytes.len() as u64) as usize;
        damaged[at] ^= 1 << (next() % 8);
        if problems(&model, damaged).is_empty() { harmless += 1 } else { noticed += 1 }
    }
    assert!(noticed > 10 * harmless, "{noticed} {harmless}");
}

#[test]
fn the_weights_reach_no_layer_but_the_cuts() {
    for rom in &variants() {
        let (a, b) = (Model::new().codes(40, 9, 4, 32, 1), Model::new().codes(40, 9, 4, 32, 2));
        let (a, b) = (a.file(rom, "layout.gds"), b.file(rom, "layout.gds"));
        let shapes = |bytes: &[u8]| {
            let library = Library::new(Box::new(bytes.to_vec())).unwrap();
            let die = library.find(b"die0").unwrap();
            let mut shapes: BTreeMap<[i16; 2], Vec<String>> = BTreeMap::new();
            library
                .resolve(die, 1 << 22, &mut |layer, shape| {
                    shapes.entry(layer).or_default().push(format!("{shape:?}"));
                })
                .unwrap();
            shapes
        };
        let (mut a, mut b) = (shapes(&a), shapes(&b));
        let cut = rom.process.levels().cut.layer;
        let cut = [cut.layer, cut.datatype];
        assert_ne!(a.remove(&cut).unwrap(), b.remove(&cut).unwrap());
        assert_eq!(a, b);
        // All layers of the process file but the programmed one and pins and labels of li1, met1 and met2.
        assert_eq!(a.len(), 25, "{:?}", a.keys());
    }
}

#[test]
fn met1_leaves_the_clear_area_that_its_density_rule_asks_for() {
    let model = Model::new().codes(120, 24, 4, 32, 1);
    let bytes = model.file(&bare(), "layout.gds");
    let library = Library::new(Box::new(bytes)).unwrap();
    let process = process();
    let format = Format::of(&process, &model.program, TileId(0)).unwrap();
    let layer = |l: crate::process::Layer| [l.layer, l.datatype];
    let (mut metal, mut boundary) = (Vec::new(), [0; 4]);
    library
        .resolve(library.find(b"w0_rom").unwrap(), 1 << 22, &mut |at, shape| match shape {
            Shape::Rectangle(area) if at == layer(process.layers.met1) => metal.push(area),
            Shape::Rectangle(area) if at == layer(process.layers.boundary) => boundary = area,
            _ => {}
        })
        .unwrap();
    // Met1 shapes do not overlap: rails, and pads beside the array.
    let share = |w: [i64; 4]| {
        let covered: i64 = metal
            .iter()
            .map(|a| {
                let [x, y] = [0, 1].map(|i| (a[i + 2].min(w[i + 2]) - a[i].max(w[i])).max(0));
                x * y
            })
            .sum();
        covered as f64 / ((w[2] - w[0]) * (w[3] - w[1])) as f64
    };
    let most = process.rules.density_max;
    let array = [0, boundary[1] + 400, format.bit_lines as i64 * 770, boundary[3] - 800];
    assert!(share(boundary) < share(array) && share(array) < most, "{} {}", share(boundary), share(array));
    // Any window of 40 um or more, wherever it lies.
    for x in (boundary[0]..array[2] - 40_000).step_by(35) {
        let window = [x, array[1], x + 40_000, array[3]];
        assert!(share(window) <= most, "{window:?} {}", share(window));
    }
}

/// Problems of a GDSII file and an OASIS file together, by code.
fn both(model: &Model, gds: Vec<u8>, oasis: Vec<u8>) -> Vec<String> {
    both_by(&process(), model, gds, oasis)
}

/// The same by another process.
fn both_by(process: &Process, model: &Model, gds: Vec<u8>, oasis: Vec<u8>) -> Vec<String> {
    let all = RomReadBack::of_bytes(process, &model.program, Box::new(gds))
        .and_then(|read| read.with_oasis(Box::new(oasis)))
        .map(|read| {
            let checked = model.contents.iter().enumerate().map(|(i, c)| read.check(TileId(i as u32), c));
            checked.filter_map(Result::err).flat_map(|d| d.0).collect()
        })
        .unwrap_or_else(|d| d.0);
    all.iter().map(ToString::to_string).collect()
}

/// The checksum at the end made that of the bytes before it.
fn sealed(mut oasis: Vec<u8>) -> Vec<u8> {
    let body = oasis.len() - 4;
    let sum = crc32fast::hash(&oasis[..body]).to_le_bytes();
    oasis[body..].copy_from_slice(&sum);
    oasis
}

#[test]
fn both_files_hold_one_layout() {
    let model = mixed();
    assert_eq!(both(&model, model.layout(), model.oasis()), [""; 0]);
    // Another cut in one of them, which the weights do not have.
    let rom = crate::tests::rom();
    let moved = with_cuts(&rom, &model, "w0", |cuts| {
        let i = cut_at(&rom, cuts, 5, 14);
        cuts[i] = other_site(&rom, cuts[i]);
    });
    // Of the GDSII file that is said first; with the weights it holds, it is the files that differ.
    let got = both(&model, moved.clone(), model.oasis());
    assert!(got.len() == 1 && got[0].contains("E0520"), "{got:#?}");
    let process = process();
    let read = RomReadBack::of_bytes(&process, &model.program, Box::new(moved)).unwrap();
    let read = read.with_oasis(Box::new(model.oasis())).unwrap();
    let held = read.tile(TileId(0)).unwrap();
    let got: Vec<String> =
        read.check(TileId(0), &held).unwrap_err().0.iter().map(ToString::to_string).collect();
    assert_eq!(got.len(), 2, "{got:#?}");
    assert!(got[0].contains("E0531") && got[0].contains("tile w0: word line 4, bit line 14"), "{got:#?}");
    assert!(got[1].contains("tile w0: word line 5, bit line 14"), "{got:#?}");
    // Other weights, and a tile more.
    let (a, b) = (Model::new().codes(40, 9, 4, 32, 1), Model::new().codes(40, 9, 4, 32, 2));
    assert!(both(&a, a.layout(), b.oasis())[0].contains("E0531"));
    let more = Model::new().codes(40, 9, 4, 32, 1).data(40, 2);
    assert!(both(&more, more.layout(), a.oasis()).iter().any(|p| p.contains("cell d0_prog of layout.gds")));
    assert!(
        both(&a, a.layout(), more.oasis()).iter().any(|p| p.contains("cell d0_rom is not in layout.gds"))
    );
}

#[test]
fn a_reference_that_its_bits_cannot_hold_is_refused() {
    let model = Model::new().codes(40, 9, 4, 32, 1);
    let process = process();
    let read = RomReadBack::of_bytes(&process, &model.program, Box::new(model.layout())).unwrap();
    assert!(read.check(TileId(0), &model.contents[0]).is_ok());
    let mut beyond = model.contents[0].clone();
    let TileContent::Codes(block) = &mut beyond else { panic!("no codes") };
    // Its four lower bits are those of the layout.
    block.levels[3] ^= 0x10;
    let problems = read.check(TileId(0), &beyond).unwrap_err();
    assert_eq!(problems.0.iter().map(|d| d.code.id).collect::<Vec<_>>(), ["E0521"]);
}

#[test]
fn no_damage_of_the_oasis_file_goes_unnoticed() {
    let model = Model::new().codes(20, 5, 4, 8, 1).data(40, 2);
    let rom = bare();
    let both = |model: &Model, gds, oasis| both_by(rom.process(), model, gds, oasis);
    let (gds, bytes) = (model.file(&rom, "layout.gds"), model.file(&rom, "layout.oas"));
    let mut next = noise(7);
    let mut harmless = 0;
    for round in 0..1500 {
        let mut damaged = bytes.clone();
        let at = (next() % bytes.len() as u64) as usize;
        damaged[at] ^= 1 << (next() % 8);
        // The checksum finds every changed bit.
        if round % 10 == 0 {
            assert!(both(&model, gds.clone(), damaged.clone())[0].contains("E0530"));
        }
        // Damage with the right checksum: what it means is another layout, or none.
        if at < bytes.len() - 256 && both(&model, gds.clone(), sealed(damaged)).is_empty() {
            harmless += 1;
        }
    }
    // Codes of symbols that are not used, and names of pattern cells, are all that may change.
    assert!(harmless < 150, "{harmless}");
    for end in (0..bytes.len()).step_by(97) {
        assert!(!both(&model, gds.clone(), bytes[..end].to_vec()).is_empty(), "{end}");
    }
}

#[test]
fn a_moved_cut_is_found_in_every_process() {
    for process in crate::tests::built_in() {
        let rom = crate::Rom { process: process.clone() };
        let model = Model::new().codes(40, 9, 4, 32, 1);
        let dir = tempfile::tempdir().unwrap();
        model.emit(&rom, dir.path());
        let bytes = std::fs::read(dir.path().join("layout.gds")).unwrap();
        let mut cuts = cuts(&bytes, "w0_prog");
        // On node 5 of bit line 14.
        let c = &process.cell;
        let corner = |x: i64| [14 * c.pitch_x_nm + x, 5 * c.pitch_y_nm + c.cut_y_nm[0]];
        let sites = [c.cut_bit_line_x_nm, c.cut_ground_x_nm].map(|site| corner(site[0]));
        let cut = cuts.iter_mut().find(|cut| sites.contains(&[cut[0], cut[1]])).unwrap();
        let to = if [cut[0], cut[1]] == sites[0] { sites[1] } else { sites[0] };
        let by = to[0] - cut[0];
        (cut[0], cut[2]) = (cut[0] + by, cut[2] + by);
        let moved = replace(&bytes, "w0_prog", |cells| {
            cells.begin("w0_prog").unwrap();
            cuts.iter().for_each(|&cut| cells.rectangle(process.levels().cut.layer, cut).unwrap());
            cells.end().unwrap();
        });
        let read = RomReadBack::of_bytes(&process, &model.program, Box::new(moved)).unwrap();
        let problems = read.check(TileId(0), &model.contents[0]).unwrap_err();
        let [problem] = problems.0.as_slice() else { panic!("{}: {problems}", process.name) };
        assert!(problem.message.starts_with("tile w0: word lines 4 and 5, bit line 14"), "{problem}");
    }
}
