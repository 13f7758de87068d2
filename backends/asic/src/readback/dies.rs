//! Whether dies hold every tile once, and nothing that harms one.
//!
//! Beside tiles a die has outlines of lanes, straps, rings and pins. Their shapes lie on the pin metals of a macro and above; over a
//! tile they are on a pin of it or on met5; and the cuts of met4 and met5 join all power pins of all tiles to the ring
//! of their net, and the two rings never. What exactly is drawn is not compared with anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::program::TileProgram;

use super::base::Frame;
use super::cuts::Findings;
use super::library::{Library, Shape, StructureId, Unresolved};
use super::records::Element;
use crate::codes::{E0509, E0514};
use crate::process::{Layer, Process};

/// `[x0, y0, x1, y1]`.
type Area = [i64; 4];

/// Most shapes of a die beside its tiles.
const MOST: u64 = 1 << 26;
/// Names of the two nets of power.
const POWER: [&str; 2] = ["VPWR", "VGND"];

/// Where a tile lies: number of its die, its boundary there, and the height of the outline of lanes below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub die: u32,
    pub area: Area,
    pub lanes: Option<i64>,
}

/// Every tile lies in one die, once, unturned, inside the reticle and clear of the others. Gives the place of each.
///
/// # Errors
/// Everything else.
pub fn check<'f>(
    process: &Process,
    program: &TileProgram,
    library: &Library,
    frame: &dyn Fn(usize) -> Option<&'f Frame>,
) -> Result<Vec<Option<Place>>, Diagnostics> {
    let mut places = vec![None; program.tiles.len()];
    let names: Vec<String> = program.tiles.iter().map(|t| super::rom_name(&t.name)).collect();
    let by_name: HashMap<&[u8], usize> = names.iter().enumerate().map(|(i, n)| (n.as_bytes(), i)).collect();
    let mut placed = vec![0u32; program.tiles.len()];
    let mut findings = Findings::new();
    for number in 0u32.. {
        let name = format!("die{number}");
        let Some(cell) = library.find(name.as_bytes()) else { break };
        let report = |text: String| Diagnostic::error(&E0514, format!("cell {name}: {text}"));
        let mut die = Die::new(process);
        let mut elements = library.elements(cell);
        loop {
            let element = match elements.read() {
                Ok(Some(element)) => element,
                Ok(None) => break,
                Err(e) => return Err(library.explain("placement", &Unresolved::Malformed(cell, e)).into()),
            };
            match element {
                Element::Rectangle { layer, area }
                    if layer == [process.layers.boundary.layer, process.layers.boundary.datatype]
                        && die.outline.is_none() =>
                {
                    die.outline = Some(area);
                }
                Element::Copy { name, turn, at, counts, .. } if by_name.contains_key(name) => {
                    let Some(&tile) = by_name.get(name) else { continue };
                    if !turn.is_none() || counts != [1, 1] {
                        let name = String::from_utf8_lossy(name);
                        findings.push(|| report(format!("tile {name} is turned or repeated")));
                    }
                    if let Some(placed) = placed.get_mut(tile) {
                        *placed += 1;
                    }
                    if let Some(frame) = frame(tile) {
                        let area = moved(frame.boundary, at);
                        die.tiles.push((area, tile, at));
                        if let Some(place) = places.get_mut(tile) {
                            *place = Some(Place { die: number, area, lanes: None });
                        }
                    }
                }
                Element::Copy { name, .. } if process.mux().is_none() => {
                    let name = String::from_utf8_lossy(name);
                    findings.push(|| report(format!("{name} is no tile of the program")));
                }
                Element::Copy { .. } | Element::Rectangle { .. } | Element::Label { .. }
                    if process.mux().is_some() => {}
                _ => findings.push(|| report("it holds a shape that is not its boundary".to_owned())),
            }
        }
        let reticle = [process.reticle.width_nm, process.reticle.height_nm];
        match die.outline {
            None => findings.push(|| report("it has no boundary".to_owned())),
            Some(o) => {
                if o[2] - o[0] > reticle[0] || o[3] - o[1] > reticle[1] {
                    findings.push(|| report(format!("its boundary {o:?} nm is larger than the reticle")));
                }
                for (a, tile, _) in &die.tiles {
                    if a[0] < o[0] || a[1] < o[1] || a[2] > o[2] || a[3] > o[3] {
                        let tile = &program.tiles[*tile].name;
                        findings.push(|| report(format!("tile {tile} at {a:?} nm leaves the boundary")));
                    }
                }
            }
        }
        overlaps(die.tiles.iter().map(|t| (t.0, t.1)).collect(), &mut |a, b| {
            let (a, b) = (&program.tiles[a].name, &program.tiles[b].name);
            findings.push(|| report(format!("tiles {a} and {b} overlap")));
        });
        if process.mux().is_some() {
            die.furniture(library, cell, &by_name)?;
            die.lanes(&mut places);
            die.judge(program, frame, &mut |power, text| {
                let code = if power { &E0509 } else { &E0514 };
                findings.push(|| Diagnostic::error(code, format!("cell {name}: {text}")));
            });
        }
    }
    for (tile, &count) in program.tiles.iter().zip(&placed) {
        if count != 1 {
            findings.push(|| {
                Diagnostic::error(&E0514, format!("tile {} is placed {count} times", tile.name))
                    .at(&tile.origin)
            });
        }
    }
    findings.into_diagnostics().check()?;
    Ok(places)
}

