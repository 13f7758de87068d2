//! Scenes of the glass target: plates, and of one tile a slice of its index change, its ports and gratings, and what its
//! transfer matrix is beside the weights.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_glass::lowering::Lowering;
use pfmc_glass::mask::recompute::Pixels;
use pfmc_glass::reader::{Optics, Schedule};
use pfmc_glass::recompute::Written;
use pfmc_ir::backend::{NoProgress, Progress};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tile::{RealBlock, TileContent, TileId, TileSource};

use super::{Layers, Scene};
use crate::codes::E0005;
use crate::contents::Reference;
use crate::verify::{self, Opened};

/// Voxels of the picture of a slice along x and depth, at most.
const SLICE: [usize; 2] = [256, 128];
/// Pixels of the picture of a mask along each axis, at most.
const PIXELS: usize = 128;
/// Gratings that are shown, at most.
const GRATINGS: usize = 20_000;
/// Cells of the picture of weights along each axis.
const BINS: usize = 128;
/// Bars of the picture of errors, at most.
const BARS: usize = 128;

/// Heights of a letter in the side of a square.
const LETTERS: i64 = 45;

/// An output folder of the glass target.
pub struct Glass {
    /// Manifest and program.
    pub opened: Opened,
    lowering: Lowering,
    /// Contents of the tiles.
    pub reference: Reference,
    folder: std::path::PathBuf,
}

impl Glass {
    /// Opens a folder.
    ///
    /// # Errors
    /// Another target, or a damaged folder.
    pub fn open(folder: &Path) -> Result<Glass, Diagnostics> {
        let opened = verify::open_of(folder, "glass")?;
        let lowering = Lowering::parse(&opened.process.name, &opened.process.toml)?;
        let reference = Reference::open(&opened.program, folder)?;
        Ok(Glass { opened, lowering, reference, folder: folder.to_owned() })
    }

    /// The folder's schedule.
    ///
    /// # Errors
    /// A damaged one.
    pub fn schedule(&self, progress: &dyn Progress) -> Result<Schedule<'_>, Diagnostics> {
        Schedule::open(&self.lowering, &self.opened.program, &self.folder, progress)
    }

    /// The tiles in glass, or the one of a name.
    ///
    /// # Errors
    /// No such tile.
    pub fn tiles(&self, name: Option<&str>) -> Result<Vec<TileId>, Diagnostics> {
        let all = self.opened.program.tiles();
        let held = all.filter(|&(id, _)| self.opened.program.matrix_tile(id).is_some());
        let found: Vec<TileId> =
            held.filter(|(_, t)| name.is_none_or(|n| n == t.name)).map(|t| t.0).collect();
        match name {
            Some(name) if found.is_empty() => {
                let text = format!("the folder has no tile {name:?} in glass");
                Err(Diagnostic::error(&E0005, text).help("names of tiles are in manifest.json").into())
            }
            _ => Ok(found),
        }
    }
}

/// `plate<N>`, and of a tile, by default the one with the lowest signal-to-noise ratio, of a hologram `slice` and `ports`, of a mask `pixels`,
/// and `weights`.
///
/// # Errors
/// A damaged folder, and a tile that is not there.
pub fn scenes(glass: &Glass, tile: Option<&str>) -> Result<Vec<(String, Scene)>, Diagnostics> {
    let tiles = glass.tiles(tile)?;
    let schedule = glass.schedule(&NoProgress)?;
    let mut scenes: Vec<(String, Scene)> =
        plates(glass, &schedule).into_iter().map(|(p, s)| (format!("plate{p}"), s)).collect();
    let snr_db = |id: &TileId| {
        let entry = glass.opened.manifest.tiles.iter().find(|t| t.tile == *id);
        entry.and_then(|t| t.measures.get("snr_db")).copied().unwrap_or(f64::INFINITY)
    };
    let worst = tiles.into_iter().min_by(|a, b| snr_db(a).total_cmp(&snr_db(b)));
    if let Some(id) = worst {
        match schedule.optics(id)? {
            Optics::Hologram(written) => {
                scenes.push(("slice".into(), slice(&schedule, id, written)?));
                scenes.push(("ports".into(), ports(written)));
            }
            Optics::Mask(mask) => scenes.push(("pixels".into(), pixels(&schedule, id, mask)?)),
        }
        let (TileContent::Real(want), TileContent::Real(got)) =
            (glass.reference.tile(id)?, schedule.tile(id)?)
        else {
            return Ok(scenes);
        };
        let name = glass.opened.program.tiles.get(id.index()).map_or("", |t| &t.name);
        scenes.push(("weights".into(), weights(name, &want, &got)));
    }
    Ok(scenes)
}

