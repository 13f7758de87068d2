//! Read-back of a schedule: framing and checksums, levels, and the transfer matrix they make.
//!
//! Uses the file, the process and the program's shapes only; nothing of the plan.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use pfmc_ir::backend::{Disturbed, Progress, ReadBack, Region};
use pfmc_ir::codes::E0001;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::random::mix;
use pfmc_ir::tile::{RealBlock, Scheme, TileContent, TileId, TileSource};
use pfmc_ir::verify::Verified;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::beside;
use crate::budget;
use crate::calibration::Line;
use crate::codes::{E0611, E0612, E0613, E0614, E0615, E0616, E0617, E0618, E0619, E0620, E0622};
use crate::faults::Faults;
use crate::geometry::{Geometry, VOXELS_MAX};
use crate::hologram::{FormFactor, Hologram, PORT_MAP};
use crate::lowering::Lowering;
use crate::mask::recompute::{Faults as MaskFaults, Pixels};
use crate::mask::{self, Mask};
use crate::process::Raster;
use crate::propagate::Grid;
use crate::recompute::{Transfer, Written};
use crate::schedule::{
    Chunk, Coupon, END, FILE, Frame, Header, Index, Kind, Level, MAGIC, SNR_MAX_DB, TRAILER_LEN, Tile,
    TileEntry, VERSION, Zone, count_levels, level_measures, sign, sign_bytes,
};

/// Decibels a recomputed signal-to-noise ratio may differ from the recorded one.
const TOLERANCE_DB: f64 = 0.1;

/// A tile's record, where its layers are, and what they make.
pub(crate) struct Entry {
    pub(crate) record: Tile,
    layers: Vec<u64>,
    optics: Optics,
}

/// What the file says about a tile, in physical units, by method.
pub enum Optics {
    /// A volume hologram.
    Hologram(Written),
    /// A mask of pixels.
    Mask(Pixels),
}

impl Optics {
    /// Voxels along x, y, depth.
    pub fn voxels(&self) -> [usize; 3] {
        match self {
            Optics::Hologram(w) => w.voxels,
            Optics::Mask(p) => p.voxels,
        }
    }

    /// Distance along x and y that light needs beside a tile: to the next tile, and to the end of the zone, micrometres.
    fn room_um(&self, least: f64) -> [[f64; 2]; 2] {
        match self {
            Optics::Hologram(w) => {
                [w.input_walk_off_um(), w.walk_off_um()].map(|side| side.map(|um| um.max(least)))
            }
            Optics::Mask(_) => [[least; 2]; 2],
        }
    }
}

/// A decoded schedule.
pub struct Schedule<'a> {
    program: &'a Verified<TileProgram>,
    map: Mmap,
    header: Header,
    zones: Vec<Zone>,
    coupons: Vec<Coupon>,
    written: BTreeMap<u32, Entry>,
    pub(crate) lowering: Lowering,
    /// Relative wavelength and tilt of the light of tiles, as calibrated.
    pub(crate) light: BTreeMap<u32, [f64; 2]>,
}

/// Maps a file into memory, read-only.
#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is only ever read, as bytes. Should another process change the file meanwhile,
    // the bytes may change under us; every record is checked by length and checksum before use and
    // no reference to its content outlives the decoding of one record.
    unsafe { Mmap::map(file) }
}

/// Why a frame cannot be used.
enum Damage {
    /// Not a frame of the expected kind within the file.
    Framing(String),
    /// The body does not have its checksum; here it is anyway.
    Checksum(bytes::Bytes),
}

/// The frame at an offset.
fn frame(map: &[u8], at: u64, kind: Kind) -> Result<bytes::Bytes, Damage> {
    let broken = |what: String| Damage::Framing(what);
    let at = usize::try_from(at)
        .ok()
        .filter(|&a| a < map.len())
        .ok_or_else(|| broken("offset outside the file".into()))?;
    let rest = &map[at..];
    let len = prost::decode_length_delimiter(rest).map_err(|e| broken(e.to_string()))?;
    let head = prost::length_delimiter_len(len);
    let body = head
        .checked_add(len)
        .and_then(|end| rest.get(head..end))
        .ok_or_else(|| broken("frame longer than the file".into()))?;
    let f = Frame::decode(body).map_err(|e| broken(e.to_string()))?;
    if f.kind != kind as i32 {
        return Err(broken(format!("frame of kind {} where {kind:?} belongs", f.kind)));
    }
    if crc32fast::hash(&f.body) == f.crc32 { Ok(f.body) } else { Err(Damage::Checksum(f.body)) }
}

/// A record other than a chunk.
fn record<M: Message + Default>(map: &[u8], at: u64, kind: Kind) -> Result<M, Diagnostics> {
    let bad = |what: &str| {
        Diagnostics::from(Diagnostic::error(&E0613, format!("{FILE}: {kind:?} record at byte {at}: {what}")))
    };
    match frame(map, at, kind) {
        Ok(body) => M::decode(body).map_err(|e| bad(&e.to_string())),
        Err(Damage::Framing(what)) => Err(bad(&what)),
        Err(Damage::Checksum(_)) => Err(bad("wrong checksum")),
    }
}

fn little_u64(b: &[u8]) -> u64 {
    b.iter().rev().fold(0, |a, &v| a << 8 | u64::from(v))
}

/// The index, after magic, version and trailer.
fn index(map: &[u8]) -> Result<Index, Diagnostics> {
    if map.len() < MAGIC.len() + 4 || &map[..MAGIC.len()] != MAGIC {
        return Err(Diagnostic::error(
            &E0611,
            format!("{FILE} does not begin with {:?}", String::from_utf8_lossy(MAGIC)),
        )
        .into());
    }
    let version = little_u64(&map[MAGIC.len()..MAGIC.len() + 4]);
    if version != u64::from(VERSION) {
        return Err(Diagnostic::error(
            &E0611,
            format!("{FILE} has format version {version}; this program reads {VERSION}"),
        )
        .into());
    }
    let cut = |what: &str| {
        Diagnostics::from(
            Diagnostic::error(&E0612, format!("{FILE}: {what}")).help("emit the schedule again"),
        )
    };
    let trailer =
        map.len().checked_sub(TRAILER_LEN).and_then(|at| map.get(at..)).ok_or_else(|| cut("no trailer"))?;
    if &trailer[20..] != END {
        return Err(cut("no end mark; the file is cut short"));
    }
    if u64::from(crc32fast::hash(&trailer[..16])) != little_u64(&trailer[16..20]) {
        return Err(cut("the trailer has a wrong checksum"));
    }
    let at = little_u64(&trailer[..8]);
    match frame(map, at, Kind::Index) {
        Ok(body) => Index::decode(body).map_err(|e| cut(&format!("index: {e}"))),
        Err(Damage::Framing(what)) => Err(cut(&format!("index: {what}"))),
        Err(Damage::Checksum(_)) => Err(cut("the index has a wrong checksum")),
    }
}