fn moved([x0, y0, x1, y1]: Area, at: [i64; 2]) -> Area {
    [x0 + at[0], y0 + at[1], x1 + at[0], y1 + at[1]]
}

fn meet(a: Area, b: Area) -> bool {
    a[0] <= b[2] && b[0] <= a[2] && a[1] <= b[3] && b[1] <= a[3]
}

/// Whether `inner` lies in `outer`.
fn within(inner: Area, outer: Area) -> bool {
    outer[0] <= inner[0] && outer[1] <= inner[1] && inner[2] <= outer[2] && inner[3] <= outer[3]
}

/// What a die holds.
struct Die<'a> {
    process: &'a Process,
    outline: Option<Area>,
    /// Boundary, index and origin.
    tiles: Vec<(Area, usize, [i64; 2])>,
    /// Boundaries other than the die's and those of tiles.
    blocks: Vec<Area>,
    met3: Vec<Area>,
    met4: Vec<Area>,
    met5: Vec<Area>,
    cuts: Vec<Area>,
    /// Labels of met5.
    labels: Vec<([i64; 2], String)>,
    /// Layers that only tiles may have, with the first shape there.
    foreign: BTreeMap<Layer, Area>,
}

impl<'a> Die<'a> {
    fn new(process: &'a Process) -> Self {
        Die {
            process,
            outline: None,
            tiles: Vec::new(),
            blocks: Vec::new(),
            met3: Vec::new(),
            met4: Vec::new(),
            met5: Vec::new(),
            cuts: Vec::new(),
            labels: Vec::new(),
            foreign: BTreeMap::new(),
        }
    }

