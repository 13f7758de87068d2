//! A layout as cells of rectangles, references and labels, read with the `gdsii` crate and written as GDSII with it, and as
//! OASIS by hand: nothing of what pfmc writes or reads layouts with.

use std::collections::BTreeMap;

use gdsii::parser::{
    Aref, Boundary, Element, GdsEvent, GdsParser, LibraryBegin, Sref, Strans, StructureBegin, Text,
};
use gdsii::writer::GdsWriter;
use gdsii::{I16, I32};

/// x0, y0, x1, y1 in nanometres.
pub type Area = [i32; 4];

/// What is in a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A rectangle with its layer.
    Rect([i16; 2], Area),
    /// A reference: cell, place, counts, and for more than one the steps. A mirrored one is mirrored about x.
    Copy { name: String, at: [i32; 2], counts: [i16; 2], steps: [i32; 2], mirrored: bool },
    /// A label with its layer.
    Label([i16; 2], [i32; 2], String),
}

impl Item {
    /// One reference.
    pub fn copy(name: &str, at: [i32; 2]) -> Item {
        Item::Copy { name: name.to_owned(), at, counts: [1, 1], steps: [0, 0], mirrored: false }
    }

    /// Moves it.
    pub fn shift(&mut self, by: [i32; 2]) {
        match self {
            Item::Rect(_, area) => *area = shifted(*area, by),
            Item::Copy { at, .. } | Item::Label(_, at, _) => *at = [at[0] + by[0], at[1] + by[1]],
        }
    }
}

/// A rectangle, moved.
pub fn shifted(area: Area, by: [i32; 2]) -> Area {
    [area[0] + by[0], area[1] + by[1], area[2] + by[0], area[3] + by[1]]
}

/// Cells in the order of the file.
#[derive(Debug, Clone)]
pub struct Layout {
    pub cells: Vec<(String, Vec<Item>)>,
}

impl Layout {
    /// Reads GDSII.
    pub fn of(bytes: &[u8]) -> Layout {
        let mut cells: Vec<(String, Vec<Item>)> = Vec::new();
        for event in GdsParser::new(bytes) {
            let item = match event.unwrap() {
                GdsEvent::StructureBegin(s) => {
                    cells.push((s.name.to_owned(), Vec::new()));
                    continue;
                }
                GdsEvent::Element(Element::Boundary(b)) => {
                    let (x, y) = (b.xy.iter().step_by(2), b.xy.iter().skip(1).step_by(2));
                    let (x, y): (Vec<i32>, Vec<i32>) =
                        (x.map(|v| v.get()).collect(), y.map(|v| v.get()).collect());
                    let ends = |v: &[i32]| (*v.iter().min().unwrap(), *v.iter().max().unwrap());
                    let ((x0, x1), (y0, y1)) = (ends(&x), ends(&y));
                    Item::Rect([b.layer, b.datatype], [x0, y0, x1, y1])
                }
                GdsEvent::Element(Element::Sref(s)) => Item::copy(s.sname, [s.xy[0].get(), s.xy[1].get()]),
                GdsEvent::Element(Element::Aref(a)) => {
                    let xy: Vec<i32> = a.xy.iter().map(|v| v.get()).collect();
                    let (c, r) = (i32::from(a.colrow.0), i32::from(a.colrow.1));
                    Item::Copy {
                        name: a.sname.to_owned(),
                        at: [xy[0], xy[1]],
                        counts: [a.colrow.0, a.colrow.1],
                        steps: [(xy[2] - xy[0]) / c, (xy[5] - xy[1]) / r],
                        mirrored: false,
                    }
                }
                GdsEvent::Element(Element::Text(t)) => {
                    Item::Label([t.layer, t.texttype], [t.xy[0].get(), t.xy[1].get()], t.string.to_owned())
                }
                GdsEvent::Element(other) => panic!("{other:?}"),
                _ => continue,
            };
            cells.last_mut().unwrap().1.push(item);
        }
        Layout { cells }
    }

    /// Writes GDSII.
    pub fn gds(&self) -> Vec<u8> {
        let dates: [I16; 12] = [2000, 1, 1, 0, 0, 0, 2000, 1, 1, 0, 0, 0].map(I16::new);
        let mut out = GdsWriter::new(Vec::new());
        let mut put = |event: &GdsEvent<'_>| out.write_event(event).unwrap();
        put(&GdsEvent::LibraryBegin(LibraryBegin {
            version: 600,
            timestamps: &dates,
            lib_name: "faults",
            db_in_user: 1e-3,
            db_in_meters: 1e-9,
            reflibs: None,
            fonts: None,
            attrtable: None,
            generations: None,
        }));
        for (name, items) in &self.cells {
            put(&GdsEvent::StructureBegin(StructureBegin { timestamps: &dates, name }));
            for item in items {
                let place = |at: [i32; 2]| at.map(I32::new);
                match item {
                    Item::Rect([layer, datatype], [x0, y0, x1, y1]) => {
                        let xy = [*x0, *y0, *x0, *y1, *x1, *y1, *x1, *y0, *x0, *y0].map(I32::new);
                        let (layer, datatype) = (*layer, *datatype);
                        put(&GdsEvent::Element(Element::Boundary(Boundary {
                            elflags: None,
                            plex: None,
                            layer,
                            datatype,
                            xy: (&xy).into(),
                        })));
                    }
                    Item::Copy { name, at, counts, steps, mirrored } => {
                        let strans = mirrored.then_some(Strans {
                            reflection: true,
                            abs_mag: false,
                            abs_angle: false,
                            mag: None,
                            angle: None,
                        });
                        if *counts == [1, 1] {
                            let xy = place(*at);
                            put(&GdsEvent::Element(Element::Sref(Sref {
                                elflags: None,
                                plex: None,
                                sname: name,
                                strans,
                                xy: (&xy).into(),
                            })));
                        } else {
                            let far = [0, 1].map(|i| at[i] + i32::from(counts[i]) * steps[i]);
                            let xy = [at[0], at[1], far[0], at[1], at[0], far[1]].map(I32::new);
                            put(&GdsEvent::Element(Element::Aref(Aref {
                                elflags: None,
                                plex: None,
                                sname: name,
                                strans,
                                colrow: (counts[0], counts[1]),
                                xy: (&xy).into(),
                            })));
                        }
                    }
                    Item::Label([layer, texttype], at, text) => {
                        let xy = place(*at);
                        put(&GdsEvent::Element(Element::Text(Text {
                            elflags: None,
                            plex: None,
                            layer: *layer,
                            texttype: *texttype,
                            presentation: None,
                            pathtype: None,
                            width: None,
                            strans: None,
                            xy: (&xy).into(),
                            string: text,
                        })));
                    }
                }
            }
            put(&GdsEvent::StructureEnd);
        }
        put(&GdsEvent::LibraryEnd);
        out.into_inner()
    }

