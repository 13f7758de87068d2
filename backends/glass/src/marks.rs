//! What a plate carries beside zones: marks (fiducials) of each zone and a coupon of all levels.
//!
//! Marks lie in the moat around a zone's rectangle, in the zone's deepest layer, which is written first, and are found
//! again before each other layer. Their places are told apart from any turned or mirrored picture of them: three corners and
//! a third of the left side. A plate that lies upside down, or data mirrored on the way, shows at once.

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::codes::E0607;
use crate::process::Process;

/// Marks of a zone.
pub const MARKS: usize = 4;

/// Centres of the marks around a rectangle (x0, y0, x1, y1), `offset` from its sides, all in nanometres.
pub fn places([x0, y0, x1, y1]: [i64; 4], offset: i64) -> [[i64; 2]; MARKS] {
    let (left, low) = (x0 - offset, y0 - offset);
    [[left, low], [x1 + offset, low], [left, y1 + offset], [left, y0 + (y1 - y0) / 3]]
}

/// Patches of a plate's coupon.
#[derive(Debug, Clone, PartialEq)]
pub struct Coupon {
    /// Lower corner of each patch in nanometres; patch l has level l.
    pub corners_nm: Vec<[i64; 2]>,
    /// Side of a patch, nanometres along x and y: whole voxels.
    pub size_nm: [i64; 2],
    /// Layers of each, from the first layer down.
    pub layers: usize,
    /// Voxels of all patches.
    pub voxels: u64,
}

impl Coupon {
    /// The coupon of a process: a row of patches along x at the lower corner of a plate's usable part.
    ///
    /// # Errors
    /// When the plate is smaller.
    pub fn new(process: &Process) -> Result<Coupon, Diagnostics> {
        let levels = usize::from(process.fill_level()) + 1;
        let nm = |um: f64| (um * 1e3).round() as i64;
        let pitch = process.voxel_um.map(nm);
        let voxels = [0, 1].map(|a| (process.patch_um / process.voxel_um[a]).ceil() as i64);
        let size = [0, 1].map(|a| voxels[a] * pitch[a]);
        let gap = (process.patch_gap_um / process.voxel_um[0]).ceil() as i64 * pitch[0];
        let edge = nm(process.edge_mm * 1e3);
        let corners_nm: Vec<[i64; 2]> =
            (0..levels as i64).map(|l| [edge + l * (size[0] + gap), edge]).collect();
        let usable = [0, 1].map(|a| nm(process.plate_mm[a] * 1e3) - 2 * edge);
        let width = levels as i64 * (size[0] + gap) - gap;
        let bottom = process.clearance_um + process.patch_layers as f64 * process.voxel_um[2];
        if width > usable[0] || size[1] > usable[1] || bottom > process.plate_mm[2] * 1e3 {
            let message = format!(
                "the coupon takes {} x {} um and ends {bottom:.0} um deep; the plate has {} x {} x {} mm",
                width / 1000,
                size[1] / 1000,
                process.plate_mm[0],
                process.plate_mm[1],
                process.plate_mm[2]
            );
            return Err(Diagnostic::error(&E0607, message).into());
        }
        let one = (voxels[0] * voxels[1]) as u64 * process.patch_layers as u64;
        Ok(Coupon { voxels: one * levels as u64, corners_nm, size_nm: size, layers: process.patch_layers })
    }

    /// Rows of a plate that it keeps zones from, a moat included, nanometres.
    pub fn height_nm(&self, process: &Process) -> i64 {
        self.size_nm[1] + (process.zone_moat_um * 1e3).ceil() as i64
    }
}