/// Each plate with its zones, its tiles in the colours of the model's layers, marks and coupon, as far as they go.
fn plates(glass: &Glass, schedule: &Schedule<'_>) -> BTreeMap<u32, Scene> {
    let mut scenes: BTreeMap<u32, Scene> = BTreeMap::new();
    let mut layers = Layers::default();
    let put = |scenes: &mut BTreeMap<u32, Scene>, plate: u32, area: [i64; 4], shade: [u8; 3]| {
        let scene = scenes.entry(plate).or_insert_with(|| Scene { area, ..Scene::default() });
        let a = scene.area;
        scene.area = [a[0].min(area[0]), a[1].min(area[1]), a[2].max(area[2]), a[3].max(area[3])];
        scene.shapes.push((area, shade));
    };
    let mut plate_of = BTreeMap::new();
    for zone in schedule.zones() {
        if let [x0, y0, x1, y1] = zone.rect_nm[..] {
            put(&mut scenes, zone.plate, [x0, y0, x1, y1], [0xe4, 0xec, 0xf4]);
        }
        plate_of.extend(zone.tiles.iter().map(|t| (*t, zone.plate)));
    }
    for tile in &glass.opened.manifest.tiles {
        let (Some(region), Some(plate)) = (&tile.region, plate_of.get(&tile.tile.0)) else { continue };
        let area = [region.min_nm[0], region.min_nm[1], region.max_nm[0], region.max_nm[1]];
        put(&mut scenes, *plate, area, layers.colour(tile));
    }
    let half = i64::from(schedule.header().mark_nm / 2);
    for zone in schedule.zones() {
        for at in zone.marks_nm.chunks_exact(2) {
            put(
                &mut scenes,
                zone.plate,
                [at[0] - half, at[1] - half, at[0] + half, at[1] + half],
                [0xc0, 0x20, 0x20],
            );
        }
    }
    for coupon in schedule.coupons() {
        let &[w, h] = &coupon.size_nm[..] else { continue };
        let count = (coupon.corners_nm.len() / 2).max(1);
        for (i, at) in coupon.corners_nm.chunks_exact(2).enumerate() {
            let shade = [(220 - 200 * i / count) as u8; 3];
            put(&mut scenes, coupon.plate, [at[0], at[1], at[0] + w, at[1] + h], shade);
        }
    }
    for scene in scenes.values_mut() {
        let [x0, y0, x1, y1] = scene.area;
        let rim = ((x1 - x0).max(y1 - y0) / 50).max(1);
        scene.area = [x0 - rim, y0 - rim, x1 + rim, y1 + rim];
        scene.shapes.insert(0, (scene.area, [0xf8, 0xf8, 0xf8]));
        layers.list(scene);
    }
    scenes
}

/// From blue through white to red for -1 to 1.
fn diverging(v: f64) -> [u8; 3] {
    let fade = (255.0 * (1.0 - v.abs().min(1.0))) as u8;
    if v < 0.0 { [fade, fade, 255] } else { [255, fade, fade] }
}

