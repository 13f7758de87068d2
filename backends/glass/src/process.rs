//! The process file: facts of one glass-writing process, read from TOML. Here are those that do not depend on how weights
//! become voxels: glass, plate, writer, light. [`crate::hologram`] and [`crate::mask`] have the others.
//!
//! Every key is required, every value is checked, and all problems are reported together. See
//! `process/borosilicate-phase.toml` and `process/fused-silica-mask.toml` for the meaning of each key.

use pfmc_ir::diag::{Code, Diagnostic, Diagnostics};

use crate::calibration::Calibration;
use crate::codes::{E0601, E0621};
use crate::hologram::Hologram;

/// Order in which the lines of a layer of a zone are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raster {
    /// By y, then x across all tiles of the zone: few long lines, for stages.
    PlateLine,
    /// Tile by tile, lines of a tile after each other: for scanners, whose field holds one tile.
    Field,
}

impl Raster {
    /// Name in process files and schedules.
    pub fn name(self) -> &'static str {
        match self {
            Raster::PlateLine => "plate_line",
            Raster::Field => "field",
        }
    }

    /// Order of the levels in a schedule.
    pub fn order(self) -> &'static str {
        match self {
            Raster::PlateLine => "zone, layer descending, y, x",
            Raster::Field => "zone, layer descending, tile, y, x",
        }
    }
}

/// What gives a voxel its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modulation {
    /// Each pulse has an energy of its own.
    Voxel,
    /// The energy stands and a shutter picks voxels: one pass of a line for each level.
    Pass,
}

/// How stage travel follows from depth in glass, behind a dry objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    /// By the rays near the axis: depth / travel is n.
    Paraxial,
    /// By the rays at the edge of the aperture: `sqrt(n^2 - NA^2) / sqrt(1 - NA^2)`.
    Marginal,
}

impl Focus {
    /// Name in process files and schedules.
    pub fn name(self) -> &'static str {
        match self {
            Focus::Paraxial => "paraxial",
            Focus::Marginal => "marginal",
        }
    }
}

/// What every glass process has. Lengths in micrometres unless the name says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Name of the process file.
    pub name: String,
    /// Vacuum wavelength.
    pub wavelength_um: f64,
    /// Refractive index of the unwritten glass.
    pub index: f64,
    /// Raster pitch along x, y and depth.
    pub voxel_um: [f64; 3],
    /// Spots along x and y that a voxel is filled with.
    pub spots: [u32; 2],
    /// Whether glass around tiles is written.
    pub fill_written: bool,
    /// Number of design levels; the level after them is the fill's.
    pub levels: u8,
    /// Least signal-to-noise ratio of a tile, dB.
    pub snr_min_db: f64,
    /// Plate extent along x, y and z in millimetres.
    pub plate_mm: [f64; 3],
    /// Unwritten rim in millimetres.
    pub edge_mm: f64,
    /// Depth of the upper face of the first layer.
    pub clearance_um: f64,
    /// Least gap between tiles.
    pub gap_min_um: f64,
    /// Voxels a second.
    pub rate_hz: f64,
    /// Order of lines.
    pub raster: Raster,
    /// What gives a voxel its level.
    pub modulation: Modulation,
    /// Every so many-th voxel of a line is written in one pass of it, so that neighbours cool between.
    pub interleave: u32,
    /// Fastest travel along a line, millimetres a second.
    pub speed_max_mm_s: f64,
    /// Acceleration before and after a line, metres a second squared; nothing is written meanwhile.
    pub acceleration_m_s2: f64,
    /// Time lost at each pass of a line beside its ramps, milliseconds.
    pub line_turnaround_ms: f64,
    /// Time lost at each layer of a zone, milliseconds.
    pub layer_settle_ms: f64,
    /// Widest tile with its gap that a scanner's field holds; of [`Raster::Field`].
    pub field_um: f64,
    /// Time from field to field, milliseconds; of [`Raster::Field`].
    pub field_step_ms: f64,
    /// Distance of a mark's centre from the sides of its zone.
    pub mark_offset_um: f64,
    /// Side of a mark, a square.
    pub mark_um: f64,
    /// Time to find one mark again, milliseconds.
    pub mark_read_ms: f64,
    /// Side of a patch of the coupon, a square.
    pub patch_um: f64,
    /// Gap between patches.
    pub patch_gap_um: f64,
    /// Layers of a patch.
    pub patch_layers: usize,
    /// Numerical aperture of the writing objective, dry.
    pub numerical_aperture: f64,
    /// How stage travel follows from depth.
    pub focus: Focus,
    /// Longest write time of a zone, seconds.
    pub zone_limit_s: f64,
    /// Distance between zones.
    pub zone_moat_um: f64,
    /// Power of the light on a tile, all inputs together, milliwatts.
    pub power_mw: f64,
    /// Time over which an output is integrated, microseconds.
    pub integration_us: f64,
    /// Electrons a photon at the detectors.
    pub detector_efficiency: f64,
    /// Bits of the converters that drive the inputs.
    pub dac_bits: u32,
    /// Bits of the converters that read the outputs.
    pub adc_bits: u32,
    /// Relative expansion of the glass a kelvin.
    pub expansion_per_k: f64,
    /// What was measured of the writer; its levels and form factor are in place of the process's already.
    pub calibration: Calibration,
}

