//! How large a schedule will be: a designed sample tile says how often each pair of neighbouring levels is there, which share a byte, and a
//! random layer with these frequencies is packed in the place of the layers of each tile. They differ with depth. Of a mask a layer of each
//! tile's size is designed.

use std::collections::BTreeMap;

use pfmc_ir::tile::RealBlock;

use crate::born::{Born, Workspace};
use crate::design::{self, hash};
use crate::geometry::{Geometry, Request};
use crate::hologram::Hologram;
use crate::lowering::{Job, Lowering, Space};
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
fn pair_shares(process: &Hologram) -> Vec<Vec<f64>> {
    let [columns, rows_in, rows_out] = SAMPLE;
    let Ok(g) = Geometry::new(process, Request::new(columns, rows_in, rows_out)) else { return Vec::new() };
    let (k, n) = (g.inputs(), g.outputs() * process.quadrature.weights_a_grating());
    let born = Born::new(&g, k, g.outputs());
    let weights = weights(k, n);
    // Rounds would take longer than all else of a plan.
    let d =
        design::design(&process.first_order(), &g, &born, &mut Workspace::default(), &weights, [&[], &[]], 1);
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

/// Bytes of a packed layer.
fn layer_bytes(levels: &[u8], nx: usize, bits: u32) -> f64 {
    // What compression could fail of a layer that is in memory does not happen; a layer is then as large as its levels.
    pack(0, levels, nx, bits).map_or(levels.len(), |p| p.levels.len() + 4 * p.line_crc32.len()) as f64
}

/// Normal-like weights of a tile.
fn weights(k: usize, n: usize) -> RealBlock {
    let values =
        (0..(k * n) as u32).map(|i| (0..4).map(|j| uniform(j + 1, i)).sum::<f64>() as f32 - 2.0).collect();
    RealBlock { k, n, values }
}

/// Expected bytes of a layer of a hologram, by the shares of pairs of levels.
fn hologram_layer(depths: &[Vec<f64>], space: &Space) -> f64 {
    let [nx, ny, _] = space.voxels;
    let part = |shares: &Vec<f64>| {
        let levels: Vec<u8> = (0..(nx * ny / 2) as u32)
            .flat_map(|i| {
                let u = uniform(7, i);
                let byte = shares.partition_point(|&s| s <= u).min(255) as u8;
                [byte & 15, byte >> 4]
            })
            .collect();
        layer_bytes(&levels, nx, 4)
    };
    depths.iter().map(part).sum::<f64>() / depths.len().max(1) as f64
}

/// Expected bytes of the schedule of a plan.
pub(crate) fn schedule_bytes(plan: &GlassPlan<'_>) -> f64 {
    let shares = match plan.lowering {
        Lowering::Hologram(h) => pair_shares(h),
        Lowering::Mask(_) => Vec::new(),
    };
    let mut known: BTreeMap<[usize; 3], f64> = BTreeMap::new();
    let tiles = plan.members.values().map(|m| {
        let layer = *known.entry(m.space.voxels).or_insert_with(|| match plan.lowering {
            Lowering::Hologram(_) => hologram_layer(&shares, &m.space),
            Lowering::Mask(mask) => {
                let [nx, ny, _] = m.space.voxels;
                let designed = Job::Mask(mask).design(&weights(m.inputs, m.outputs), 0);
                layer_bytes(&designed.levels[..nx * ny], nx, plan.lowering.level_bits())
            }
        });
        // Numbers of tile, zone and layer, lengths; a place in the index.
        let layers = m.space.voxels[2] as f64 * (layer + FRAME + 14.0 + 5.0);
        let ports = match plan.lowering {
            Lowering::Hologram(_) => (m.inputs + plan.ports(m)) as f64 / 8.0,
            Lowering::Mask(_) => 8.0 * m.outputs as f64,
        };
        layers + RECORD + FRAME + ports
    });
    tiles.sum()
}