    /// Collects all shapes of the die but those of tiles.
    fn furniture(
        &mut self,
        library: &Library,
        die: StructureId,
        tiles: &HashMap<&[u8], usize>,
    ) -> Result<(), Diagnostics> {
        let (l, d) = (&self.process.layers, &self.process.die);
        let mut first = true;
        let mut found = |layer: [i16; 2], shape: Shape<'_>| {
            let layer = Layer { layer: layer[0], datatype: layer[1] };
            match shape {
                Shape::Rectangle(area) => {
                    let list = [
                        (l.met3, &mut self.met3),
                        (l.met4, &mut self.met4),
                        (d.met5, &mut self.met5),
                        (d.via4, &mut self.cuts),
                        (l.boundary, &mut self.blocks),
                    ];
                    if layer == l.boundary && Some(area) == self.outline && std::mem::take(&mut first) {
                        return;
                    }
                    match list.into_iter().find(|(of, _)| *of == layer) {
                        Some((_, list)) => list.push(area),
                        None if [l.met3_pin, l.met4_pin, d.met5_pin].contains(&layer) => {}
                        None => drop(self.foreign.entry(layer).or_insert(area)),
                    }
                }
                Shape::Label(at, text) if layer == d.met5_label => {
                    self.labels.push((at, String::from_utf8_lossy(text).into_owned()));
                }
                Shape::Label(..) if [l.met3_label, l.met4_label].contains(&layer) => {}
                Shape::Label([x, y], _) => drop(self.foreign.entry(layer).or_insert([x, y, x, y])),
                Shape::Foreign => drop(self.foreign.entry(layer).or_insert([0; 4])),
            }
        };
        let skip = |name: &[u8]| tiles.contains_key(name);
        (library.resolve_without(die, MOST, &skip, &mut |layer, shape| found(layer, shape)))
            .map_err(|e| Diagnostics::from(library.explain("what lies beside tiles", &e)))
    }

    /// Finds the outlines of lanes, as wide as their tiles and right below them.
    fn lanes(&self, places: &mut [Option<Place>]) {
        let below: HashMap<[i64; 3], i64> =
            self.blocks.iter().map(|b| ([b[0], b[2], b[3]], b[3] - b[1])).collect();
        for (area, tile, _) in &self.tiles {
            if let Some(Some(place)) = places.get_mut(*tile) {
                place.lanes = below.get(&[area[0], area[2], area[1]]).copied();
            }
        }
    }

    /// Reports what harms a tile; whether it is about power.
    fn judge<'f>(
        &self,
        program: &TileProgram,
        frame: &dyn Fn(usize) -> Option<&'f Frame>,
        found: &mut dyn FnMut(bool, String),
    ) {
        for (layer, area) in &self.foreign {
            found(false, format!("a shape at {area:?} nm on layer {layer}, which tiles alone may have"));
        }
        let mut blocks: Vec<(Area, usize)> = self.tiles.iter().enumerate().map(|(i, t)| (t.0, i)).collect();
        blocks.extend(self.blocks.iter().enumerate().map(|(i, &b)| (b, self.tiles.len() + i)));
        let count = self.tiles.len();
        overlaps(blocks, &mut |a, b| {
            if a.max(b) >= count {
                found(false, "an outline of lanes overlaps a tile or another outline".to_owned());
            }
        });
        // Tiles by the strips of x that they are in.
        let mut strips: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (i, (area, ..)) in self.tiles.iter().enumerate() {
            for strip in area[0].div_euclid(STRIP)..=area[2].div_euclid(STRIP) {
                strips.entry(strip).or_default().push(i);
            }
        }
        let l = &self.process.layers;
        for (layer, list) in [(l.met3, &self.met3), (l.met4, &self.met4)] {
            for &area in list {
                let mut near = BTreeSet::new();
                for strip in area[0].div_euclid(STRIP)..=area[2].div_euclid(STRIP) {
                    near.extend(strips.get(&strip).into_iter().flatten().copied());
                }
                for tile in near.into_iter().filter_map(|i| self.tiles.get(i)) {
                    let (boundary, index, at) = *tile;
                    if !(area[0] < boundary[2]
                        && boundary[0] < area[2]
                        && area[1] < boundary[3]
                        && boundary[1] < area[3])
                    {
                        continue;
                    }
                    let good = frame(index).is_some_and(|frame| {
                        frame.pins.iter().any(|(on, _, pin)| {
                            let pin = moved(*pin, at);
                            *on == layer && pin[0] <= area[0] && area[2] <= pin[2] && area[3] <= pin[3]
                        })
                    });
                    if !good {
                        let name = program.tiles.get(index).map_or("", |t| &t.name);
                        found(
                            false,
                            format!(
                                "a shape at {area:?} nm on layer {layer} lies over tile {name} and on no pin of it"
                            ),
                        );
                    }
                }
            }
        }
        self.power(program, frame, found);
    }

    /// Checks what cuts and metal join.
    fn power<'f>(
        &self,
        program: &TileProgram,
        frame: &dyn Fn(usize) -> Option<&'f Frame>,
        found: &mut dyn FnMut(bool, String),
    ) {
        // Upright and level metal, and what power pins are where.
        let mut upright = self.met4.clone();
        let mut pins = Vec::new();
        for &(_, index, at) in &self.tiles {
            for (layer, net, area) in frame(index).map_or(&[][..], |f| &f.pins) {
                if *layer == self.process.layers.met4 {
                    if let Some(net) = POWER.iter().position(|n| n == net) {
                        pins.push((upright.len(), net, index));
                    }
                    upright.push(moved(*area, at));
                }
            }
        }
        let count = upright.len();
        let mut joined = Joined::new(count + self.met5.len());
        let (by_x, by_y) = (Strips::new(&upright, 0), Strips::new(&self.met5, 1));
        by_x.pairs(&upright, &mut |a, b| joined.join(a, b));
        by_y.pairs(&self.met5, &mut |a, b| joined.join(count + a, count + b));
        for &cut in &self.cuts {
            let below = by_x.around(&upright, cut);
            let above = by_y.around(&self.met5, cut);
            match (below, above) {
                (Some(a), Some(b)) => joined.join(a, count + b),
                _ => found(true, format!("a cut at {cut:?} nm is not between met4 and met5")),
            }
        }
        // The rings are where labels are.
        let mut roots = [const { BTreeSet::new() }; 2];
        for ([x, y], text) in &self.labels {
            let Some(net) = POWER.iter().position(|n| n == text) else { continue };
            if let Some(i) = by_y.around(&self.met5, [*x, *y, *x, *y])
                && let Some(roots) = roots.get_mut(net)
            {
                roots.insert(joined.root(count + i));
            }
        }
        if self.tiles.is_empty() {
            return;
        }
        let [supply, ground] = &roots;
        if supply.len() != 1 || ground.len() != 1 {
            found(true, "a net of power is labelled on no met5 or on several that do not meet".to_owned());
        }
        if !supply.is_disjoint(ground) {
            found(true, "the supply and ground meet".to_owned());
        }
        for (i, net, tile) in pins {
            if !roots.get(net).is_some_and(|roots| roots.contains(&joined.root(i))) {
                let tile = program.tiles.get(tile).map_or("", |t| &t.name);
                let net = POWER.get(net).copied().unwrap_or_default();
                found(true, format!("a pin {net} of tile {tile} is not joined to the ring of that net"));
            }
        }
    }
}