impl Process {
    /// Number of the level of glass around tiles.
    pub fn fill_level(&self) -> u8 {
        self.levels
    }

    /// Depth in glass a micrometre of stage travel.
    pub fn depth_ratio(&self) -> f64 {
        if let Some(measured) = self.calibration.depth_ratio {
            return measured;
        }
        let (n, na) = (self.index, self.numerical_aperture);
        match self.focus {
            Focus::Paraxial => n,
            Focus::Marginal => ((n * n - na * na) / (1.0 - na * na)).sqrt(),
        }
    }

    /// Depth of the first layer's upper face, nanometres.
    pub fn depth_nm(&self) -> i64 {
        (self.clearance_um * 1e3).round() as i64
    }

    /// Depth of a layer's centre.
    pub fn layer_depth_um(&self, layer: usize) -> f64 {
        self.clearance_um + (layer as f64 + 0.5) * self.voxel_um[2]
    }

    /// Stage travel to a layer's centre, nanometres: its depth in glass by the ratio, rounded.
    pub fn stage_z_nm(&self, layer: usize) -> i64 {
        let depth_nm = self.depth_nm() as f64 + (layer as f64 + 0.5) * (self.voxel_um[2] * 1e3);
        (depth_nm / self.depth_ratio()).round() as i64
    }

    /// Passes of a line that crosses tiles: one, or one for each level that changes the index, the fill's included.
    pub fn passes(&self) -> u32 {
        match self.modulation {
            Modulation::Voxel => 1,
            Modulation::Pass => u32::from(self.levels),
        }
    }

    /// Takes what every process has out of a document; of levels at most `levels_max`.
    pub(crate) fn read(f: &mut Fields, levels_max: u8) -> Process {
        let big = 1e9;
        let raster = f.choice("write", "raster", &[Raster::PlateLine, Raster::Field].map(|r| (r.name(), r)));
        let modulation =
            f.choice("write", "modulation", &[("voxel", Modulation::Voxel), ("pass", Modulation::Pass)]);
        let focus = f.choice("focus", "depth", &[Focus::Paraxial, Focus::Marginal].map(|r| (r.name(), r)));
        Process {
            name: f.name.to_owned(),
            wavelength_um: f.number("optics", "wavelength_um", 0.1, 20.0),
            index: f.number("optics", "index", 1.0, 4.0),
            voxel_um: ["x_um", "y_um", "z_um"].map(|k| f.number("voxel", k, 1e-2, 100.0)),
            spots: [1, 1],
            fill_written: true,
            levels: f.count("levels", "count", 2, usize::from(levels_max)) as u8,
            snr_min_db: f.number("design", "snr_min_db", -100.0, 100.0),
            plate_mm: ["x_mm", "y_mm", "z_mm"].map(|k| f.number("plate", k, 1e-2, 2e3)),
            edge_mm: f.number("plate", "edge_mm", 0.0, 1e3),
            clearance_um: f.number("plate", "clearance_um", 0.0, 1e6),
            gap_min_um: f.number("plate", "gap_min_um", 0.0, 1e5),
            rate_hz: f.number("write", "rate_hz", 1e-3, 1e15),
            raster,
            modulation,
            interleave: f.count("write", "interleave", 1, 1000) as u32,
            speed_max_mm_s: f.number("write", "speed_max_mm_s", 1e-6, big),
            acceleration_m_s2: f.number("write", "acceleration_m_s2", 1e-6, 1e12),
            line_turnaround_ms: f.number("write", "line_turnaround_ms", 0.0, big),
            layer_settle_ms: f.number("write", "layer_settle_ms", 0.0, big),
            field_um: f.number("write", "field_um", 1.0, 1e6),
            field_step_ms: f.number("write", "field_step_ms", 0.0, big),
            mark_offset_um: f.number("marks", "offset_um", 0.0, 1e5),
            mark_um: f.number("marks", "size_um", 0.1, 1e4),
            mark_read_ms: f.number("marks", "read_ms", 0.0, big),
            patch_um: f.number("coupon", "patch_um", 1.0, 1e4),
            patch_gap_um: f.number("coupon", "gap_um", 0.0, 1e4),
            patch_layers: f.count("coupon", "layers", 1, 1000),
            numerical_aperture: f.number("focus", "numerical_aperture", 1e-3, 0.99),
            focus,
            zone_limit_s: f.number("write", "zone_limit_s", 1e-6, big),
            zone_moat_um: f.number("write", "zone_moat_um", 0.0, 1e6),
            power_mw: f.number("light", "power_mw", 1e-12, 1e9),
            integration_us: f.number("light", "integration_us", 1e-9, 1e12),
            detector_efficiency: f.number("light", "detector_efficiency", 1e-6, 1.0),
            dac_bits: f.count("light", "dac_bits", 1, 32) as u32,
            adc_bits: f.count("light", "adc_bits", 1, 32) as u32,
            expansion_per_k: f.number("light", "expansion_per_k", 1e-9, 1.0),
            calibration: Calibration::default(),
        }
    }

