//! How large a schedule will be: a designed sample tile says how often each pair of neighbouring levels is there, which share a byte, and a
//! random layer with these frequencies is packed in the place of the layers of each tile. They differ with depth.

use std::collections::BTreeMap;

use pfmc_ir::tile::RealBlock;

use crate::born::{Born, Workspace};
use crate::design::{self, hash};
use crate::geometry::{Geometry, Request};
use crate::process::Process;
use crate::writer::{GlassPlan, pack};

/// Ports a row, input and output rows of the sample tile.
const SAMPLE: [usize; 3] = [32, 2, 2];
/// Parts of the depth whose levels are counted apart.
const DEPTHS: usize = 8;
/// Bytes of a frame around its body: length, kind, checksum.
const FRAME: f64 = 12.0;
/// Bytes of a tile's record beside its signs and its layers' places.
const RECORD: f64 = 260.0;

/// A number in [0, 1) from a seed and a counter.
fn uniform(seed: u32, counter: u32) -> f64 {
    f64::from(hash(seed, counter)) / 2f64.powi(32)
}

/// How often each pair of neighbouring levels along x, the second in the high half of a byte, is in a designed tile of random weights: for
/// each of [`DEPTHS`] parts of its depth and each byte the share of all up to it; nothing where the process has no such tile.
fn pair_shares(process: &Process) -> Vec<Vec<f64>> {
    let [columns, rows_in, rows_out] = SAMPLE;
    let Ok(g) = Geometry::new(process, Request::new(columns, rows_in, rows_out)) else { return Vec::new() };
    let (k, n) = (g.inputs(), g.outputs() * process.quadrature.weights_a_grating());
    let values =
        (0..(k * n) as u32).map(|i| (0..4).map(|j| uniform(j + 1, i)).sum::<f64>() as f32 - 2.0).collect();
    let born = Born::new(&g, k, g.outputs());
    let weights = RealBlock { k, n, values };
    let d = design::design(process, &g, &born, &mut Workspace::default(), &weights, [&[], &[]], 1);
    let [nx, ny, nz] = g.voxels;
    let parts = d.levels.chunks(nz.div_ceil(DEPTHS) * nx * ny);
    parts
        .map(|levels| {
            let mut shares = vec![0f64; 256];
            for pair in levels.chunks_exact(2) {
                if let Some(share) = shares.get_mut(usize::from(pair[0] | pair[1] << 4)) {
                    *share += 2.0 / levels.len() as f64;
                }
            }
            let mut sum = 0.0;
            shares.iter_mut().for_each(|share| {
                sum += *share;
                *share = sum;
            });
            shares
        })
        .collect()
}

/// Expected bytes of the layers of one tile, and of its records.
fn tile_bytes(g: &Geometry, depths: &[Vec<f64>], ports: usize) -> f64 {
    let [nx, ny, nz] = g.voxels;
    let part = |shares: &Vec<f64>| {
        let levels: Vec<u8> = (0..(nx * ny / 2) as u32)
            .flat_map(|i| {
                let u = uniform(7, i);
                let byte = shares.partition_point(|&s| s <= u).min(255) as u8;
                [byte & 15, byte >> 4]
            })
            .collect();
        // What compression could fail of a layer that is in memory does not happen; a layer is then as large as its levels.
        pack(0, &levels, nx).map_or(levels.len() / 2, |p| p.levels.len() + 4 * p.line_crc32.len()) as f64
    };
    let part = depths.iter().map(part).sum::<f64>() / depths.len().max(1) as f64;
    // Numbers of tile, zone and layer, lengths; a place in the index.
    let layers = nz as f64 * (part + FRAME + 14.0 + 5.0);
    layers + RECORD + FRAME + ports as f64 / 8.0
}

/// Expected bytes of the schedule of a plan.
pub(crate) fn schedule_bytes(plan: &GlassPlan<'_>) -> f64 {
    let shares = pair_shares(plan.process);
    let mut known: BTreeMap<[usize; 3], f64> = BTreeMap::new();
    let tiles = plan.members.values().map(|m| {
        let ports = m.inputs + plan.ports(m);
        let bytes = known.entry(m.geometry.voxels).or_insert_with(|| tile_bytes(&m.geometry, &shares, ports));
        *bytes
    });
    tiles.sum()
}
