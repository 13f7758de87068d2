//! Places tiles in zones and zones on plates.
//!
//! Tiles of equal depth go side by side in shelves of a zone, with gaps that let each be lit alone;
//! the zone's rectangle, margins included, is written completely where tiles are holograms, so that the mean index is the
//! same wherever light of a port passes. A zone is bounded in write time, and zones keep a moat
//! between them. Each plate has a coupon at its lower corner, and each zone marks in its moat ([`crate::marks`]).

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::origin::Origin;

use crate::codes::E0607;
use crate::lowering::Space;
use crate::marks::{self, Coupon};
use crate::process::{Process, Raster};
use crate::time::{self, Seconds, Shelf};

/// A tile to place.
pub struct Item<'a> {
    /// Its number, kept in [`Zone::tiles`].
    pub id: u32,
    /// What it takes.
    pub space: &'a Space,
    /// Where it comes from, for messages.
    pub origin: &'a Origin,
}

/// A zone on a plate. Nanometres.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    /// Plate, from 0.
    pub plate: u32,
    /// Lower corner and extent along x and y, margins included.
    pub corner_nm: [i64; 2],
    /// Extent along x and y.
    pub size_nm: [i64; 2],
    /// Layers.
    pub layers: usize,
    /// Tile id and lower corner on the plate, by id.
    pub tiles: Vec<(u32, [i64; 2])>,
    /// Tiles whose lines are written together, in order: a shelf by y, its tiles by x; or each tile by itself.
    pub groups: Vec<Vec<u32>>,
    /// Centres of the marks.
    pub marks_nm: [[i64; 2]; marks::MARKS],
    /// Voxels that are written, marks included.
    pub voxels: u64,
    /// Write time.
    pub time: Seconds,
}

/// All zones, in the order they are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Zones.
    pub zones: Vec<Zone>,
    /// Number of plates.
    pub plates: u32,
    /// What each plate has at its lower corner.
    pub coupon: Coupon,
}

/// A zone being filled; coordinates relative to its corner, in raster steps.
struct Open {
    layers: usize,
    room: Room,
    /// Right end and lower end of the current shelf, and its height.
    cursor: [i64; 2],
    shelf: i64,
    extent: [i64; 2],
    width: i64,
    tiles: Vec<(u32, [i64; 2])>,
    /// Shelves: first row, and number and rows of each tile.
    shelves: Vec<(i64, Vec<(u32, i64)>)>,
}

/// Room that tiles of a depth need around them, in raster steps: what the widest walk-off among them
/// asks for, so that no tile's beams pass through another or leave the written glass.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    gap: [i64; 2],
    margin: [i64; 2],
}

impl Room {
    fn widen(&mut self, process: &Process, g: &Space) {
        let gap = steps(g.gap_um, process);
        let margin = steps(g.margin_um, process);
        for a in 0..2 {
            self.gap[a] = self.gap[a].max(gap[a]);
            self.margin[a] = self.margin[a].max(margin[a]);
        }
    }
}

impl Open {
    fn new(process: &Process, g: &Space, room: Room, aspect: f64) -> Open {
        let margin = room.margin;
        let spots = f64::from(process.spots[0] * process.spots[1]);
        let rate = time::spots_a_second(process) / spots / f64::from(process.passes());
        let volume = process.zone_limit_s * rate / g.voxels[2] as f64;
        let side = (aspect * volume * process.voxel_um[1] / process.voxel_um[0]).sqrt();
        let usable = (process.plate_mm[0] - 2.0 * process.edge_mm) * 1e3 / process.voxel_um[0];
        let width = side.min(usable).floor() as i64 - margin[0];
        Open {
            layers: g.voxels[2],
            room,
            cursor: margin,
            shelf: 0,
            extent: [0; 2],
            width,
            tiles: Vec::new(),
            shelves: Vec::new(),
        }
    }