/// Facts of the file that every tile shares.
struct Facts<'a> {
    pitch_nm: [i64; 3],
    fill_level: u8,
    plate_nm: [i64; 3],
    gap_min_um: f64,
    raster: Raster,
    layers: usize,
    method: Method<'a>,
}

/// Facts of a method.
enum Method<'a> {
    Hologram(HologramFacts<'a>),
    Mask(MaskFacts<'a>),
}

/// Facts that all holograms share.
struct HologramFacts<'a> {
    process: &'a Hologram,
    pitch_um: [f64; 3],
    wave_number: f64,
    form: FormFactor,
    delta: [f32; 16],
    blur: Vec<f64>,
    history: Vec<f64>,
    interleave: u32,
    propagated: bool,
}

/// Facts that all masks share.
struct MaskFacts<'a> {
    process: &'a Mask,
    /// Azimuth and retardance of a layer, radians.
    levels: Vec<[f64; 2]>,
}

/// Differences of a header from its process.
struct Differences<'a> {
    process: &'a str,
    found: Diagnostics,
}

impl Differences<'_> {
    fn same(&mut self, what: &str, file: f64, want: f64) {
        let near = (file - want).abs() <= 1e-9 * want.abs();
        if !near {
            self.found.push(Diagnostic::error(
                &E0615,
                format!("{FILE}: {what} is {file}, process {} has {want}", self.process),
            ));
        }
    }

    /// As `same`, of what may be left out.
    fn same_option(&mut self, what: &str, file: Option<f64>, want: Option<f64>) {
        if file != want {
            self.same(what, file.unwrap_or(f64::NAN), want.unwrap_or(f64::NAN));
        }
    }

    fn list(&mut self, what: &str, file: &[f64], want: &[f64]) {
        self.same(&format!("number of {what}"), file.len() as f64, want.len() as f64);
        file.iter().zip(want).for_each(|(f, w)| self.same(what, *f, *w));
    }

    fn word(&mut self, what: &str, file: &str, want: &str) {
        if file != want {
            let message = format!("{FILE}: {what} is {file:?}, expected {want:?}");
            self.found.push(Diagnostic::error(&E0615, message));
        }
    }
}

/// Checks the header against the process.
fn facts<'a>(h: &Header, lowering: &'a Lowering) -> Result<Facts<'a>, Diagnostics> {
    let process = lowering.base();
    let mut d = Differences { process: &process.name, found: Diagnostics::new() };
    d.word("method", &h.method, lowering.method());
    d.same("wavelength_um", h.wavelength_um, process.wavelength_um);
    d.same("index", h.index, process.index);
    let plate_nm = process.plate_mm.map(|mm| (mm * 1e6).round() as i64);
    let list = |nm: &[i64]| nm.iter().map(|v| *v as f64).collect::<Vec<f64>>();
    d.list("plate extents in nm", &list(&h.plate_nm), &list(&plate_nm));
    let levels = lowering.levels();
    d.same("number of levels", h.levels.len() as f64, levels.len() as f64);
    for (i, (l, want)) in h.levels.iter().zip(&levels).enumerate() {
        d.same(&format!("index change of level {i}"), l.dn, want.dn);
        d.same_option(&format!("azimuth of level {i}"), l.azimuth_deg, want.azimuth_deg);
    }
    d.same("bits of a level", f64::from(h.level_bits), f64::from(lowering.level_bits()));
    d.list(
        "spots of a voxel",
        &h.spots.iter().map(|s| f64::from(*s)).collect::<Vec<_>>(),
        &process.spots.map(f64::from),
    );
    let pitch_nm = process.voxel_um.map(|um| (um * 1e3).round() as i64);
    d.list("pitches in nm", &h.pitch_nm.iter().map(|p| f64::from(*p)).collect::<Vec<_>>(), &list(&pitch_nm));
    d.same("depth by stage travel", h.depth_ratio, process.depth_ratio());
    d.same("side of a mark in nm", f64::from(h.mark_nm), (process.mark_um * 1e3).round());
    d.same("level of the marks", f64::from(h.mark_level), f64::from(process.levels - 1));
    let measured = &process.calibration;
    d.same("interleave", f64::from(h.interleave), f64::from(process.interleave));
    for (l, level) in h.levels.iter().enumerate() {
        let want = measured.energy_nj.get(l).copied();
        d.same_option(&format!("pulse energy of level {l}"), level.pulse_energy_nj, want);
    }
    let factors = if measured.depth.is_empty() { 0 } else { h.stage_z_nm.len() };
    d.same("number of energies by layer", h.layer_energy.len() as f64, factors as f64);
    for (l, file) in h.layer_energy.iter().enumerate() {
        d.same(&format!("energy of layer {l}"), *file, measured.at(process.layer_depth_um(l)).energy);
    }
    for (layer, z) in h.stage_z_nm.iter().enumerate() {
        let want = process.stage_z_nm(layer);
        if *z != want {
            d.same(&format!("stage travel to layer {layer} in nm"), *z as f64, want as f64);
        }
    }
    for (what, got, want) in [
        ("process", &h.process, process.name.as_str()),
        ("raster", &h.raster, process.raster.name()),
        ("order", &h.order, process.raster.order()),
        ("convention of stage travel", &h.stage_convention, process.focus.name()),
        ("z convention", &h.z_convention, "depth in glass"),
    ] {
        d.word(what, got, want);
    }
    let method = match lowering {
        Lowering::Hologram(process) => Method::Hologram(hologram_facts(h, process, &mut d)),
        Lowering::Mask(process) => Method::Mask(mask_facts(h, process, &mut d)),
    };
    d.found.check()?;
    Ok(Facts {
        pitch_nm,
        fill_level: process.fill_level(),
        plate_nm,
        gap_min_um: process.gap_min_um,
        raster: process.raster,
        layers: h.stage_z_nm.len(),
        method,
    })
}

