//! The process file: facts of one glass-writing process, read from TOML.
//!
//! Every key is required, every value is checked, and all problems are reported together. See
//! `process/borosilicate-phase.toml` for the meaning of each key.

use pfmc_ir::diag::{Code, Diagnostic, Diagnostics};

use crate::calibration::Calibration;
use crate::codes::{E0601, E0621};

/// Shape of one written voxel, which multiplies the transfer matrix by `s(K)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FormFactor {
    /// Index change constant over the raster pitch: `prod sin(K_a p_a / 2) / (K_a p_a / 2)`.
    Box,
    /// Gaussian of the given full widths at half maximum in micrometres:
    /// `prod exp(-K_a^2 w_a^2 / (16 ln 2))`.
    Gaussian([f64; 3]),
}

/// What is read of an output by homodyne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quadrature {
    /// One quadrature: a weight a grating, real.
    Single,
    /// Both: two weights a grating, those of columns 2j and 2j + 1 as real and imaginary part of output j.
    Dual,
}

impl Quadrature {
    /// Name in process files and schedules.
    pub fn name(self) -> &'static str {
        match self {
            Quadrature::Single => "single",
            Quadrature::Dual => "dual",
        }
    }

    /// Output ports that `columns` columns of a matrix take.
    pub fn ports(self, columns: usize) -> usize {
        columns.div_ceil(self.weights_a_grating())
    }

    /// Real weights one grating holds.
    pub fn weights_a_grating(self) -> usize {
        match self {
            Quadrature::Single => 1,
            Quadrature::Dual => 2,
        }
    }
}

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