    /// Write time, with a tile of some rows more if one is given.
    fn time(&self, process: &Process, more: Option<&Space>) -> Seconds {
        let mut extent = self.extent;
        let mut shelves: Vec<(i64, Vec<f64>)> =
            self.shelves.iter().map(|(y, tiles)| (*y, tiles.iter().map(|t| t.1 as f64).collect())).collect();
        if let Some(g) = more {
            let (at, with, wraps) = self.fit(g);
            extent = with;
            match shelves.last_mut() {
                Some(last) if !wraps => last.1.push(g.voxels[1] as f64),
                _ => shelves.push((at[1], vec![g.voxels[1] as f64])),
            }
        }
        // Margins belong to the shelves beside them.
        let ends: Vec<i64> = shelves.iter().skip(1).map(|s| s.0).chain([extent[1]]).collect();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let shelves: Vec<Shelf> = shelves
            .into_iter()
            .zip(starts.zip(&ends))
            .map(|((_, heights), (from, to))| Shelf { heights, rows: (to - from) as f64 })
            .collect();
        time::zone(process, extent[0] as f64, &shelves, self.layers, marks::MARKS)
    }

    /// Where a tile would go, and the extent of the zone with it, margins included.
    fn fit(&self, g: &Space) -> ([i64; 2], [i64; 2], bool) {
        let Room { gap, margin } = self.room;
        let size = [g.voxels[0] as i64, g.voxels[1] as i64];
        let wraps = !self.tiles.is_empty() && self.cursor[0] + size[0] > self.width;
        let at = if wraps { [margin[0], self.cursor[1] + self.shelf + gap[1]] } else { self.cursor };
        let extent = [0, 1].map(|a| self.extent[a].max(at[a] + size[a] + margin[a]));
        (at, extent, wraps)
    }

    fn add(&mut self, id: u32, g: &Space) {
        let (at, extent, wraps) = self.fit(g);
        if wraps {
            self.cursor[1] = at[1];
            self.shelf = 0;
        }
        self.cursor[0] = at[0] + g.voxels[0] as i64 + self.room.gap[0];
        self.shelf = self.shelf.max(g.voxels[1] as i64);
        self.extent = extent;
        self.tiles.push((id, at));
        match self.shelves.last_mut() {
            Some(last) if !wraps => last.1.push((id, g.voxels[1] as i64)),
            _ => self.shelves.push((at[1], vec![(id, g.voxels[1] as i64)])),
        }
    }
}

/// Micrometres as raster steps along x and y, rounded up.
fn steps(um: [f64; 2], process: &Process) -> [i64; 2] {
    [0, 1].map(|a| (um[a] / process.voxel_um[a]).ceil() as i64)
}

/// Voxels of a zone that are written, and of its marks; those of its tiles alone where glass around them is not written.
fn voxels(process: &Process, zone: &Open, items: &[Item]) -> u64 {
    let mark = [0, 1].map(|a| (process.mark_um / process.voxel_um[a]).ceil() as u64);
    let all = if process.fill_written {
        let [x, y] = zone.extent.map(|v| v as u64);
        x.saturating_mul(y).saturating_mul(zone.layers as u64)
    } else {
        let held: BTreeSet<u32> = zone.tiles.iter().map(|t| t.0).collect();
        items.iter().filter(|i| held.contains(&i.id)).map(|i| i.space.voxel_count()).sum()
    };
    all.saturating_add(marks::MARKS as u64 * mark[0] * mark[1])
}

/// Widths of a full zone over its height that are tried.
const ASPECTS: [f64; 6] = [2.0, 0.25, 0.5, 1.0, 4.0, 8.0];

/// Places all tiles, in zones of the shape that takes the least time to write.
///
/// # Errors
/// Tiles that do not fit a plate.
pub fn place(process: &Process, items: &[Item]) -> Result<Layout, Diagnostics> {
    let [first, others @ ..] = ASPECTS;
    let mut best = place_as(process, items, first)?;
    let time = |l: &Layout| l.zones.iter().map(|z| z.time).sum::<Seconds>().total();
    for layout in others.into_iter().filter_map(|aspect| place_as(process, items, aspect).ok()) {
        if layout.plates <= best.plates && time(&layout) < time(&best) {
            best = layout;
        }
    }
    Ok(best)
}