/// Checks what a header says of holograms.
fn hologram_facts<'a>(h: &Header, process: &'a Hologram, d: &mut Differences) -> HologramFacts<'a> {
    d.same("bias_dn", h.bias_dn, process.bias_dn());
    d.same("kappa_min", h.kappa_min, process.kappa_min);
    d.same("propagated", f64::from(h.propagated), f64::from(process.propagation_rounds > 0));
    let line = &process.base.calibration.line;
    d.list("shares of blur", &h.blur, &line.blur);
    d.list("shares of history", &h.history, &line.history);
    d.word("quadrature", &h.quadrature, process.quadrature.name());
    d.word("port map", &h.port_map, PORT_MAP);
    let form = match (h.gaussian_fwhm_um.as_slice(), process.form_factor) {
        ([], FormFactor::Box) => FormFactor::Box,
        (&[x, y, z], FormFactor::Gaussian(want)) => {
            for (a, b) in [x, y, z].into_iter().zip(want) {
                d.same("voxel width", a, b);
            }
            FormFactor::Gaussian([x, y, z])
        }
        _ => {
            d.found.push(Diagnostic::error(
                &E0615,
                format!("{FILE}: voxel shape differs from process {}", process.base.name),
            ));
            FormFactor::Box
        }
    };
    let mut delta = [0f32; 16];
    for (to, l) in delta.iter_mut().zip(&h.levels) {
        *to = (l.dn - h.bias_dn) as f32;
    }
    let mut pitch_um = [0f64; 3];
    for (to, p) in pitch_um.iter_mut().zip(&h.pitch_nm) {
        *to = f64::from(*p) * 1e-3;
    }
    HologramFacts {
        process,
        pitch_um,
        wave_number: std::f64::consts::TAU * (h.index + h.bias_dn) / h.wavelength_um,
        form,
        delta,
        blur: h.blur.clone(),
        history: h.history.clone(),
        interleave: h.interleave,
        propagated: h.propagated,
    }
}

/// Checks what a header says of masks.
fn mask_facts<'a>(h: &Header, process: &'a Mask, d: &mut Differences) -> MaskFacts<'a> {
    d.word("pixel map", &h.port_map, mask::PIXEL_MAP);
    d.word("quadrature", &h.quadrature, "");
    d.same("bias_dn", h.bias_dn, 0.0);
    d.same("kappa_min", h.kappa_min, 0.0);
    d.same("propagated", f64::from(h.propagated), 0.0);
    for (what, list) in [
        ("voxel widths", &h.gaussian_fwhm_um),
        ("shares of blur", &h.blur),
        ("shares of history", &h.history),
    ] {
        d.list(what, list, &[]);
    }
    let pitch_um = h.pitch_nm.get(2).map_or(0.0, |nm| f64::from(*nm) * 1e-3);
    let level = |l: &Level| {
        let retardance = std::f64::consts::TAU * l.dn * pitch_um / h.wavelength_um;
        [l.azimuth_deg.unwrap_or_default().to_radians(), retardance]
    };
    MaskFacts { process, levels: h.levels.iter().map(level).collect() }
}

