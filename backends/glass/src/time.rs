//! How long writing takes, by cause.
//!
//! A line of `d` micrometres is travelled at constant speed `v`, the least of `rate * pitch of spots * interleave` and the
//! fastest travel; before and after it the stage or scanner takes `v / a` each to get that fast from rest and to rest again,
//! while nothing is written. A line is passed `passes * interleave` times: once a level where pulses are not modulated, and
//! with every interleave-th spot each time. *Exposure* is what one pass of all voxels would take without any of that;
//! its share of the whole is the duty.

use crate::process::{Process, Raster};

/// Seconds of writing by cause.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seconds {
    /// Every voxel once, at the highest rate that the travel allows.
    pub exposure: f64,
    /// Further travel of lines that are passed more than once.
    pub passes: f64,
    /// Ramps and turnaround at the ends of passes.
    pub line_ends: f64,
    /// Layers' settling.
    pub settling: f64,
    /// Marks, found again before each layer but the first.
    pub marks: f64,
    /// Steps from field to field.
    pub fields: f64,
}

impl Seconds {
    /// Causes by name.
    pub fn terms(&self) -> [(&'static str, f64); 6] {
        [
            ("exposure", self.exposure),
            ("further passes", self.passes),
            ("ends of lines", self.line_ends),
            ("settling of layers", self.settling),
            ("marks", self.marks),
            ("field steps", self.fields),
        ]
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.terms().iter().map(|t| t.1).sum()
    }

    /// Share of the time in which voxels are exposed; 1 of nothing.
    pub fn duty(&self) -> f64 {
        let total = self.total();
        if total > 0.0 { self.exposure / total } else { 1.0 }
    }
}

impl std::ops::AddAssign for Seconds {
    fn add_assign(&mut self, o: Seconds) {
        self.exposure += o.exposure;
        self.passes += o.passes;
        self.line_ends += o.line_ends;
        self.settling += o.settling;
        self.marks += o.marks;
        self.fields += o.fields;
    }
}

impl std::iter::Sum for Seconds {
    fn sum<I: Iterator<Item = Seconds>>(all: I) -> Seconds {
        let mut sum = Seconds::default();
        all.for_each(|s| sum += s);
        sum
    }
}

/// Equal lines along x of voxels; each is as many lines of spots as a voxel has along y.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lines {
    /// How many.
    pub count: f64,
    /// Voxels of each.
    pub voxels: f64,
    /// Whether they cross tiles: those of fill alone need one level.
    pub tiles: bool,
}

/// Distance of spots along a line, micrometres.
fn spot_um(p: &Process) -> f64 {
    p.voxel_um[0] / f64::from(p.spots[0])
}

/// Spots a second in one pass of a line: the laser's rate, or what the fastest travel allows.
pub fn spots_a_second(p: &Process) -> f64 {
    p.rate_hz.min(p.speed_max_mm_s * 1e3 / spot_um(p))
}

/// Seconds lost at the two ends of one pass of a line.
pub fn ends_s(p: &Process) -> f64 {
    2.0 * speed_um_s(p) * 1e-6 / p.acceleration_m_s2 + p.line_turnaround_ms * 1e-3
}

/// Travel along a line, micrometres a second.
fn speed_um_s(p: &Process) -> f64 {
    (p.rate_hz * spot_um(p) * f64::from(p.interleave)).min(p.speed_max_mm_s * 1e3)
}

/// Exposure, further passes and ends of some lines.
pub fn lines(p: &Process, lines: &Lines) -> Seconds {
    let passes = f64::from(p.interleave) * if lines.tiles { f64::from(p.passes()) } else { 1.0 };
    let count = lines.count * f64::from(p.spots[1]);
    let exposure = count * lines.voxels * f64::from(p.spots[0]) / spots_a_second(p);
    let travel = count * passes * lines.voxels * p.voxel_um[0] / speed_um_s(p);
    Seconds {
        exposure,
        passes: (travel - exposure).max(0.0),
        line_ends: count * passes * ends_s(p),
        ..Seconds::default()
    }
}

/// Tiles side by side along x, in voxels: the rows they share, the height of each, and the rows to the next such row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shelf {
    /// Rows of each tile.
    pub heights: Vec<f64>,
    /// Rows that belong to the shelf: to the next one's first, or the zone's end.
    pub rows: f64,
}

