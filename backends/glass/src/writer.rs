//! The plan of a program in glass, and its emission as a schedule.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use pfmc_ir::backend::{Emission, Figure, Forecast, Plan, Progress, Region, TileRecord};
use pfmc_ir::codes::E0001;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::estimate::{Sheet, Workload};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{RealBlock, Scheme, TileContent, TileId, TileSource};
use pfmc_ir::verify::Verified;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::budget::Budget;
use crate::codes::{E0602, E0608, E0609};
use crate::layout::{self, Layout};
use crate::lowering::{Accuracy, Block, Designer, Job, Lowering, Space};
use crate::process::Process;
use crate::schedule::{self, Chunk, END, FILE, Header, Index, Kind, Level, MAGIC, Part, TileEntry, VERSION};
use crate::spool::{self, Spool};
use crate::time::{self, Seconds};
use crate::{estimate, size};

/// Bytes that tiles designed at the same time may need together.
const DESIGN_MEMORY: u64 = 700 << 20;
/// zstd's level for chunks: levels are nearly random, more effort finds nothing.
const ZSTD_LEVEL: i32 = 1;

/// A tile with what it is and takes.
pub(crate) struct Member {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) block: Block,
    pub(crate) space: Space,
}

/// A placed program.
pub struct GlassPlan<'a> {
    pub(crate) lowering: &'a Lowering,
    program: &'a Verified<TileProgram>,
    /// By tile.
    pub(crate) members: BTreeMap<u32, Member>,
    pub(crate) layout: Layout,
}

impl<'a> GlassPlan<'a> {
    /// Chooses geometries and places every matrix tile.
    ///
    /// # Errors
    /// Tiles without a realisation, and tiles that fit no plate.
    pub fn new(lowering: &'a Lowering, program: &'a Verified<TileProgram>) -> Result<Self, Diagnostics> {
        let mut diags = Diagnostics::new();
        let mut members = BTreeMap::new();
        let mut known: BTreeMap<(usize, usize), (Block, Space)> = BTreeMap::new();
        for (id, tile) in program.tiles() {
            let Some((inputs, outputs, scheme)) = program.matrix_tile(id) else { continue };
            if scheme != Scheme::Real {
                diags.push(
                    Diagnostic::error(
                        &E0602,
                        format!(
                            "tile {} ({}) has scheme {scheme}; glass holds real weights only",
                            id, tile.name
                        ),
                    )
                    .at(&tile.origin),
                );
                continue;
            }
            let (block, space) = match known.get(&(inputs, outputs)) {
                Some(known) => known.clone(),
                None => match lowering.block(inputs, outputs) {
                    Ok(block) => {
                        let space = lowering.space(&block, inputs, outputs);
                        known.insert((inputs, outputs), (block.clone(), space.clone()));
                        (block, space)
                    }
                    Err(e) => {
                        diags.extend(Diagnostics(e.0.into_iter().map(|d| d.at(&tile.origin)).collect()));
                        continue;
                    }
                },
            };
            let name = format!("tile {id} ({})", tile.name);
            if let Err(e) = lowering.refuse(&block, inputs, &name) {
                diags.push(e.at(&tile.origin));
            }
            members.insert(id.0, Member { inputs, outputs, block, space });
        }
        diags.check()?;
        let items: Vec<layout::Item> = members
            .iter()
            .filter_map(|(&id, m)| {
                let origin = &program.tiles.get(id as usize)?.origin;
                Some(layout::Item { id, space: &m.space, origin })
            })
            .collect();
        let layout = layout::place(lowering.base(), &items)?;
        Ok(GlassPlan { lowering, program, members, layout })
    }