/// A validated glass process. Lengths in micrometres unless the name says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Name of the process file.
    pub name: String,
    /// Vacuum wavelength.
    pub wavelength_um: f64,
    /// Refractive index of the unwritten glass.
    pub index: f64,
    /// Angle in glass of the centres of the input (negative) and output (positive) ports, degrees.
    pub theta0_deg: f64,
    /// What is read of an output.
    pub quadrature: Quadrature,
    /// Raster pitch along x, y and depth.
    pub voxel_um: [f64; 3],
    /// Shape of a voxel.
    pub form_factor: FormFactor,
    /// Number of design levels, 2 to 15.
    pub levels: u8,
    /// Half of the level range in units of `dn_rms`.
    pub clip_sigma: f64,
    /// Root mean square index change of the hologram before rounding.
    pub dn_rms: f64,
    /// Largest index change that the process writes.
    pub dn_max: f64,
    /// Most ports a row.
    pub columns_max: usize,
    /// Most rows of ports on a side.
    pub rows_max: usize,
    /// Tile width along x for each column.
    pub width_per_column_um: f64,
    /// Tile length along z for each column.
    pub length_per_column_um: f64,
    /// Tile height along y for each pair of an input and an output row.
    pub height_per_row_pair_um: f64,
    /// Least conditioning number.
    pub kappa_min: f64,
    /// Conjugate-gradient steps.
    pub cg_steps: usize,
    /// Projections that bring the hologram into the range of the levels.
    pub clip_steps: usize,
    /// Most steps of level flips.
    pub flip_steps: usize,
    /// Signal-to-noise ratio at which flips stop, dB.
    pub snr_target_db: f64,
    /// Least signal-to-noise ratio of a tile, dB.
    pub snr_min_db: f64,
    /// Most rounds of flips against multiple scattering; 0 takes tiles in the first Born approximation.
    pub propagation_rounds: usize,
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
    /// Relative root mean square error of a voxel's index change.
    pub energy_rms: f64,
    /// Root mean square error of a voxel's place along x, nanometres.
    pub voxel_jitter_nm: f64,
    /// Root mean square error of a layer's place along x, nanometres.
    pub layer_registration_nm: f64,
    /// Relative root mean square error of a layer's index change.
    pub layer_gain_rms: f64,
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
    /// Mean index change of written glass: `clip_sigma * dn_rms`, the middle of the level range.
    pub fn bias_dn(&self) -> f64 {
        self.clip_sigma * self.dn_rms
    }

    /// Step from level to level in units of `dn_rms`.
    pub fn level_step(&self) -> f64 {
        2.0 * self.clip_sigma / f64::from(self.levels - 1)
    }

    /// Index change of each level; the entry after the design levels is exactly the bias and fills
    /// the glass around tiles.
    pub fn level_table(&self) -> Vec<f64> {
        let last = f64::from(self.levels - 1);
        let mut t: Vec<f64> = (0..self.levels).map(|l| 2.0 * self.bias_dn() * f64::from(l) / last).collect();
        t.push(self.bias_dn());
        t
    }

    /// Number of the level that is exactly the bias.
    pub fn bias_level(&self) -> u8 {
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

    /// Wave number in written glass, radians a micrometre: `2 pi (n + b) / lambda`.
    pub fn wave_number(&self) -> f64 {
        std::f64::consts::TAU * (self.index + self.bias_dn()) / self.wavelength_um
    }

    /// Reads and checks a process file.
    ///
    /// # Errors
    /// Every problem of the text: syntax, missing and unknown keys, values out of range,
    /// contradictions.
    pub fn parse(name: &str, text: &str) -> Result<Process, Diagnostics> {
        let mut root: toml::Table = match text.parse() {
            Ok(t) => t,
            Err(e) => {
                let message = e.to_string();
                return Err(
                    Diagnostic::error(&E0601, format!("process {name}: {}", message.trim_end())).into()
                );
            }
        };
        let measured = root.remove("calibration");
        let mut f = Fields { name, prefix: "", code: &E0601, root, diags: Diagnostics::new() };
        let big = 1e9;
        let gaussian = f.choice("voxel", "form_factor", &[("box", false), ("gaussian", true)]);
        let quadrature =
            f.choice("optics", "quadrature", &[Quadrature::Single, Quadrature::Dual].map(|q| (q.name(), q)));
        let raster = f.choice("write", "raster", &[Raster::PlateLine, Raster::Field].map(|r| (r.name(), r)));
        let modulation =
            f.choice("write", "modulation", &[("voxel", Modulation::Voxel), ("pass", Modulation::Pass)]);
        let focus = f.choice("focus", "depth", &[Focus::Paraxial, Focus::Marginal].map(|r| (r.name(), r)));
        let fwhm = ["fwhm_x_um", "fwhm_y_um", "fwhm_z_um"].map(|k| f.number("voxel", k, 1e-3, 100.0));
        let form_factor = if gaussian { FormFactor::Gaussian(fwhm) } else { FormFactor::Box };
        let mut p = Process {
            name: name.to_owned(),
            wavelength_um: f.number("optics", "wavelength_um", 0.1, 20.0),
            index: f.number("optics", "index", 1.0, 4.0),
            quadrature,
            theta0_deg: f.number("optics", "theta0_deg", 0.1, 80.0),
            voxel_um: ["x_um", "y_um", "z_um"].map(|k| f.number("voxel", k, 1e-2, 100.0)),
            form_factor,
            levels: f.count("levels", "count", 2, 15) as u8,
            clip_sigma: f.number("levels", "clip_sigma", 0.1, 10.0),
            dn_rms: f.number("levels", "dn_rms", 1e-8, 0.1),
            dn_max: f.number("levels", "dn_max", 1e-8, 1.0),
            columns_max: f.count("tile", "columns_max", 8, 512),
            rows_max: f.count("tile", "rows_max", 1, 32),
            width_per_column_um: f.number("tile", "width_per_column_um", 1e-2, 1e3),
            length_per_column_um: f.number("tile", "length_per_column_um", 1e-2, 1e4),
            height_per_row_pair_um: f.number("tile", "height_per_row_pair_um", 1e-2, 1e3),
            kappa_min: f.number("tile", "kappa_min", 0.0, 100.0),
            cg_steps: f.count("design", "cg_steps", 1, 1000),
            clip_steps: f.count("design", "clip_steps", 0, 100),
            flip_steps: f.count("design", "flip_steps", 0, 10_000),
            snr_target_db: f.number("design", "snr_target_db", 0.0, 100.0),
            snr_min_db: f.number("design", "snr_min_db", -100.0, 100.0),
            propagation_rounds: f.count("design", "propagation_rounds", 0, 100),
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
            energy_rms: f.number("noise", "energy_rms", 0.0, 10.0),
            voxel_jitter_nm: f.number("noise", "voxel_jitter_nm", 0.0, 1e6),
            layer_registration_nm: f.number("noise", "layer_registration_nm", 0.0, 1e6),
            layer_gain_rms: f.number("noise", "layer_gain_rms", 0.0, 10.0),
            power_mw: f.number("light", "power_mw", 1e-12, 1e9),
            integration_us: f.number("light", "integration_us", 1e-9, 1e12),
            detector_efficiency: f.number("light", "detector_efficiency", 1e-6, 1.0),
            dac_bits: f.count("light", "dac_bits", 1, 32) as u32,
            adc_bits: f.count("light", "adc_bits", 1, 32) as u32,
            expansion_per_k: f.number("light", "expansion_per_k", 1e-9, 1.0),
            calibration: Calibration::default(),
        };
        f.unknown();
        if f.diags.has_errors() {
            return Err(f.diags);
        }
        let root = match measured {
            None => toml::Table::new(),
            Some(toml::Value::Table(t)) => t,
            Some(_) => {
                f.problem("calibration", "is not a table");
                return Err(f.diags);
            }
        };
        let mut m = Fields { name, prefix: "calibration.", code: &E0621, root, diags: Diagnostics::new() };
        let calibration = Calibration::read(&mut m);
        m.unknown();
        if !m.diags.has_errors() {
            calibration.apply(&mut p, &mut m);
        }
        f.diags.extend(m.diags);
        let largest = 2.0 * p.bias_dn();
        if largest > p.dn_max {
            f.problem(
                "levels.dn_max",
                &format!("is {}, but the largest level, 2 * clip_sigma * dn_rms, is {largest:.3e}", p.dn_max),
            );
        }
        for (axis, mm) in ["x", "y", "z"].iter().zip(p.plate_mm).take(2) {
            if 2.0 * p.edge_mm >= mm {
                f.problem("plate.edge_mm", &format!("leaves nothing of the plate's {axis}_mm = {mm}"));
            }
        }
        if p.clearance_um >= p.plate_mm[2] * 1e3 {
            f.problem("plate.clearance_um", "is deeper than the plate is thick");
        }
        for (key, um) in ["x_um", "y_um", "z_um"].iter().zip(p.voxel_um) {
            if ((um * 1e3).round() - um * 1e3).abs() > 1e-6 {
                f.problem(&format!("voxel.{key}"), &format!("is {um}, not a whole number of nanometres"));
            }
        }
        let room = 0.5 * p.mark_um + p.voxel_um[0].max(p.voxel_um[1]);
        let most = (p.edge_mm * 1e3).min(0.5 * p.zone_moat_um) - 0.5 * p.mark_um;
        if p.mark_offset_um < room || p.mark_offset_um > most {
            let um = p.mark_offset_um;
            f.problem(
                "marks.offset_um",
                &format!("is {um}; between a zone and half of its moat, and the plate's edge, {room} to {most} are left"),
            );
        }
        if p.numerical_aperture >= p.index {
            f.problem("focus.numerical_aperture", "is not below the index of the glass");
        }
        if p.snr_target_db < p.snr_min_db {
            f.problem("design.snr_target_db", "is below snr_min_db");
        }
        f.diags.into_result(p).map(|(p, _)| p)
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

impl Fields<'_> {
    /// Reports what is wrong with a key.
    pub(crate) fn problem(&mut self, key: &str, what: &str) {
        let message = format!("process {}: {}{key} {what}", self.name, self.prefix);
        self.diags.push(Diagnostic::error(self.code, message));
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

    fn count(&mut self, table: &str, key: &str, low: usize, high: usize) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../process/borosilicate-phase.toml");

    #[test]
    fn the_built_in_process_is_valid_and_its_bias_lies_between_levels() {
        let p = Process::parse("t", TEXT).unwrap();
        let t = p.level_table();
        assert_eq!(t.len(), 9);
        assert!(t[3] < t[8] && t[8] < t[4]);
        assert!((t.iter().take(8).sum::<f64>() / 8.0 - p.bias_dn()).abs() < 1e-12);
    }

    #[test]
    fn every_problem_of_a_file_is_reported_at_once() {
        let text = TEXT
            .replace("wavelength_um = 0.85", "wavelength_um = -1")
            .replace("count = 8", "count = 8.5")
            .replace("rate_hz = 1.0e7", "rate_khz = 1.0e4")
            .replace("form_factor = \"box\"", "form_factor = \"round\"");
        let e = Process::parse("bad", &text).unwrap_err();
        let all = e.to_string();
        assert_eq!(e.0.len(), 5, "{all}");
        for part in [
            "optics.wavelength_um",
            "levels.count",
            "write.rate_hz is missing",
            "write.rate_khz is not",
            "round",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        let contradiction = TEXT
            .replace("dn_max = 1.0e-3", "dn_max = 1.0e-4")
            .replace("clearance_um = 40.0", "clearance_um = 4000.0");
        assert_eq!(Process::parse("bad", &contradiction).unwrap_err().0.len(), 2);
        assert!(Process::parse("bad", "a = [").unwrap_err().to_string().contains("E0601"));
    }
}