impl<'a> Schedule<'a> {
    /// Opens a schedule and checks everything but the levels.
    ///
    /// # Errors
    /// A missing, truncated or foreign file, and a header or tile table that cannot be used. A
    /// damaged record of one tile is reported here with that tile.
    pub fn open(
        lowering: &Lowering,
        program: &'a Verified<TileProgram>,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Schedule<'a>, Diagnostics> {
        let file =
            File::open(dir.join(FILE)).map_err(|e| Diagnostic::error(&E0001, format!("{FILE}: {e}")))?;
        let map = map(&file).map_err(|e| Diagnostic::error(&E0001, format!("{FILE}: {e}")))?;
        let index = index(&map)?;
        let header: Header = record(&map, index.header, Kind::Header)?;
        let facts = facts(&header, lowering)?;
        let mut diags = Diagnostics::new();
        let mut zones: BTreeMap<u32, Zone> = BTreeMap::new();
        let mut zone_records = Vec::new();
        for &at in &index.zones {
            match record::<Zone>(&map, at, Kind::Zone) {
                Ok(z) => {
                    if zones.insert(z.zone, z.clone()).is_some() {
                        diags.push(Diagnostic::error(
                            &E0613,
                            format!("{FILE}: zone {} is there twice", z.zone),
                        ));
                    }
                    zone_records.push((at, z));
                }
                Err(e) => diags.extend(e),
            }
        }
        let mut coupons = Vec::new();
        for &at in &index.coupons {
            match record::<Coupon>(&map, at, Kind::Coupon) {
                Ok(c) => coupons.push(c),
                Err(e) => diags.extend(e),
            }
        }
        let records: BTreeMap<u32, u64> = index.tiles.iter().map(|t| (t.tile, t.record)).collect();
        if records.len() != index.tiles.len() {
            diags.push(Diagnostic::error(&E0613, format!("{FILE}: the index has a tile twice")));
        }
        let mut entries: BTreeMap<u32, TileEntry> = index.tiles.into_iter().map(|t| (t.tile, t)).collect();
        progress.begin("read tiles", entries.len() as u64);
        let mut written = BTreeMap::new();
        for (id, tile) in program.tiles() {
            let Some((inputs, outputs, scheme)) = program.matrix_tile(id) else { continue };
            let foreign =
                |what: String| Diagnostic::error(&E0615, format!("tile {id}: {what}")).at(&tile.origin);
            let of_tile = |e: Diagnostics| {
                Diagnostics(
                    e.0.into_iter()
                        .map(|d| d.at(&tile.origin).note(format!("tile {id} ({})", tile.name)))
                        .collect(),
                )
            };
            let Some(entry) = entries.remove(&id.0) else {
                diags.push(foreign("is not in the schedule".into()));
                continue;
            };
            progress.advance(1);
            let record: Tile = match record(&map, entry.record, Kind::Tile) {
                Ok(r) => r,
                Err(e) => {
                    diags.extend(of_tile(e));
                    continue;
                }
            };
            if record.tile != id.0 || record.name != tile.name {
                diags.push(foreign(format!("its record is of tile {} ({:?})", record.tile, record.name)));
                continue;
            }
            if scheme != Scheme::Real
                || (record.inputs as usize, record.outputs as usize) != (inputs, outputs)
            {
                diags.push(foreign(format!(
                    "holds {} x {} real weights, the program has {inputs} x {outputs} of scheme {scheme}",
                    record.inputs, record.outputs
                )));
                continue;
            }
            match optics(&record, &entry, &facts, zones.get(&record.zone)) {
                Ok(optics) => {
                    written.insert(id.0, Entry { record, layers: entry.layers, optics });
                }
                Err(e) => diags.extend(of_tile(e)),
            }
        }
        for id in entries.keys() {
            diags.push(Diagnostic::error(
                &E0615,
                format!("{FILE} holds tile {id}, which the program has not"),
            ));
        }
        if !diags.has_errors() {
            for zone in zones.values() {
                diags.extend(zone_content(zone, &written, &facts));
            }
            let zones: Vec<&Zone> = zone_records.iter().map(|z| &z.1).collect();
            diags.extend(beside::check(&header, &zones, &coupons, lowering.base()));
        }
        diags.check()?;
        let places: Vec<(u64, u32)> =
            index.coupons.iter().zip(&coupons).map(|(at, c)| (*at, c.plate)).collect();
        order(&map, index.header, &zone_records, &places, &facts, &written, &records)?;
        Ok(Schedule {
            program,
            map,
            header,
            zones: zone_records.into_iter().map(|z| z.1).collect(),
            coupons,
            written,
            lowering: lowering.clone(),
            light: BTreeMap::new(),
        })
    }

    pub(crate) fn origin(&self, id: TileId) -> Origin {
        self.program.tiles.get(id.index()).map(|t| t.origin.clone()).unwrap_or_default()
    }

    pub(crate) fn entry(&self, id: TileId) -> Result<&Entry, Diagnostics> {
        self.written.get(&id.0).ok_or_else(|| {
            Diagnostic::error(&E0619, format!("tile {id} is not a matrix tile held in glass"))
                .at(&self.origin(id))
                .into()
        })
    }

    /// What holds for the whole file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Zones in the order of writing.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Coupons, one a plate.
    pub fn coupons(&self) -> &[Coupon] {
        &self.coupons
    }

    /// The record of a tile.
    ///
    /// # Errors
    /// A tile that is not in glass.
    pub fn record(&self, id: TileId) -> Result<&Tile, Diagnostics> {
        self.entry(id).map(|entry| &entry.record)
    }

    /// A tile in physical units.
    ///
    /// # Errors
    /// As [`Schedule::record`].
    pub fn optics(&self, id: TileId) -> Result<&Optics, Diagnostics> {
        self.entry(id).map(|entry| &entry.optics)
    }

    /// A tile that is a hologram: its record, what is written, and its process.
    ///
    /// # Errors
    /// As [`Schedule::record`], and another method.
    pub(crate) fn hologram(&self, id: TileId) -> Result<(&Tile, &Written, &Hologram), Diagnostics> {
        let entry = self.entry(id)?;
        match (&entry.optics, &self.lowering) {
            (Optics::Hologram(written), Lowering::Hologram(process)) => Ok((&entry.record, written, process)),
            _ => {
                let message = format!("tile {id} ({}) is no hologram and has no ports", entry.record.name);
                Err(Diagnostic::error(&E0622, message).at(&self.origin(id)).into())
            }
        }
    }

    /// All levels of a tile, x fastest, then y, then layer.
    ///
    /// # Errors
    /// A tile that is not in glass, and damaged layers.
    pub fn levels(&self, id: TileId) -> Result<Vec<u8>, Diagnostics> {
        let entry = self.entry(id)?;
        let [nx, ny, nz] = entry.optics.voxels();
        let mut levels = vec![0u8; nx * ny * nz];
        let mut diags = Diagnostics::new();
        for ((layer, out), &at) in levels.chunks_exact_mut(nx * ny).enumerate().zip(&entry.layers) {
            if let Err(what) = self.layer(at, id, layer, entry, nx, out) {
                diags.push(
                    Diagnostic::error(
                        &E0614,
                        format!("tile {id} ({}), layer {layer}: {}", entry.record.name, what.0),
                    )
                    .at(&self.origin(id))
                    .note(what.1),
                );
            }
        }
        if diags.has_errors() { Err(diags) } else { Ok(levels) }
    }

    /// One layer's levels; on failure what is wrong and where.
    fn layer(
        &self,
        at: u64,
        id: TileId,
        layer: usize,
        entry: &Entry,
        nx: usize,
        out: &mut [u8],
    ) -> Result<(), (String, String)> {
        let place = format!("chunk at byte {at}");
        let (body, sound) = match frame(&self.map, at, Kind::Chunk) {
            Ok(b) => (b, true),
            Err(Damage::Framing(what)) => return Err((what, place)),
            Err(Damage::Checksum(b)) => (b, false),
        };
        let fail = |what: String| {
            if sound { (what, place.clone()) } else { (format!("wrong checksum; {what}"), place.clone()) }
        };
        let chunk = Chunk::decode(body).map_err(|e| fail(e.to_string()))?;
        let part = chunk.parts.iter().find(|p| p.tile == id.0);
        let here = (chunk.layer, chunk.zone) == (layer as u32, entry.record.zone);
        let Some(part) = part.filter(|_| here || !sound) else {
            let tiles: Vec<u32> = chunk.parts.iter().map(|p| p.tile).collect();
            let (layer, zone) = (chunk.layer, chunk.zone);
            return Err(fail(format!("the chunk is of tiles {tiles:?}, layer {layer}, zone {zone}")));
        };
        let four_bits = self.lowering.level_bits() == 4;
        let bytes_a_line = if four_bits { nx.div_ceil(2) } else { nx };
        let lines = out.len() / nx;
        let packed = zstd::bulk::decompress(&part.levels, lines * bytes_a_line)
            .map_err(|e| fail(format!("cannot unpack: {e}")))?;
        if packed.len() != lines * bytes_a_line || part.line_crc32.len() != lines {
            return Err(fail(format!(
                "{} bytes and {} line checksums, expected {} and {lines}",
                packed.len(),
                part.line_crc32.len(),
                lines * bytes_a_line
            )));
        }
        let wrong: Vec<String> = packed
            .chunks_exact(bytes_a_line)
            .zip(&part.line_crc32)
            .enumerate()
            .filter(|(_, (line, crc))| crc32fast::hash(line) != **crc)
            .map(|(y, _)| y.to_string())
            .collect();
        if !wrong.is_empty() {
            let shown = wrong.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            return Err(fail(format!("wrong checksum of {} of {lines} lines: y = {shown}", wrong.len())));
        }
        if !sound {
            return Err(fail("its lines are as recorded".into()));
        }
        for (line, out) in packed.chunks_exact(bytes_a_line).zip(out.chunks_exact_mut(nx)) {
            if !four_bits {
                out.copy_from_slice(line);
                continue;
            }
            for (x, to) in out.iter_mut().enumerate() {
                *to = if x % 2 == 0 { line[x / 2] & 15 } else { line[x / 2] >> 4 };
            }
        }
        match out.iter().position(|&l| l > self.lowering.base().fill_level()) {
            None => Ok(()),
            Some(at) => Err((
                format!("line {}: level {} at x = {} is not in the table", at / nx, out[at], at % nx),
                place,
            )),
        }
    }

    /// The transfer matrix of written levels, for the first `inputs`: propagated where the header says so.
    pub(crate) fn matrix_of(&self, written: &Written, levels: &[u8], inputs: usize) -> Transfer {
        if self.header.propagated {
            written.propagated(levels, inputs, std::f64::consts::TAU / self.header.wavelength_um)
        } else {
            written.transfer(levels)
        }
    }

    /// That of a hologram with the faults of a seed; what faults do to multiple scattering is of higher order.
    fn disturbed(&self, written: &Written, levels: &[u8], inputs: usize, faults: &Faults) -> Transfer {
        let mut t = written.disturbed(levels, faults);
        if self.header.propagated {
            let (whole, first) = (self.matrix_of(written, levels, inputs), written.transfer(levels));
            for (t, whole, first) in [(&mut t.re, whole.re, first.re), (&mut t.im, whole.im, first.im)] {
                t.iter_mut().zip(whole).zip(first).for_each(|((t, whole), first)| *t += whole - first);
            }
        }
        t
    }

    /// The weights of written levels, with the faults of a seed or without, and a hologram's transfer matrix.
    fn realised(&self, entry: &Entry, levels: &[u8], seed: Option<u64>) -> (RealBlock, Option<Transfer>) {
        let (k, n) = (entry.record.inputs as usize, entry.record.outputs as usize);
        if entry.record.gain == 0.0 {
            return (RealBlock { k, n, values: vec![0.0; k * n] }, None);
        }
        match (&entry.optics, &self.lowering) {
            (Optics::Hologram(written), Lowering::Hologram(process)) => {
                let t = match seed.map(|seed| Faults::nominal(process, seed)) {
                    Some(faults) => self.disturbed(written, levels, k, &faults),
                    None => self.matrix_of(written, levels, k),
                };
                let parts = process.quadrature.weights_a_grating();
                (read_ports(&entry.record, written, parts, &t), Some(t))
            }
            (Optics::Mask(pixels), Lowering::Mask(process)) => {
                let faults = seed.map(|seed| MaskFaults::nominal(process, seed));
                (RealBlock { k, n, values: pixels.weights(levels, faults.as_ref()) }, None)
            }
            // A schedule is opened by its process's own method.
            _ => (RealBlock { k, n, values: vec![f32::NAN; k * n] }, None),
        }
    }
}

/// The weights that a transfer matrix makes of ports with their signs.
fn read_ports(record: &Tile, written: &Written, parts: usize, t: &Transfer) -> RealBlock {
    let (k, n) = (record.inputs as usize, record.outputs as usize);
    let mut values = vec![0f32; k * n];
    let inputs = written.columns * written.rows_in;
    for (i, row) in values.chunks_exact_mut(n).enumerate() {
        let input = sign(&record.input_signs, i);
        for (o, v) in row.iter_mut().enumerate() {
            let port = o / parts;
            let sign = f64::from(input * sign(&record.output_signs, port));
            let part = if o % parts == 0 { &t.re } else { &t.im };
            *v = (sign * f64::from(part[port * inputs + i]) / record.gain) as f32;
        }
    }
    RealBlock { k, n, values }
}

/// Checks what a tile's record says about itself.
fn optics(r: &Tile, entry: &TileEntry, facts: &Facts, zone: Option<&Zone>) -> Result<Optics, Diagnostics> {
    let bad = |what: String| Diagnostics::from(Diagnostic::error(&E0613, what));
    let &[nx, ny, nz] = r.voxels.as_slice() else {
        return Err(bad("its record has not three voxel counts".into()));
    };
    let volume = u64::from(nx).checked_mul(u64::from(ny)).and_then(|v| v.checked_mul(u64::from(nz)));
    if !volume.is_some_and(|v| v > 0 && v <= VOXELS_MAX) {
        return Err(bad(format!("{nx} x {ny} x {nz} voxels are out of range")));
    }
    if ![r.gain, r.snr_db, r.snr_complex_db].iter().chain(&r.column_scales).all(|v| v.is_finite()) {
        return Err(bad("its gain, a scale or a signal-to-noise ratio is not finite".into()));
    }
    let voxels = [nx, ny, nz].map(|v| v as usize);
    let optics = match &facts.method {
        Method::Hologram(facts) => hologram_optics(r, voxels, facts).map(Optics::Hologram)?,
        Method::Mask(facts) => mask_optics(r, voxels, facts).map(Optics::Mask)?,
    };
    if entry.layers.len() as u64 != u64::from(nz) {
        return Err(bad(format!("the index has {} of its {nz} layers", entry.layers.len())));
    }
    let zone = zone.ok_or_else(|| bad(format!("zone {} has no record", r.zone)))?;
    let inside = match (zone.rect_nm.as_slice(), r.origin_nm.as_slice()) {
        (&[x0, y0, x1, y1], &[x, y, z]) => {
            let end = |at: i64, n: u32, a: usize| at.saturating_add(i64::from(n) * facts.pitch_nm[a]);
            x >= x0
                && y >= y0
                && end(x, nx, 0) <= x1
                && end(y, ny, 1) <= y1
                && z == zone.depth_nm
                && nz == zone.layers
        }
        _ => false,
    };
    if !inside || !zone.tiles.contains(&r.tile) {
        return Err(bad(format!("it does not lie in zone {}", r.zone)));
    }
    placed(r, zone, &optics, facts).check()?;
    Ok(optics)
}

/// Checks a hologram's ports and geometry.
fn hologram_optics(r: &Tile, voxels: [usize; 3], facts: &HologramFacts) -> Result<Written, Diagnostics> {
    let bad = |what: String| Diagnostics::from(Diagnostic::error(&E0613, what));
    if !r.column_scales.is_empty() {
        return Err(bad("it is a hologram with scales of columns".into()));
    }
    let ports = [r.columns, r.rows_in, r.rows_out, r.output_row_step, r.carrier];
    if voxels.iter().any(|v| v % 2 != 0) {
        return Err(bad(format!("{voxels:?} voxels are out of range: odd")));
    }
    let rows = facts.process.rows_max;
    if ports.iter().any(|&p| p == 0 || p as usize > voxels[0].max(64))
        || r.columns as usize > facts.process.columns_max
        || r.rows_in as usize > rows
        || r.rows_out as usize > rows
    {
        return Err(bad(format!("ports {ports:?} are out of range")));
    }
    let quadrature = facts.process.quadrature;
    let fits = |used: u32, rows: u32| used > 0 && u64::from(used) <= u64::from(r.columns) * u64::from(rows);
    let ports = u32::try_from(quadrature.ports(r.outputs as usize)).unwrap_or(u32::MAX);
    if !fits(r.inputs, r.rows_in) || !fits(ports, r.rows_out) {
        return Err(bad(format!("{} x {} weights do not fit its ports", r.inputs, r.outputs)));
    }
    let signs = [(&r.input_signs, r.inputs), (&r.output_signs, ports)];
    if signs.iter().any(|(s, ports)| s.len() != sign_bytes(*ports as usize)) {
        return Err(bad("its ports and their signs are not equally many".into()));
    }
    let g = Geometry {
        columns: r.columns as usize,
        rows_in: r.rows_in as usize,
        rows_out: r.rows_out as usize,
        output_row_step: r.output_row_step as usize,
        voxels,
        voxel_um: facts.pitch_um,
        form_factor: facts.form,
        line: Line::default(),
        carrier: r.carrier as usize,
        wave_number: facts.wave_number,
    };
    g.check(facts.process.kappa_min).check()?;
    let written = Written {
        columns: g.columns,
        rows_in: g.rows_in,
        rows_out: g.rows_out,
        output_row_step: g.output_row_step,
        carrier: g.carrier,
        voxels,
        pitch_um: facts.pitch_um,
        wave_number: facts.wave_number,
        form: facts.form,
        blur: facts.blur.clone(),
        history: facts.history.clone(),
        interleave: facts.interleave,
        delta: facts.delta,
    };
    if facts.propagated {
        Grid::new(&written).refuse(r.inputs as usize, "its record")?;
    }
    Ok(written)
}

/// Checks a mask's pixels and scales.
fn mask_optics(r: &Tile, voxels: [usize; 3], facts: &MaskFacts) -> Result<Pixels, Diagnostics> {
    let bad = |what: String| Diagnostics::from(Diagnostic::error(&E0613, what));
    let [nx, ny, layers] = voxels;
    if [nx, ny, layers] != [r.outputs as usize, r.inputs as usize, facts.process.layers] {
        return Err(bad(format!(
            "{nx} x {ny} pixels in {layers} layers are not those of {} outputs x {} inputs in {} layers",
            r.outputs, r.inputs, facts.process.layers
        )));
    }
    facts.process.holds(ny, nx)?;
    let ports = [r.columns, r.rows_in, r.rows_out, r.output_row_step, r.carrier];
    if ports != [0; 5] || !r.input_signs.is_empty() || !r.output_signs.is_empty() {
        return Err(bad("it is a mask with ports".into()));
    }
    if ![0.0, 1.0].contains(&r.gain) || r.snr_complex_db != 0.0 {
        return Err(bad(format!("its gain is {}, or it has a complex ratio", r.gain)));
    }
    if r.column_scales.len() != nx || r.column_scales.iter().any(|m| *m < 0.0) {
        return Err(bad("its outputs have not a scale of 0 or more each".into()));
    }
    Ok(Pixels { voxels, levels: facts.levels.clone(), scales: r.column_scales.clone() })
}

/// Checks that a tile lies on its zone's raster, in the plate, and with written glass around it as
/// far as its beams walk off.
fn placed(r: &Tile, zone: &Zone, optics: &Optics, facts: &Facts) -> Diagnostics {
    let mut d = Diagnostics::new();
    let mut bad = |what: &str| d.push(Diagnostic::error(&E0613, what.to_owned()));
    let (&[x0, y0, x1, y1], &[x, y, z]) = (zone.rect_nm.as_slice(), r.origin_nm.as_slice()) else {
        bad("its place or its zone's is not given");
        return d;
    };
    let (pitch, voxels) = (facts.pitch_nm.map(|nm| nm.max(1)), optics.voxels());
    let size = [0, 1, 2].map(|a| pitch[a].saturating_mul(voxels[a] as i64));
    if x.saturating_sub(x0) % pitch[0] != 0 || y.saturating_sub(y0) % pitch[1] != 0 {
        bad("it is not on its zone's raster");
    }
    let plate = facts.plate_nm;
    if x0 < 0 || y0 < 0 || z < 0 || x1 > plate[0] || y1 > plate[1] || z.saturating_add(size[2]) > plate[2] {
        bad("its zone is not inside the plate");
    }
    let [_, margin] = optics.room_um(facts.gap_min_um);
    for (a, (low, high, at)) in [(x0, x1, x), (y0, y1, y)].into_iter().enumerate() {
        let room = (margin[a] * 1e3).floor() as i64;
        if at.saturating_sub(low) < room || high.saturating_sub(at.saturating_add(size[a])) < room {
            bad("its zone ends before its beams leave the tile's surroundings");
        }
    }
    d
}

/// Checks a zone: what fills it, and that its tiles are those that say so and lie apart.
fn zone_content(zone: &Zone, written: &BTreeMap<u32, Entry>, facts: &Facts) -> Diagnostics {
    let mut d = Diagnostics::new();
    let mut bad = |what: String| {
        d.push(Diagnostic::error(&E0613, format!("{FILE}: zone {}: {what}", zone.zone)));
    };
    if zone.fill_level != u32::from(facts.fill_level) {
        bad(format!("it is filled with level {}, not with the fill's {}", zone.fill_level, facts.fill_level));
    }
    let members: Vec<(&u32, &Entry)> = written.iter().filter(|(_, e)| e.record.zone == zone.zone).collect();
    if zone.layers as usize > facts.layers {
        bad(format!("it has {} layers, the table of stage travel {}", zone.layers, facts.layers));
    }
    if !members.iter().map(|(id, _)| **id).eq(zone.tiles.iter().copied()) {
        bad("its list of tiles is not that of the tiles that lie in it".into());
    }
    let boxes: Vec<[[i64; 2]; 3]> = members
        .iter()
        .map(|(_, e)| {
            let side = |a: usize| {
                let at = e.record.origin_nm.get(a).copied().unwrap_or_default();
                [at, at.saturating_add(facts.pitch_nm[a] * e.optics.voxels()[a] as i64)]
            };
            let [gap, _] = e.optics.room_um(facts.gap_min_um);
            let gap = gap.map(|um| (um * 1e3).floor() as i64);
            [side(0), side(1), gap]
        })
        .collect();
    for (i, a) in boxes.iter().enumerate() {
        let close = boxes[..i].iter().position(|b| {
            (0..2).all(|s| {
                let gap = a[2][s].max(b[2][s]);
                a[s][0] < b[s][1].saturating_add(gap) && b[s][0] < a[s][1].saturating_add(gap)
            })
        });
        if let Some(j) = close {
            bad(format!("beams of tiles {} and {} cross each other's glass", members[j].0, members[i].0));
            break;
        }
    }
    d
}

/// End of the frame at an offset.
fn frame_end(map: &[u8], at: u64) -> Option<u64> {
    let rest = map.get(usize::try_from(at).ok()?..)?;
    let len = prost::decode_length_delimiter(rest).ok()?;
    at.checked_add(prost::length_delimiter_len(len) as u64)?.checked_add(len as u64)
}

/// The tiles of a zone whose lines are written together, in order of writing: those that share lines, by their least y and
/// within by x; or each by itself.
fn groups<'a>(zone: &Zone, facts: &Facts, written: &'a BTreeMap<u32, Entry>) -> Vec<Vec<(u32, &'a Entry)>> {
    let tiles = zone.tiles.iter().filter_map(|t| Some((*t, written.get(t)?)));
    if facts.raster == Raster::Field {
        return tiles.map(|(id, e)| vec![(id, e)]).collect();
    }
    let side = |e: &Entry, a: usize| e.record.origin_nm.get(a).copied().unwrap_or_default();
    let mut by_y: Vec<(i64, i64, u32, &Entry)> = tiles
        .map(|(id, e)| {
            let rows = facts.pitch_nm[1] * e.optics.voxels()[1] as i64;
            (side(e, 1), side(e, 1).saturating_add(rows), id, e)
        })
        .collect();
    by_y.sort_by_key(|t| (t.0, t.2));
    let (mut groups, mut end) = (Vec::<Vec<(u32, &Entry)>>::new(), i64::MIN);
    for (low, high, id, e) in by_y {
        match groups.last_mut() {
            Some(group) if low < end => group.push((id, e)),
            _ => groups.push(vec![(id, e)]),
        }
        end = end.max(high);
    }
    for group in &mut groups {
        group.sort_by_key(|(id, e)| (side(e, 0), *id));
    }
    groups
}