    /// What the process says whichever way weights become voxels.
    pub(crate) fn process(&self) -> &'a Process {
        self.lowering.base()
    }

    /// Voxels inside tiles.
    pub(crate) fn tile_voxels(&self) -> u64 {
        self.members.values().map(|m| m.space.voxel_count()).sum()
    }

    /// Volume of so many voxels.
    fn volume_mm3(&self, voxels: u64) -> f64 {
        voxels as f64 * self.process().voxel_um.iter().product::<f64>() * 1e-9
    }

    fn header(&self) -> Header {
        let p = self.process();
        let nm = |um: f64| (um * 1e3).round() as i64;
        let layers = self.layout.zones.iter().map(|z| z.layers).max().unwrap_or(0);
        let measured = !p.calibration.depth.is_empty();
        let energies = p.calibration.energy_nj.iter().map(|e| Some(*e)).chain(std::iter::repeat(None));
        let levels = self.lowering.levels().into_iter().zip(energies);
        let mut header = Header {
            process: p.name.clone(),
            method: self.lowering.method().into(),
            wavelength_um: p.wavelength_um,
            index: p.index,
            pitch_nm: p.voxel_um.iter().map(|&um| nm(um) as u32).collect(),
            spots: p.spots.to_vec(),
            levels: levels.map(|(l, energy)| Level { pulse_energy_nj: energy, ..l }).collect(),
            level_bits: self.lowering.level_bits(),
            order: p.raster.order().into(),
            z_convention: "depth in glass".into(),
            plate_nm: p.plate_mm.iter().map(|&mm| nm(mm * 1e3)).collect(),
            raster: p.raster.name().into(),
            stage_convention: p.focus.name().into(),
            depth_ratio: p.depth_ratio(),
            stage_z_nm: (0..layers).map(|l| p.stage_z_nm(l)).collect(),
            mark_nm: nm(p.mark_um) as u32,
            mark_level: u32::from(p.levels - 1),
            layer_energy: (0..if measured { layers } else { 0 })
                .map(|l| p.calibration.at(p.layer_depth_um(l)).energy)
                .collect(),
            interleave: p.interleave,
            ..Header::default()
        };
        self.lowering.header(&mut header);
        header
    }

    /// The coupon of a plate.
    fn coupon(&self, plate: u32) -> schedule::Coupon {
        let c = &self.layout.coupon;
        schedule::Coupon {
            plate,
            corners_nm: c.corners_nm.iter().flatten().copied().collect(),
            size_nm: c.size_nm.to_vec(),
            depth_nm: self.process().depth_nm(),
            layers: c.layers as u32,
        }
    }

    /// Content of a tile, checked against the program.
    fn weights(&self, source: &dyn TileSource, id: u32, m: &Member) -> Result<RealBlock, Diagnostics> {
        let origin = self.program.tiles.get(id as usize).map(|t| t.origin.clone()).unwrap_or_default();
        match source.tile(TileId(id))? {
            TileContent::Real(b)
                if b.k == m.inputs
                    && b.n == m.outputs
                    && b.values.len() == b.k * b.n
                    && b.values.iter().all(|v| v.is_finite()) =>
            {
                Ok(b)
            }
            _ => Err(Diagnostic::error(
                &E0609,
                format!("tile {id} is not {} x {} finite real weights", m.inputs, m.outputs),
            )
            .at(&origin)
            .into()),
        }
    }

    /// Designs one tile and packs its layers.
    fn realise(
        &self,
        source: &dyn TileSource,
        id: u32,
        m: &Member,
        job: &Job,
        spool: &Spool,
    ) -> Result<Realised, Diagnostics> {
        let weights = self.weights(source, id, m)?;
        let weights_sha256 = weights_sha256(&weights);
        let key = Spool::key(self.lowering, id, &weights_sha256, [m.inputs, m.outputs]);
        let spooled = spool.get(&key).filter(|r| r.parts.len() == m.space.voxels[2]);
        if let Some(r) = spooled.and_then(Realised::spooled) {
            return Ok(r);
        }
        let d = job.design(&weights, id);
        let least = self.process().snr_min_db;
        if d.record.gain != 0.0 && d.record.snr_db < least {
            let origin = self.program.tiles.get(id as usize).map(|t| t.origin.clone()).unwrap_or_default();
            return Err(Diagnostic::error(
                &E0608,
                format!("tile {id} reaches {:.1} dB, below the required {least} dB", d.record.snr_db),
            )
            .at(&origin)
            .into());
        }
        let ([nx, ny, _], bits) = (m.space.voxels, self.lowering.level_bits());
        let parts: Result<Vec<Part>, std::io::Error> =
            d.levels.par_chunks(nx * ny).map(|levels| pack(id, levels, nx, bits)).collect();
        let parts = parts.map_err(|e| {
            Diagnostics::from(Diagnostic::error(&E0001, format!("compressing tile {id}: {e}")))
        })?;
        let levels_sha256 = Sha256::digest(&d.levels).to_vec();
        let realised = Realised {
            parts,
            counts: schedule::count_levels(&d.levels),
            design: schedule::Tile { levels_sha256, weights_sha256, ..d.record },
            accuracy: d.accuracy,
        };
        spool.put(&realised.record(key));
        Ok(realised)
    }

    /// Voxels that are written, coupons included.
    pub(crate) fn written_voxels(&self) -> u64 {
        let coupons = self.layout.coupon.voxels * u64::from(self.layout.plates);
        self.layout.zones.iter().map(|z| z.voxels).sum::<u64>() + coupons
    }

    /// Time to write zones and coupons.
    pub(crate) fn write_time(&self) -> Seconds {
        let mut write: Seconds = self.layout.zones.iter().map(|z| z.time).sum();
        for _ in 0..self.layout.plates {
            write += time::coupon(self.process(), self.layout.coupon.corners_nm.len());
        }
        write
    }

    /// Output ports of a tile.
    pub(crate) fn ports(&self, m: &Member) -> usize {
        self.lowering.ports(m.outputs)
    }

    /// Memory that designing a tile takes.
    pub(crate) fn memory_bytes(&self, m: &Member) -> u64 {
        self.lowering.memory_bytes(&m.block, &m.space)
    }
}