/// Index change less its mean in the plane of x and depth through the middle of a tile, its corner at the surface's side.
fn slice(schedule: &Schedule<'_>, id: TileId, written: &Written) -> Result<Scene, Diagnostics> {
    let levels = schedule.levels(id)?;
    let [nx, ny, nz] = written.voxels;
    let [px, _, pz] = written.pitch_um.map(|um| (um * 1e3).round() as i64);
    let [wide, deep] = [nx.min(SLICE[0]), nz.min(SLICE[1])];
    let most = written.delta.iter().fold(f32::MIN_POSITIVE, |m, d| m.max(d.abs()));
    let (width, depth) = (wide as i64 * px, deep as i64 * pz);
    let letters = width / 30;
    let mut scene = Scene { area: [0, 0, width, depth + 2 * letters], ..Scene::default() };
    scene.shapes.push((scene.area, [0xff, 0xff, 0xff]));
    for z in 0..deep {
        for x in 0..wide {
            let level = levels.get((z * ny + ny / 2) * nx + x).copied().unwrap_or(0);
            let delta = written.delta.get(usize::from(level)).copied().unwrap_or(0.0);
            let (x, y) = (x as i64 * px, depth - (z as i64 + 1) * pz);
            scene.shapes.push(([x, y, x + px, y + pz], diverging(f64::from(delta / most))));
        }
    }
    let text = format!("x {wide} of {nx}, layers {deep} of {nz}");
    scene.texts.push(([width / 2, depth + letters], letters, text));
    Ok(scene)
}

/// What each pixel of a mask makes of light, from blue for -1 to red for 1: its first corner, inputs upwards.
fn pixels(schedule: &Schedule<'_>, id: TileId, mask: &Pixels) -> Result<Scene, Diagnostics> {
    let levels = schedule.levels(id)?;
    let [nx, ny, layers] = mask.voxels;
    let [wide, high] = [nx, ny].map(|n| n.min(PIXELS));
    let side = schedule.header().pitch_nm.first().map_or(1, |nm| i64::from(*nm));
    let (width, height) = (wide as i64 * side, high as i64 * side);
    let letters = (width / 60).max(side / 2);
    let mut scene = Scene { area: [0, 0, width, height + 2 * letters], ..Scene::default() };
    scene.shapes.push((scene.area, [0xff, 0xff, 0xff]));
    for y in 0..high {
        for x in 0..wide {
            let light = mask.pixel(&levels, y * nx + x, None);
            let (x, y) = (x as i64 * side, y as i64 * side);
            scene.shapes.push(([x, y, x + side, y + side], diverging(light)));
        }
    }
    let text = format!("outputs {wide} of {nx}, inputs {high} of {ny}, {layers} layers");
    scene.texts.push(([width / 2, height + letters], letters, text));
    Ok(scene)
}

/// Places of dots in a square of `side` units at `corner`, and the text above it.
fn dots(scene: &mut Scene, corner: [i64; 2], side: i64, title: &str, all: &[([f64; 2], [u8; 3])]) {
    let most = [0, 1].map(|a| all.iter().fold(f64::MIN_POSITIVE, |m, (k, _)| m.max(k[a].abs())));
    let [x0, y0] = corner;
    scene.shapes.push(([x0, y0, x0 + side, y0 + side], [0xf8, 0xf8, 0xf8]));
    let (middle, thin) = (side / 2, side / 500);
    scene.shapes.push(([x0, y0 + middle, x0 + side, y0 + middle + thin], [0xc0; 3]));
    scene.shapes.push(([x0 + middle, y0, x0 + middle + thin, y0 + side], [0xc0; 3]));
    let scale = most.map(|m| 0.48 * side as f64 / m);
    for (k, shade) in all {
        let [x, y] = [x0 + middle + (k[0] * scale[0]) as i64, y0 + middle + (k[1] * scale[1]) as i64];
        scene.shapes.push(([x - 2 * thin, y - 2 * thin, x + 2 * thin, y + 2 * thin], *shade));
    }
    let text = format!("{title}: +-{:.3} and +-{:.3} rad/um", most[0], most[1]);
    scene.texts.push(([x0 + middle, y0 + side + side / 25], side / LETTERS, text));
}