    /// Reports what of it contradicts itself.
    pub(crate) fn check(&self, f: &mut Fields) {
        for (axis, mm) in ["x", "y", "z"].iter().zip(self.plate_mm).take(2) {
            if 2.0 * self.edge_mm >= mm {
                f.problem("plate.edge_mm", &format!("leaves nothing of the plate's {axis}_mm = {mm}"));
            }
        }
        if self.clearance_um >= self.plate_mm[2] * 1e3 {
            f.problem("plate.clearance_um", "is deeper than the plate is thick");
        }
        for (key, um) in ["x_um", "y_um", "z_um"].iter().zip(self.voxel_um) {
            if ((um * 1e3).round() - um * 1e3).abs() > 1e-6 {
                f.problem(&format!("voxel.{key}"), &format!("is {um}, not a whole number of nanometres"));
            }
        }
        let room = 0.5 * self.mark_um + self.voxel_um[0].max(self.voxel_um[1]);
        let most = (self.edge_mm * 1e3).min(0.5 * self.zone_moat_um) - 0.5 * self.mark_um;
        if self.mark_offset_um < room || self.mark_offset_um > most {
            let um = self.mark_offset_um;
            f.problem(
                "marks.offset_um",
                &format!("is {um}; between a zone and half of its moat, and the plate's edge, {room} to {most} are left"),
            );
        }
        if self.numerical_aperture >= self.index {
            f.problem("focus.numerical_aperture", "is not below the index of the glass");
        }
    }
}

/// Takes keys out of the document and collects what is wrong with them.
pub(crate) struct Fields<'a> {
    name: &'a str,
    /// Before names of tables in messages.
    prefix: &'static str,
    code: &'static Code,
    root: toml::Table,
    diags: Diagnostics,
}