/// Time of a zone of the given layers, `width` voxels along x, whose shelves' rows cover it, with `marks` marks in its
/// first layer.
pub fn zone(p: &Process, width: f64, shelves: &[Shelf], layers: usize, marks: usize) -> Seconds {
    let layers = layers as f64;
    // Lines of fill alone are left out where it is not written.
    let fill = |count: f64| if p.fill_written { count } else { 0.0 };
    let (mut layer, mut fields) = (Seconds::default(), 0usize);
    for shelf in shelves {
        match p.raster {
            Raster::PlateLine => {
                let tiled = shelf.heights.iter().fold(0.0, |a: f64, &h| a.max(h)).min(shelf.rows);
                layer += self::lines(p, &Lines { count: tiled, voxels: width, tiles: true });
                layer +=
                    self::lines(p, &Lines { count: fill(shelf.rows - tiled), voxels: width, tiles: false });
            }
            Raster::Field => {
                // Each tile with a part of the gaps is a field; their widths add to the zone's.
                let voxels = width / shelf.heights.len().max(1) as f64;
                for &h in &shelf.heights {
                    layer += self::lines(p, &Lines { count: h, voxels, tiles: true });
                    layer += self::lines(p, &Lines { count: fill(shelf.rows - h), voxels, tiles: false });
                }
                fields += shelf.heights.len();
            }
        }
    }
    let mark = Lines {
        count: marks as f64 * (p.mark_um / p.voxel_um[1]).ceil(),
        voxels: (p.mark_um / p.voxel_um[0]).ceil(),
        tiles: false,
    };
    let mut all = self::lines(p, &mark);
    all += Seconds {
        exposure: layers * layer.exposure,
        passes: layers * layer.passes,
        line_ends: layers * layer.line_ends,
        settling: layers * p.layer_settle_ms * 1e-3,
        marks: (layers - 1.0).max(0.0) * marks as f64 * p.mark_read_ms * 1e-3,
        fields: layers * fields as f64 * p.field_step_ms * 1e-3,
    };
    all
}

/// Time of a coupon of `patches` patches.
pub fn coupon(p: &Process, patches: usize) -> Seconds {
    let rows = (p.patch_um / p.voxel_um[1]).ceil();
    let line = Lines {
        count: rows * (patches * p.patch_layers) as f64,
        voxels: (p.patch_um / p.voxel_um[0]).ceil(),
        tiles: false,
    };
    let mut all = lines(p, &line);
    all.settling += p.patch_layers as f64 * p.layer_settle_ms * 1e-3;
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hologram::Hologram;
    use crate::process::Modulation;

    fn stage() -> Process {
        let text = crate::Glass;
        let p = pfmc_ir::backend::Backend::processes(&text);
        let p = p.iter().find(|p| p.name == "borosilicate-stage-100mm-s").unwrap();
        Hologram::parse("stage", &p.toml).unwrap().base
    }

    #[test]
    fn a_stage_of_100_mm_s_and_10_m_s2_writes_short_lines_a_fifth_of_the_time() {
        let p = stage();
        // 100 mm/s from rest at 10 m/s2 takes 10 ms, twice a line; 512 um take 5.12 ms, 120 mm 1.2 s.
        assert!((ends_s(&p) - 0.02).abs() < 1e-12);
        for (um, duty) in [(512.0, 5.12 / 25.12), (120_000.0, 1.2 / 1.22)] {
            let t = lines(&p, &Lines { count: 7.0, voxels: um / p.voxel_um[0], tiles: true });
            assert!((t.duty() - duty).abs() < 1e-9, "{um}: {}", t.duty());
            assert!((t.exposure - 7.0 * um * 1e-5).abs() < 1e-9);
        }
    }

    #[test]
    fn passes_and_interleaving_multiply_travel_and_ends() {
        let line = Lines { count: 1.0, voxels: 1000.0, tiles: true };
        let p = stage();
        let once = lines(&p, &line);
        let shutter = lines(&Process { modulation: Modulation::Pass, ..p.clone() }, &line);
        // Seven levels above 0 and the fill's.
        assert!((shutter.line_ends / once.line_ends - 8.0).abs() < 1e-9);
        assert!((shutter.passes - 7.0 * once.exposure).abs() < 1e-12 && shutter.exposure == once.exposure);
        let fill =
            lines(&Process { modulation: Modulation::Pass, ..p.clone() }, &Lines { tiles: false, ..line });
        assert_eq!(fill, once);
        // A stage as fast as it goes passes four times; a faster scanner spreads the pulses and loses ends alone.
        let slow = lines(&Process { interleave: 4, ..p.clone() }, &line);
        assert!((slow.passes - 3.0 * once.exposure).abs() < 1e-12);
        let fast = lines(&Process { interleave: 4, speed_max_mm_s: 1e4, ..p.clone() }, &line);
        assert!(fast.passes.abs() < 1e-12 && (fast.line_ends / once.line_ends - 16.0).abs() < 1e-9);
    }

    #[test]
    fn a_zone_by_hand() {
        // Two layers of one shelf: 30 rows of 400 voxels, tiles of 10 and 20 rows; 1 ms of exposure a line of 200.
        let p = Process { layer_settle_ms: 100.0, mark_read_ms: 50.0, field_step_ms: 7.0, ..stage() };
        let shelf = Shelf { heights: vec![10.0, 20.0], rows: 30.0 };
        let marks = 4.0 * 20.0;
        let t = zone(&p, 400.0, std::slice::from_ref(&shelf), 2, 4);
        let voxels = 2.0 * 30.0 * 400.0 + marks * 40.0;
        assert!((t.exposure - voxels / 2e5).abs() < 1e-9, "{t:?}");
        assert!((t.line_ends - (60.0 + marks) * 0.02).abs() < 1e-9);
        assert!((t.settling - 0.2).abs() < 1e-12 && (t.marks - 0.2).abs() < 1e-12 && t.fields == 0.0);
        // By fields each row has two lines, of 200 voxels.
        let f = zone(&Process { raster: Raster::Field, ..p }, 400.0, &[shelf], 2, 4);
        assert!((f.exposure - t.exposure).abs() < 1e-9);
        assert!((f.line_ends - (120.0 + marks) * 0.02).abs() < 1e-9 && (f.fields - 0.028).abs() < 1e-12);
    }
}