/// Places all tiles in zones of about one shape.
fn place_as(process: &Process, items: &[Item], aspect: f64) -> Result<Layout, Diagnostics> {
    let mut diags = Diagnostics::new();
    let pitch = process.voxel_um.map(|um| (um * 1e3).round() as i64);
    let edge = (process.edge_mm * 1e6).round() as i64;
    let coupon = Coupon::new(process)?;
    // Zones lie above the coupon.
    let low = coupon.height_nm(process);
    let mut usable = [0, 1].map(|a| (process.plate_mm[a] * 1e6).round() as i64 - 2 * edge);
    usable[1] -= low;
    let mut order: Vec<&Item> = items.iter().collect();
    order.sort_by_key(|i| {
        let [nx, ny, nz] = i.space.voxels;
        (std::cmp::Reverse([nz, ny, nx]), i.id)
    });
    let mut rooms: BTreeMap<usize, Room> = BTreeMap::new();
    for g in items.iter().map(|i| i.space) {
        rooms.entry(g.voxels[2]).or_default().widen(process, g);
    }
    let mut open: Option<Open> = None;
    let mut closed: Vec<Open> = Vec::new();
    for item in order {
        let g = item.space;
        let room = rooms.get(&g.voxels[2]).copied().unwrap_or_default();
        let alone = Open::new(process, g, room, aspect).fit(g).1;
        let bottom = process.clearance_um + g.voxels[2] as f64 * process.voxel_um[2];
        if (0..2).any(|a| alone[a].saturating_mul(pitch[a]) > usable[a]) || bottom > process.plate_mm[2] * 1e3
        {
            let um = |a: usize| alone[a] as f64 * process.voxel_um[a];
            diags.push(
                Diagnostic::error(
                    &E0607,
                    format!(
                        "tile {} takes {:.0} x {:.0} um with its margins and ends {bottom:.0} um deep; the plate has {} x {} x {} mm",
                        item.id, um(0), um(1), process.plate_mm[0], process.plate_mm[1], process.plate_mm[2]
                    ),
                )
                .at(item.origin),
            );
            continue;
        }
        if let Err(e) = process.calibration.reaches(process.clearance_um, bottom) {
            diags.extend(Diagnostics(e.0.into_iter().map(|d| d.at(item.origin)).collect()));
            continue;
        }
        let field =
            g.voxels[0] as f64 * process.voxel_um[0] + 2.0 * room.margin[0] as f64 * process.voxel_um[0];
        if process.raster == Raster::Field && field > process.field_um {
            let message = format!(
                "tile {} with what is around it is {field:.0} um wide, a scanner's field {} um",
                item.id, process.field_um
            );
            diags.push(Diagnostic::error(&E0607, message).at(item.origin));
            continue;
        }
        let full = open.as_ref().is_some_and(|o| {
            let extent = o.fit(g).1;
            o.layers != g.voxels[2]
                || o.time(process, Some(g)).total() > process.zone_limit_s
                || (0..2).any(|a| extent[a].saturating_mul(pitch[a]) > usable[a])
        });
        if full {
            closed.extend(open.take());
        }
        open.get_or_insert_with(|| Open::new(process, g, room, aspect)).add(item.id, g);
    }
    closed.extend(open);
    if diags.has_errors() {
        return Err(diags);
    }

    let moat = (process.zone_moat_um * 1e3).ceil() as i64;
    let mut layout = Layout { zones: Vec::new(), plates: 0, coupon };
    let (mut cursor, mut shelf, mut plate) = ([0i64; 2], 0i64, 0u32);
    for zone in closed {
        let size = [0, 1].map(|a| zone.extent[a] * pitch[a]);
        if cursor[0] + size[0] > usable[0] {
            cursor = [0, cursor[1] + shelf + moat];
            shelf = 0;
        }
        if cursor[1] + size[1] > usable[1] {
            plate += 1;
            (cursor, shelf) = ([0; 2], 0);
        }
        let corner = [edge + cursor[0], edge + low + cursor[1]];
        let mut tiles: Vec<(u32, [i64; 2])> =
            zone.tiles.iter().map(|&(id, at)| (id, [0, 1].map(|a| corner[a] + at[a] * pitch[a]))).collect();
        tiles.sort_unstable();
        let mut groups: Vec<Vec<u32>> =
            zone.shelves.iter().map(|s| s.1.iter().map(|t| t.0).collect()).collect();
        if process.raster == Raster::Field {
            groups = tiles.iter().map(|t| vec![t.0]).collect();
        }
        let rect = [corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]];
        layout.zones.push(Zone {
            plate,
            corner_nm: corner,
            size_nm: size,
            layers: zone.layers,
            tiles,
            groups,
            marks_nm: marks::places(rect, (process.mark_offset_um * 1e3).round() as i64),
            voxels: voxels(process, &zone, items),
            time: zone.time(process, None),
        });
        cursor[0] += size[0] + moat;
        shelf = shelf.max(size[1]);
        layout.plates = plate + 1;
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::born::tests::process;
    use crate::geometry::{Geometry, Request};

    #[test]
    fn tiles_keep_their_gaps_stay_in_their_zone_and_zones_keep_the_moat() {
        let mut process = process();
        process.base.zone_limit_s = 20.0;
        process.base.plate_mm = [12.0, 8.0, 2.0];
        let sizes =
            [(64, 2, 2), (128, 3, 2), (48, 8, 8), (64, 2, 2), (64, 2, 2), (8, 1, 1), (48, 8, 8), (48, 8, 8)];
        let geometries: Vec<Geometry> = (0..40)
            .map(|i| sizes[i % 8])
            .map(|(c, i, o)| Geometry::new(&process, Request::new(c, i, o)).unwrap())
            .collect();
        let origin = Origin::default();
        let least = process.base.gap_min_um;
        let spaces: Vec<Space> = geometries
            .iter()
            .map(|g| Space { voxels: g.voxels, gap_um: g.gap_um(least), margin_um: g.margin_um(least) })
            .collect();
        let items: Vec<Item> = spaces
            .iter()
            .enumerate()
            .map(|(i, space)| Item { id: i as u32, space, origin: &origin })
            .collect();
        let layout = place(&process.base, &items).unwrap();
        assert!(layout.plates > 1 && layout.zones.len() > 4, "{layout:?}");
        let mut seen = [0; 40];
        for zone in &layout.zones {
            for &(id, at) in &zone.tiles {
                seen[id as usize] += 1;
                let g = &geometries[id as usize];
                let margin = g.margin_um(25.0);
                for a in 0..2 {
                    let size = (g.voxels[a] as f64 * g.voxel_um[a] * 1e3) as i64;
                    let m = (margin[a] * 1e3) as i64;
                    assert!(
                        at[a] - m >= zone.corner_nm[a]
                            && at[a] + size + m <= zone.corner_nm[a] + zone.size_nm[a]
                    );
                    assert_eq!((at[a] - zone.corner_nm[a]) % (g.voxel_um[a] * 1e3) as i64, 0);
                }
                for &(other, b) in zone.tiles.iter().filter(|t| t.0 > id) {
                    let o = &geometries[other as usize];
                    let (ga, gb) = (g.gap_um(25.0), o.gap_um(25.0));
                    let apart = (0..2).any(|a| {
                        let gap = (ga[a].max(gb[a]) * 1e3) as i64;
                        let end = |at: i64, g: &Geometry| {
                            at + (g.voxels[a] as f64 * g.voxel_um[a] * 1e3) as i64 + gap
                        };
                        end(at[a], g) <= b[a] || end(b[a], o) <= at[a]
                    });
                    assert!(apart, "{id} {other}");
                }
            }
        }
        assert!(seen.iter().all(|&s| s == 1));
        for (i, a) in layout.zones.iter().enumerate() {
            for b in layout.zones[..i].iter().filter(|b| b.plate == a.plate) {
                let apart = (0..2).any(|x| {
                    a.corner_nm[x] + a.size_nm[x] + 1_400_000 <= b.corner_nm[x]
                        || b.corner_nm[x] + b.size_nm[x] + 1_400_000 <= a.corner_nm[x]
                });
                assert!(apart);
            }
        }
        process.base.plate_mm = [4.5, 4.5, 1.0];
        assert!(place(&process.base, &items).unwrap_err().to_string().contains("E0607"));
    }
}