/// A designed tile with its layers packed.
struct Realised {
    /// For each layer.
    parts: Vec<Part>,
    /// Voxels of each level.
    counts: Vec<u64>,
    /// Its record without number, name and place.
    design: schedule::Tile,
    /// Unless all weights are 0.
    accuracy: Option<Accuracy>,
}

impl Realised {
    /// The tile as it is spooled.
    fn record(&self, key: Vec<u8>) -> spool::Record {
        spool::Record {
            key,
            parts: self.parts.clone(),
            counts: self.counts.clone(),
            design: Some(self.design.clone()),
            accuracy: self.accuracy.clone(),
        }
    }

    /// A tile that was spooled.
    fn spooled(r: spool::Record) -> Option<Realised> {
        Some(Realised { parts: r.parts, counts: r.counts, design: r.design?, accuracy: r.accuracy })
    }
}

/// SHA-256 of the weights as little-endian f32, `[input][output]`.
pub(crate) fn weights_sha256(weights: &RealBlock) -> Vec<u8> {
    let mut h = Sha256::new();
    for v in &weights.values {
        h.update(v.to_le_bytes());
    }
    h.finalize().to_vec()
}

/// One layer of a tile, packed at 4 or 8 bits a level.
pub(crate) fn pack(tile: u32, levels: &[u8], nx: usize, bits: u32) -> Result<Part, std::io::Error> {
    let mut packed = Vec::with_capacity(levels.len());
    let mut line_crc32 = Vec::with_capacity(levels.len() / nx);
    for line in levels.chunks_exact(nx) {
        let start = packed.len();
        match bits {
            4 => packed.extend(line.chunks(2).map(|p| p[0] | p.get(1).copied().unwrap_or(0) << 4)),
            _ => packed.extend(line),
        }
        line_crc32.push(crc32fast::hash(&packed[start..]));
    }
    let levels = zstd::bulk::compress(&packed, ZSTD_LEVEL)?.into();
    Ok(Part { tile, line_crc32, levels })
}