/// Width of strips in which shapes are looked up.
const STRIP: i64 = 8_000;

/// Shapes by the strips along one axis that they are in.
struct Strips {
    axis: usize,
    by_strip: BTreeMap<i64, Vec<usize>>,
}

impl Strips {
    fn new(shapes: &[Area], axis: usize) -> Self {
        let mut by_strip: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (i, area) in shapes.iter().enumerate() {
            for strip in area[axis].div_euclid(STRIP)..=area[axis + 2].div_euclid(STRIP) {
                by_strip.entry(strip).or_default().push(i);
            }
        }
        Strips { axis, by_strip }
    }

    /// Hands on every two shapes that touch.
    fn pairs(&self, shapes: &[Area], found: &mut dyn FnMut(usize, usize)) {
        let across = 1 - self.axis;
        for strip in self.by_strip.values() {
            let mut sorted: Vec<(i64, usize)> =
                strip.iter().filter_map(|&i| Some((shapes.get(i)?[across], i))).collect();
            sorted.sort_unstable();
            let mut open: Vec<usize> = Vec::new();
            for (low, i) in sorted {
                let Some(&area) = shapes.get(i) else { continue };
                open.retain(|&o| shapes.get(o).is_some_and(|s| s[across + 2] >= low));
                for &o in &open {
                    if shapes.get(o).is_some_and(|&s| meet(s, area)) {
                        found(o, i);
                    }
                }
                open.push(i);
            }
        }
    }

    /// A shape that an area lies in.
    fn around(&self, shapes: &[Area], area: Area) -> Option<usize> {
        let strip = self.by_strip.get(&area[self.axis].div_euclid(STRIP))?;
        strip.iter().copied().find(|&i| shapes.get(i).is_some_and(|&s| within(area, s)))
    }
}

/// Sets that grow together.
struct Joined(Vec<usize>);

impl Joined {
    fn new(count: usize) -> Self {
        Joined((0..count).collect())
    }

    fn root(&mut self, of: usize) -> usize {
        let mut at = of;
        while let Some(&next) = self.0.get(at) {
            if next == at {
                break;
            }
            // Halve the way for those who come after.
            let after = self.0.get(next).copied().unwrap_or(next);
            if let Some(slot) = self.0.get_mut(at) {
                *slot = after;
            }
            at = after;
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        if let Some(slot) = self.0.get_mut(a.max(b)) {
            *slot = a.min(b);
        }
    }
}

/// Reports tiles whose areas share a point inside: a sweep along x.
fn overlaps(mut areas: Vec<(Area, usize)>, found: &mut dyn FnMut(usize, usize)) {
    areas.sort_unstable();
    let mut open: Vec<(Area, usize)> = Vec::new();
    for (a, tile) in areas {
        open.retain(|(b, _)| b[2] > a[0]);
        for (b, other) in &open {
            if a[1] < b[3] && b[1] < a[3] {
                found(*other, tile);
            }
        }
        open.push((a, tile));
    }
}