/// Checks that the records follow each other in the order of writing, with nothing between, before
/// or after them: header; before a plate's first zone its coupon; each zone with its tiles and its layers, deepest first;
/// index. The parts of a chunk are those of its group, in order.
fn order(
    map: &[u8],
    header: u64,
    zones: &[(u64, Zone)],
    coupons: &[(u64, u32)],
    facts: &Facts,
    written: &BTreeMap<u32, Entry>,
    records: &BTreeMap<u32, u64>,
) -> Result<(), Diagnostics> {
    let wrong = |what: String| Diagnostics::from(Diagnostic::error(&E0620, format!("{FILE}: {what}")));
    let mut expected = vec![header];
    let mut coupons = coupons.iter().peekable();
    for (at, zone) in zones {
        expected.extend(coupons.next_if(|c| c.1 == zone.plate).map(|c| c.0));
        expected.push(*at);
        expected.extend(zone.tiles.iter().filter_map(|t| records.get(t)));
        let groups = groups(zone, facts, written);
        for layer in (0..zone.layers as usize).rev() {
            for group in &groups {
                let mut places = group.iter().filter_map(|(_, e)| e.layers.get(layer));
                let Some(&first) = places.next() else { continue };
                if places.any(|&at| at != first) {
                    return Err(wrong(format!(
                        "tiles that share lines of layer {layer} lie in several chunks"
                    )));
                }
                expected.push(first);
                // A damaged chunk is reported where its levels are read.
                if group.len() > 1
                    && let Ok(body) = frame(map, first, Kind::Chunk)
                    && let Ok(chunk) = Chunk::decode(body)
                    && !chunk.parts.iter().map(|p| p.tile).eq(group.iter().map(|t| t.0))
                {
                    return Err(wrong(format!("parts of the chunk at byte {first} are not in order of x")));
                }
            }
        }
    }
    let trailer = map.len().saturating_sub(TRAILER_LEN);
    let (at, len) = (little_u64(&map[trailer..trailer + 8]), little_u64(&map[trailer + 8..trailer + 16]));
    expected.push(at);
    let mut next = Some(MAGIC.len() as u64 + 4);
    for at in expected {
        if next != Some(at) {
            let message = format!("{FILE}: the record at byte {at} does not follow the one before it");
            return Err(Diagnostic::error(&E0620, message).into());
        }
        next = frame_end(map, at);
    }
    if next != Some(trailer as u64) || at.checked_add(len) != next {
        return Err(Diagnostic::error(&E0620, format!("{FILE}: the index does not end the records")).into());
    }
    Ok(())
}