/// A file that counts what goes through it.
struct Counted {
    file: BufWriter<File>,
    at: u64,
    name: String,
}

impl Counted {
    fn put(&mut self, bytes: &[u8]) -> Result<u64, Diagnostics> {
        let at = self.at;
        self.file.write_all(bytes).map_err(|e| io_error(&self.name, &e))?;
        self.at += bytes.len() as u64;
        Ok(at)
    }
}

fn io_error(name: &str, e: &std::io::Error) -> Diagnostics {
    Diagnostic::error(&E0001, format!("{name}: {e}")).into()
}

impl Plan for GlassPlan<'_> {
    fn figures(&self) -> Vec<Figure> {
        let weights: u64 = self.members.values().map(|m| (m.inputs * m.outputs) as u64).sum();
        let tile_voxels = self.tile_voxels();
        let zones = &self.layout.zones;
        let plates = f64::from(self.layout.plates);
        let (written, write) = (self.written_voxels(), self.write_time());
        let one = self.members.values().map(|m| self.memory_bytes(m)).max().unwrap_or(0);
        let zone_voxels = zones
            .iter()
            .map(|z| {
                z.tiles
                    .iter()
                    .filter_map(|t| self.members.get(&t.0))
                    .map(|m| m.space.voxel_count())
                    .sum::<u64>()
            })
            .max()
            .unwrap_or(0);
        let size = size::schedule_bytes(self);
        let spool = zone_voxels as f64 * size / tile_voxels.max(1) as f64;
        let mut figures = vec![
            Figure::new("tiles", self.members.len() as f64, ""),
            Figure::new("weights", weights as f64, ""),
            Figure::new("plates", plates, ""),
            Figure::new("zones", zones.len() as f64, ""),
            Figure::new("tile volume", self.volume_mm3(tile_voxels), "mm3"),
            Figure::new("written volume", self.volume_mm3(written), "mm3"),
            Figure::new("tile voxels", tile_voxels as f64, ""),
            Figure::new("voxels a used weight", tile_voxels as f64 / (weights.max(1)) as f64, ""),
            Figure::new("written voxels", written as f64, ""),
            Figure::new("write time", write.total(), "s"),
            Figure::new("expected size", size, "B"),
            Figure::new("memory a worker", one as f64, "B"),
            Figure::new("memory for a zone", spool, "B"),
        ];
        let after = figures.iter().position(|f| f.name == "write time").map_or(0, |i| i + 1);
        let terms = write.terms().into_iter().filter(|t| t.1 > 0.0);
        let mut parts: Vec<Figure> =
            terms.map(|(name, s)| Figure::new(format!("  of it {name}"), s, "s")).collect();
        parts.push(Figure::new("  duty", write.duty(), ""));
        figures.splice(after..after, parts);
        figures
    }

    fn estimate(&self, work: &Workload, sheet: Sheet) -> Result<Sheet, Diagnostics> {
        estimate::planned(self, work, sheet)
    }

    fn hardest(&self, source: &dyn TileSource) -> Result<Option<RealBlock>, Diagnostics> {
        let tiles: Vec<TileId> = self.members.keys().copied().map(TileId).collect();
        self.lowering.hardest(&tiles, source)
    }

    fn forecast(&self, hardest: &RealBlock) -> Result<Option<Forecast>, Diagnostics> {
        let shapes: BTreeMap<[usize; 2], &Block> =
            self.members.values().map(|m| ([m.inputs, self.ports(m)], &m.block)).collect();
        let reached = self.lowering.forecast(&shapes, hardest)?.and_then(|worst| worst.reached());
        let (voxels, time) = (self.written_voxels(), self.write_time());
        Ok(reached.map(|reached| Forecast {
            reached,
            volume_mm3: self.volume_mm3(voxels),
            time_s: time.total(),
        }))
    }

    fn emit(
        &self,
        source: &dyn TileSource,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Emission, Diagnostics> {
        let file = File::create(dir.join(FILE)).map_err(|e| io_error(FILE, &e))?;
        let mut out = Counted { file: BufWriter::with_capacity(1 << 20, file), at: 0, name: FILE.into() };
        out.put(MAGIC)?;
        out.put(&VERSION.to_le_bytes())?;
        let mut index =
            Index { header: out.put(&schedule::frame(Kind::Header, &self.header()))?, ..Index::default() };
        progress.begin("design", self.members.len() as u64);
        let spool = Spool::beside(dir);
        let mut designer = Designer::default();
        let mut records = BTreeMap::new();
        let mut worst: Option<Accuracy> = None;
        let mut least = f64::INFINITY;
        let (mut errors, mut signals) = ([0f64; 2], 0f64);
        let depth_nm = self.process().depth_nm();
        for (number, zone) in self.layout.zones.iter().enumerate() {
            let number = number as u32;
            let [x0, y0] = zone.corner_nm;
            if index.coupons.len() == zone.plate as usize {
                index.coupons.push(out.put(&schedule::frame(Kind::Coupon, &self.coupon(zone.plate)))?);
            }
            index.zones.push(out.put(&schedule::frame(
                Kind::Zone,
                &schedule::Zone {
                    zone: number,
                    plate: zone.plate,
                    rect_nm: vec![x0, y0, x0 + zone.size_nm[0], y0 + zone.size_nm[1]],
                    depth_nm,
                    layers: zone.layers as u32,
                    fill_level: u32::from(self.process().fill_level()),
                    tiles: zone.tiles.iter().map(|t| t.0).collect(),
                    marks_nm: zone.marks_nm.iter().flatten().copied().collect(),
                },
            ))?);
            let members: Vec<(u32, [i64; 2], &Member)> =
                zone.tiles.iter().filter_map(|&(id, at)| Some((id, at, self.members.get(&id)?))).collect();
            let mut realised: Vec<Realised> = Vec::with_capacity(members.len());
            while realised.len() < members.len() {
                // As many tiles at once as threads and memory allow.
                let (mut bytes, mut batch) = (0u64, Vec::new());
                for &(id, _, m) in members[realised.len()..].iter().take(rayon::current_num_threads()) {
                    bytes += self.memory_bytes(m);
                    if !batch.is_empty() && bytes > DESIGN_MEMORY {
                        break;
                    }
                    let Some(job) = designer.job(self.lowering, &m.block, [m.inputs, self.ports(m)]) else {
                        return Err(
                            Diagnostic::error(&E0602, format!("tile {id} is of another method")).into()
                        );
                    };
                    batch.push((id, m, job));
                }
                let done: Vec<Result<Realised, Diagnostics>> = batch
                    .par_iter()
                    .map(|(id, m, job)| {
                        let r = self.realise(source, *id, m, job, &spool);
                        progress.advance(1);
                        r
                    })
                    .collect();
                let mut diags = Diagnostics::new();
                for d in done {
                    match d {
                        Ok(r) => realised.push(r),
                        Err(e) => diags.extend(e),
                    }
                }
                diags.check()?;
            }
            let mut entries = Vec::with_capacity(members.len());
            for (&(id, at, m), r) in members.iter().zip(&realised) {
                let voxels = m.space.voxels;
                let tile = self.program.tiles.get(id as usize);
                let record = out.put(&schedule::frame(
                    Kind::Tile,
                    &schedule::Tile {
                        tile: id,
                        name: tile.map(|t| t.name.clone()).unwrap_or_default(),
                        zone: number,
                        voxels: voxels.iter().map(|&v| v as u32).collect(),
                        inputs: m.inputs as u32,
                        outputs: m.outputs as u32,
                        origin_nm: vec![at[0], at[1], depth_nm],
                        ..r.design.clone()
                    },
                ))?;
                entries.push(TileEntry { tile: id, record, layers: vec![0; voxels[2]] });
                let mut measures = BTreeMap::new();
                let weights = (m.inputs * m.outputs) as f64;
                measures.insert("voxels_per_weight".to_owned(), m.space.voxel_count() as f64 / weights);
                measures.extend(schedule::level_measures(&r.counts));
                if r.design.gain != 0.0 {
                    let ratios = self.lowering.ratios(&r.design);
                    measures.extend(ratios.into_iter().map(|(name, db)| (name.to_owned(), db)));
                    least = least.min(r.design.snr_db);
                    if let Some(accuracy) = &r.accuracy {
                        signals += weights;
                        errors[0] += weights * accuracy.levels();
                        errors[1] += weights * accuracy.total();
                        if worst.as_ref().is_none_or(|w| accuracy.total() > w.total()) {
                            worst = Some(accuracy.clone());
                        }
                    }
                }
                let pitch = self.process().voxel_um;
                let nm = |a: usize| (voxels[a] as f64 * pitch[a] * 1e3).round() as i64;
                let region = Region {
                    file: FILE.to_owned(),
                    name: format!("plate {} zone {number}", zone.plate),
                    min_nm: [at[0], at[1], depth_nm],
                    max_nm: [at[0] + nm(0), at[1] + nm(1), depth_nm + nm(2)],
                };
                records.insert(id, TileRecord { tile: TileId(id), region, measures });
            }
            // Places of the tiles of a group among the zone's.
            let place: BTreeMap<u32, usize> = members.iter().enumerate().map(|(i, m)| (m.0, i)).collect();
            for layer in (0..zone.layers).rev() {
                for group in &zone.groups {
                    let at = out.at;
                    let mut parts = Vec::with_capacity(group.len());
                    for i in group.iter().filter_map(|id| place.get(id)) {
                        let part = realised.get_mut(*i).and_then(|r| r.parts.get_mut(layer));
                        let entry = entries.get_mut(*i).and_then(|e| e.layers.get_mut(layer));
                        if let (Some(part), Some(entry)) = (part, entry) {
                            parts.push(std::mem::take(part));
                            *entry = at;
                        }
                    }
                    let chunk = Chunk { zone: number, layer: layer as u32, parts };
                    out.put(&schedule::frame(Kind::Chunk, &chunk))?;
                }
            }
            index.tiles.extend(entries);
        }
        index.tiles.sort_by_key(|t| t.tile);
        let frame = schedule::frame(Kind::Index, &index);
        let at = out.put(&frame)?;
        let mut trailer = Vec::with_capacity(schedule::TRAILER_LEN);
        trailer.extend(at.to_le_bytes());
        trailer.extend((frame.len() as u64).to_le_bytes());
        trailer.extend(crc32fast::hash(&trailer).to_le_bytes());
        trailer.extend(END);
        out.put(&trailer)?;
        let size = out.at;
        out.file.flush().map_err(|e| io_error(FILE, &e))?;
        out.file.get_ref().sync_all().map_err(|e| io_error(FILE, &e))?;
        spool.finish();
        let mut figures = vec![Figure::new("schedule.pfmg", size as f64, "B")];
        if let Some(worst) = &worst {
            let mut put = |name: &str, value: f64, unit: &str| figures.push(Figure::new(name, value, unit));
            put("all tiles, levels", Budget::db(errors[0] / signals), "dB");
            put("all tiles, with noise", Budget::db(errors[1] / signals), "dB");
            put("worst tile, levels", least, "dB");
            put("worst tile, with noise", Budget::db(worst.total()), "dB");
            for term in worst.terms.iter().filter(|t| t.value > 0.0) {
                put(&format!("  of it {}", term.name), Budget::db(term.value), "dB");
            }
            for t in &worst.tolerances {
                put(&format!("1 dB: {}", t.name), t.value, &t.unit);
            }
        }
        let tiles = records.into_values().collect();
        let reached = worst.and_then(|worst| worst.reached());
        Ok(Emission { files: vec![FILE.to_owned()], tiles, figures, reached })
    }
}