impl<'a> Fields<'a> {
    /// The keys of a process file, and those of its `[calibration]`, if it has one.
    ///
    /// # Errors
    /// What is no TOML, or has something else of that name.
    pub(crate) fn open(name: &'a str, text: &str) -> Result<(Fields<'a>, Option<Fields<'a>>), Diagnostics> {
        let mut root: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let message = e.to_string();
            Diagnostic::error(&E0601, format!("process {name}: {}", message.trim_end()))
        })?;
        let measured = root.remove("calibration");
        let mut f = Fields { name, prefix: "", code: &E0601, root, diags: Diagnostics::new() };
        let measured = match measured {
            None => None,
            Some(toml::Value::Table(root)) => {
                Some(Fields { name, prefix: "calibration.", code: &E0621, root, diags: Diagnostics::new() })
            }
            Some(_) => {
                f.problem("calibration", "is not a table");
                return Err(f.diags);
            }
        };
        Ok((f, measured))
    }

    /// Reports the keys that nothing has taken.
    ///
    /// # Errors
    /// Everything that is wrong so far.
    pub(crate) fn end(&mut self) -> Result<(), Diagnostics> {
        self.unknown();
        if self.diags.has_errors() { Err(std::mem::take(&mut self.diags)) } else { Ok(()) }
    }

    /// Gives a process what its `[calibration]` says; what is wrong with it goes to `f`.
    pub(crate) fn calibrate(mut self, p: &mut Hologram, f: &mut Fields) {
        let calibration = Calibration::read(&mut self);
        self.unknown();
        if !self.diags.has_errors() {
            calibration.apply(p, &mut self);
        }
        f.diags.extend(self.diags);
    }

    /// The value, unless something is wrong.
    ///
    /// # Errors
    /// Everything that is.
    pub(crate) fn result<T>(self, value: T) -> Result<T, Diagnostics> {
        self.diags.into_result(value).map(|(value, _)| value)
    }

    /// Reports what is wrong with a key.
    pub(crate) fn problem(&mut self, key: &str, what: &str) {
        let message = format!("process {}: {}{key} {what}", self.name, self.prefix);
        self.diags.push(Diagnostic::error(self.code, message));
    }

    /// Reports a problem that has a code of its own.
    pub(crate) fn refuse(&mut self, what: Diagnostic) {
        self.diags.push(what);
    }

    /// Whether there is such a table.
    pub(crate) fn has(&self, table: &str) -> bool {
        self.root.contains_key(table)
    }

    /// A list of numbers, each within a range; empty where it is none.
    pub(crate) fn numbers(&mut self, table: &str, key: &str, low: f64, high: f64) -> Vec<f64> {
        let list = match self.take(table, key) {
            None => return Vec::new(),
            Some(toml::Value::Array(list)) => list,
            Some(other) => {
                self.problem(&format!("{table}.{key}"), &format!("is a {}, not a list", other.type_str()));
                return Vec::new();
            }
        };
        let numbers = list.iter().map(|v| v.as_float().or_else(|| v.as_integer().map(|i| i as f64)));
        match numbers.collect::<Option<Vec<f64>>>() {
            Some(numbers) if numbers.iter().all(|n| (low..=high).contains(n)) => numbers,
            _ => {
                self.problem(
                    &format!("{table}.{key}"),
                    &format!("is not a list of numbers within {low} to {high}"),
                );
                Vec::new()
            }
        }
    }

    fn take(&mut self, table: &str, key: &str) -> Option<toml::Value> {
        let v = self.root.get_mut(table).and_then(|t| t.as_table_mut()).and_then(|t| t.remove(key));
        if v.is_none() {
            self.problem(&format!("{table}.{key}"), "is missing");
        }
        v
    }

    /// A number within a range.
    pub(crate) fn number(&mut self, table: &str, key: &str, low: f64, high: f64) -> f64 {
        let value = match self.take(table, key) {
            None => return low,
            Some(toml::Value::Float(x)) => x,
            Some(toml::Value::Integer(i)) => i as f64,
            Some(other) => {
                self.problem(&format!("{table}.{key}"), &format!("is a {}, not a number", other.type_str()));
                return low;
            }
        };
        if !(low..=high).contains(&value) {
            self.problem(&format!("{table}.{key}"), &format!("is {value}, not within {low} to {high}"));
            return low;
        }
        value
    }

    /// A whole number within a range.
    pub(crate) fn count(&mut self, table: &str, key: &str, low: usize, high: usize) -> usize {
        match self.take(table, key) {
            None => low,
            Some(toml::Value::Integer(i)) => match usize::try_from(i) {
                Ok(u) if (low..=high).contains(&u) => u,
                _ => {
                    self.problem(&format!("{table}.{key}"), &format!("is {i}, not within {low} to {high}"));
                    low
                }
            },
            Some(other) => {
                self.problem(
                    &format!("{table}.{key}"),
                    &format!("is a {}, not an integer", other.type_str()),
                );
                low
            }
        }
    }

    fn text(&mut self, table: &str, key: &str) -> Option<String> {
        match self.take(table, key) {
            Some(toml::Value::String(s)) => Some(s),
            None => None,
            Some(other) => {
                self.problem(&format!("{table}.{key}"), &format!("is a {}, not a string", other.type_str()));
                None
            }
        }
    }

    /// One of several words; the first where it is none of them.
    pub(crate) fn choice<T: Copy>(&mut self, table: &str, key: &str, words: &[(&str, T)]) -> T {
        let word = self.text(table, key);
        let found = word.as_deref().and_then(|w| words.iter().find(|(name, _)| *name == w));
        if let (None, Some(word)) = (found, &word) {
            let all: Vec<String> = words.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.problem(&format!("{table}.{key}"), &format!("is {word:?}, not {}", all.join(" or ")));
        }
        found.unwrap_or(&words[0]).1
    }

    fn unknown(&mut self) {
        let mut left = Vec::new();
        for (table, value) in &self.root {
            match value {
                toml::Value::Table(t) => left.extend(t.keys().map(|k| format!("{table}.{k}"))),
                _ => left.push(table.clone()),
            }
        }
        for key in left {
            self.problem(&key, "is not a known key");
        }
    }
}