impl TileSource for Schedule<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        Ok(TileContent::Real(self.contents(id, None)?))
    }
}

impl Schedule<'_> {
    /// The weights of a tile in the light as it was calibrated.
    fn contents(&self, id: TileId, seed: Option<u64>) -> Result<RealBlock, Diagnostics> {
        let (entry, levels) = (self.entry(id)?, self.levels(id)?);
        let (mut block, _) = self.realised(entry, &levels, seed);
        if let Some(off) = self.deviation(id)? {
            let (record, _, process) = self.hologram(id)?;
            let parts = process.quadrature.weights_a_grating();
            let (n, inputs) = (block.n, block.k);
            for (at, v) in block.values.iter_mut().enumerate() {
                let (i, o) = (at / n, at % n);
                let sign = f64::from(sign(&record.input_signs, i) * sign(&record.output_signs, o / parts));
                let Some(off) = off.get(o / parts * inputs + i) else { continue };
                let part = if o % parts == 0 { off.re } else { off.im };
                *v += (sign * part / record.gain) as f32;
            }
        }
        Ok(block)
    }

    /// Relative error power of one reading of a tile whose weights' squares sum to `power`.
    fn reading(&self, entry: &Entry, power: f64) -> f64 {
        let record = &entry.record;
        if record.gain == 0.0 || power <= 0.0 {
            return 0.0;
        }
        let (k, n) = (record.inputs as usize, record.outputs as usize);
        let terms = match (&entry.optics, &self.lowering) {
            (Optics::Hologram(written), Lowering::Hologram(process)) => {
                let length_um = written.voxels[2] as f64 * written.pitch_um[2];
                let efficiency = budget::efficiency(process, length_um, record.gain, power, k);
                budget::reading(process, efficiency, process.quadrature.ports(n))
            }
            (Optics::Mask(pixels), Lowering::Mask(process)) => {
                mask::reading(process, &pixels.scales, k, power)
            }
            _ => [f64::NAN; 2],
        };
        terms.into_iter().sum()
    }
}