/// Transverse wave vectors of inputs (blue) and outputs (red), and the gratings between them along x and depth.
fn ports(written: &Written) -> Scene {
    let inputs: Vec<[f64; 3]> = (0..written.columns * written.rows_in).map(|p| written.input_k(p)).collect();
    let outputs: Vec<[f64; 3]> =
        (0..written.columns * written.rows_out).map(|p| written.output_k(p)).collect();
    let transverse =
        |all: &[[f64; 3]], shade| -> Vec<_> { all.iter().map(|k| ([k[0], k[1]], shade)).collect() };
    let mut of_ports = transverse(&inputs, [0x20, 0x50, 0xc0]);
    of_ports.extend(transverse(&outputs, [0xc0, 0x30, 0x20]));
    let (count, side) = (inputs.len() * outputs.len(), 100_000);
    // A step that shares no factor with the number of inputs, so that all of them are seen.
    let least = count.div_ceil(GRATINGS).max(1);
    let step = (least..).find(|&step| gcd(step, inputs.len()) == 1).unwrap_or(least);
    let gratings: Vec<_> = (0..count)
        .step_by(step)
        .map(|g| {
            let (i, o) = (inputs[g % inputs.len()], outputs[g / inputs.len()]);
            ([o[0] - i[0], o[2] - i[2]], [0x40, 0x80, 0x40])
        })
        .collect();
    let mut scene = Scene { area: [0, 0, 2 * side + side / 10, side + side / 10], ..Scene::default() };
    scene.shapes.push((scene.area, [0xff, 0xff, 0xff]));
    dots(&mut scene, [0, 0], side, "kx, ky of inputs (left), outputs", &of_ports);
    dots(&mut scene, [side + side / 10, 0], side, "Kx, Kz of gratings", &gratings);
    scene
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How often a weight became what, darker for more, and the error of each output port beside the weights.
fn weights(name: &str, want: &RealBlock, got: &RealBlock) -> Scene {
    let side: i64 = 100_000;
    let mut scene = Scene { area: [0, 0, 2 * side + side / 10, side + side / 10], ..Scene::default() };
    scene.shapes.push((scene.area, [0xff, 0xff, 0xff]));
    scene.shapes.push(([0, 0, side, side], [0xf8, 0xf8, 0xf8]));
    let all = want.values.iter().chain(&got.values);
    let most = all.fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let bin = |v: f32| (((v / most + 1.0) * 0.5 * BINS as f32) as usize).min(BINS - 1);
    let mut counts = vec![0u32; BINS * BINS];
    for (w, g) in want.values.iter().zip(&got.values) {
        counts[bin(*g) * BINS + bin(*w)] += 1;
    }
    let top = f64::from(counts.iter().copied().max().unwrap_or(1).max(1)).ln_1p();
    let cell = side / BINS as i64;
    for (at, &count) in counts.iter().enumerate().filter(|c| *c.1 > 0) {
        let shade = (200.0 * (1.0 - f64::from(count).ln_1p() / top)) as u8;
        let [x, y] = [at % BINS, at / BINS].map(|v| v as i64 * cell);
        scene.shapes.push(([x, y, x + cell, y + cell], [shade, shade, 255]));
    }
    // Root mean square error of each column of weights, over that of the weights.
    let power: f64 =
        want.values.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / want.values.len().max(1) as f64;
    let mut errors = vec![0f64; want.n];
    for (w, g) in want.values.chunks(want.n.max(1)).zip(got.values.chunks(want.n.max(1))) {
        for (e, (w, g)) in errors.iter_mut().zip(w.iter().zip(g)) {
            *e += f64::from(w - g).powi(2);
        }
    }
    let together = want.n.div_ceil(BARS).max(1);
    let relative = |columns: &[f64]| {
        (columns.iter().sum::<f64>() / (columns.len() * want.k.max(1)) as f64 / power.max(f64::MIN_POSITIVE))
            .sqrt()
    };
    let bars: Vec<f64> = errors.chunks(together).map(relative).collect();
    let highest = bars.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(*v));
    let (left, wide) = (side + side / 10, side / bars.len().max(1) as i64);
    for (i, bar) in bars.iter().enumerate() {
        let x = left + i as i64 * wide;
        let height = (bar / highest * 0.95 * side as f64) as i64;
        scene.shapes.push(([x, 0, x + (wide * 4 / 5).max(1), height], [0xc0, 0x60, 0x30]));
    }
    let mut text =
        |x: i64, t: String| scene.texts.push(([x + side / 2, side + side / 25], side / LETTERS, t));
    text(0, format!("{name}: written over wanted, {:.3} to {:.3}", -most, most));
    text(left, format!("relative error by output, up to {:.4} rms", highest));
    scene
}