    /// Writes OASIS without compression; programs are flat and the cells of their patterns are left out. Mirrored references
    /// cannot be written.
    pub fn oasis(&self) -> Vec<u8> {
        let mut out = b"%SEMI-OASIS\r\n\x01\x031.0\x00\xe8\x07\x00".to_vec();
        out.extend([0; 12]);
        let unsigned = |out: &mut Vec<u8>, mut v: u64| {
            while v > 0x7f {
                out.push(v as u8 | 0x80);
                v >>= 7;
            }
            out.push(v as u8);
        };
        let signed = |out: &mut Vec<u8>, v: i32| {
            unsigned(out, u64::from(v.unsigned_abs()) << 1 | u64::from(v < 0));
        };
        let text = |out: &mut Vec<u8>, t: &str| {
            unsigned(out, t.len() as u64);
            out.extend(t.bytes());
        };
        let layer = |out: &mut Vec<u8>, l: &[i16; 2]| l.iter().for_each(|v| unsigned(out, *v as u64));
        for (name, items) in self.cells.iter().filter(|(name, _)| !is_pattern(name)) {
            out.push(14);
            text(&mut out, name);
            let flat;
            let items = if name.ends_with("_prog") {
                flat = self.flat(name);
                &flat
            } else {
                items
            };
            for item in items {
                match item {
                    Item::Rect(l, [x0, y0, x1, y1]) => {
                        out.extend([20, 0x7b]);
                        layer(&mut out, l);
                        unsigned(&mut out, (x1 - x0) as u64);
                        unsigned(&mut out, (y1 - y0) as u64);
                        [x0, y0].iter().for_each(|v| signed(&mut out, **v));
                    }
                    Item::Label(l, at, label) => {
                        out.extend([19, 0x5b]);
                        text(&mut out, label);
                        layer(&mut out, l);
                        at.iter().for_each(|v| signed(&mut out, *v));
                    }
                    Item::Copy { name, at, counts, steps, mirrored } => {
                        assert!(!mirrored);
                        let repeated = *counts != [1, 1];
                        out.extend([17, if repeated { 0xb8 } else { 0xb0 }]);
                        text(&mut out, name);
                        at.iter().for_each(|v| signed(&mut out, *v));
                        let axes: &[usize] = match counts.map(|c| c > 1) {
                            [true, true] => &[0, 1],
                            [true, false] => &[0],
                            _ => &[1],
                        };
                        if repeated {
                            out.push(if axes.len() == 2 { 1 } else { 2 + axes[0] as u8 });
                            axes.iter().for_each(|&a| unsigned(&mut out, counts[a] as u64 - 2));
                            axes.iter().for_each(|&a| unsigned(&mut out, steps[a] as u64));
                        }
                    }
                }
            }
        }
        out.push(2);
        out.extend([0; 250]);
        out.push(1);
        let sum = crc32fast::hash(&out).to_le_bytes();
        out.extend(sum);
        out
    }

    /// What is in a cell.
    pub fn cell(&self, name: &str) -> &Vec<Item> {
        &self.cells.iter().find(|c| c.0 == name).unwrap_or_else(|| panic!("no cell {name}")).1
    }

    /// The same, to change.
    pub fn cell_mut(&mut self, name: &str) -> &mut Vec<Item> {
        &mut self.cells.iter_mut().find(|c| c.0 == name).unwrap_or_else(|| panic!("no cell {name}")).1
    }

    /// Rectangles and labels of a cell with all references resolved; none is mirrored.
    pub fn flat(&self, name: &str) -> Vec<Item> {
        let by_name: BTreeMap<&str, &Vec<Item>> = self.cells.iter().map(|(n, i)| (n.as_str(), i)).collect();
        let mut out = Vec::new();
        fn add(by_name: &BTreeMap<&str, &Vec<Item>>, name: &str, by: [i32; 2], out: &mut Vec<Item>) {
            for item in by_name[name] {
                if let Item::Copy { name, at, counts, steps, .. } = item {
                    for c in 0..i32::from(counts[0]) {
                        for r in 0..i32::from(counts[1]) {
                            let at = [by[0] + at[0] + c * steps[0], by[1] + at[1] + r * steps[1]];
                            add(by_name, name, at, out);
                        }
                    }
                } else {
                    let mut item = item.clone();
                    item.shift(by);
                    out.push(item);
                }
            }
        }
        add(&by_name, name, [0, 0], &mut out);
        out
    }
}

/// Whether a cell holds the cuts of some neighbouring nodes: its name begins with a digit.
pub fn is_pattern(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_digit())
}