impl ReadBack for Schedule<'_> {
    fn region(&self, id: TileId) -> Option<Region> {
        let Entry { record, optics, .. } = self.written.get(&id.0)?;
        let &[x, y, z] = record.origin_nm.as_slice() else { return None };
        let zone = self.zones.iter().find(|zone| zone.zone == record.zone)?;
        let pitch = self.lowering.base().voxel_um;
        let nm = |a: usize| (optics.voxels()[a] as f64 * pitch[a] * 1e3).round() as i64;
        Some(Region {
            file: FILE.to_owned(),
            name: format!("plate {} zone {}", zone.plate, zone.zone),
            min_nm: [x, y, z],
            max_nm: [x + nm(0), y + nm(1), z + nm(2)],
        })
    }

    fn disturbed(&self, id: TileId, seed: u64) -> Result<Option<Disturbed>, Diagnostics> {
        let entry = self.entry(id)?;
        let block = self.contents(id, Some(mix(seed ^ mix(u64::from(id.0)))))?;
        let power = block.values.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
        let reading = self.reading(entry, power);
        Ok(Some(Disturbed { content: TileContent::Real(block), reading }))
    }

    fn check(&self, id: TileId, reference: &TileContent) -> Result<BTreeMap<String, f64>, Diagnostics> {
        let entry = self.entry(id)?;
        let origin = self.origin(id);
        let r = &entry.record;
        let mut diags = Diagnostics::new();
        let reference = match reference {
            TileContent::Real(b)
                if (b.k, b.n) == (r.inputs as usize, r.outputs as usize) && b.values.len() == b.k * b.n =>
            {
                b
            }
            _ => {
                return Err(Diagnostic::error(
                    &E0615,
                    format!("tile {id}: the reference is not {} x {} real weights", r.inputs, r.outputs),
                )
                .at(&origin)
                .into());
            }
        };
        let mut digest = Sha256::new();
        for v in &reference.values {
            digest.update(v.to_le_bytes());
        }
        if digest.finalize().as_slice() != r.weights_sha256 {
            diags.push(
                Diagnostic::error(&E0618, format!("tile {id} ({}) was made for other weights", r.name))
                    .at(&origin),
            );
        }
        let levels = self.levels(id)?;
        if Sha256::digest(&levels).as_slice() != r.levels_sha256 {
            diags.push(
                Diagnostic::error(&E0616, format!("tile {id} ({}): levels were changed", r.name)).at(&origin),
            );
        }
        let mut measures = BTreeMap::new();
        let weights = f64::from(r.inputs) * f64::from(r.outputs);
        measures.insert("voxels_per_weight".to_owned(), levels.len() as f64 / weights);
        measures.extend(level_measures(&count_levels(&levels)));
        let (got, transfer) = self.realised(entry, &levels, None);
        let power: f64 = reference.values.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        if r.gain == 0.0 {
            if power != 0.0 {
                diags.push(
                    Diagnostic::error(
                        &E0617,
                        format!("tile {id} ({}) holds no weights, the program has some", r.name),
                    )
                    .at(&origin),
                );
            }
        } else {
            let snr_db = pfmc_ir::numerics::snr_db(&reference.values, &got.values).min(SNR_MAX_DB);
            let mut ratios = vec![("snr_db", snr_db, r.snr_db)];
            if let (Some(t), Optics::Hologram(written), Lowering::Hologram(process)) =
                (&transfer, &entry.optics, &self.lowering)
            {
                let parts = process.quadrature.weights_a_grating();
                ratios.push((
                    "snr_complex_db",
                    complex_db(r, written, parts, t, reference, power),
                    r.snr_complex_db,
                ));
            }
            measures.extend(ratios.iter().map(|(name, got, _)| ((*name).to_owned(), *got)));
            let least = self.lowering.base().snr_min_db;
            let reached = ratios.iter().all(|(_, got, recorded)| (got - recorded).abs() <= TOLERANCE_DB);
            if !(reached && snr_db >= least - TOLERANCE_DB) {
                let all: Vec<String> = ratios
                    .iter()
                    .map(|(name, got, recorded)| {
                        format!("{name} {got:.2} recomputed, {recorded:.2} recorded")
                    })
                    .collect();
                diags.push(
                    Diagnostic::error(
                        &E0617,
                        format!("tile {id} ({}): {}; {least} dB required", r.name, all.join("; ")),
                    )
                    .at(&origin)
                    .note(format!("plate coordinates {:?} nm, zone {}", r.origin_nm, r.zone)),
                );
            }
        }
        if diags.has_errors() { Err(diags) } else { Ok(measures) }
    }
}

/// Signal-to-noise ratio of a complex transfer matrix as one of weights behind their ports' signs, with the best complex gain, dB.
fn complex_db(
    r: &Tile,
    written: &Written,
    parts: usize,
    transfer: &Transfer,
    reference: &RealBlock,
    power: f64,
) -> f64 {
    let inputs = written.columns * written.rows_in;
    let (mut re, mut im, mut tt) = (0f64, 0f64, 0f64);
    for (i, row) in reference.values.chunks_exact(reference.n).enumerate() {
        for (o, w) in row.chunks(parts).enumerate() {
            let sign = f64::from(sign(&r.input_signs, i) * sign(&r.output_signs, o));
            let (wr, wi) = (sign * f64::from(w[0]), sign * w.get(1).map_or(0.0, |&w| f64::from(w)));
            let (a, b) = (f64::from(transfer.re[o * inputs + i]), f64::from(transfer.im[o * inputs + i]));
            re += a * wr + b * wi;
            im += b * wr - a * wi;
            tt += a * a + b * b;
        }
    }
    let signal = (re * re + im * im) / power;
    (10.0 * (signal / (tt - signal).max(1e-30 * tt)).log10()).min(SNR_MAX_DB)
}
