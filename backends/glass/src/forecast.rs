//! What tiles should reach before they are designed, and what a designer may choose for it.
//!
//! A probe, a small tile of the process's family, is designed for weights of the model: those of whose many blocks it reaches least.
//! Its budget carries over to any tile: by its signal
//! against white noise goes as the weights a voxel, and so does what layers disagree about (the gratings that share a
//! transverse frequency go as the columns, over the layers); power in the gratings is the same share of the hologram's.

use std::collections::BTreeMap;

use pfmc_ir::backend::Settings;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::tile::{RealBlock, TileContent, TileId, TileSource};
use rayon::prelude::*;

use crate::born::{Born, Workspace};
use crate::budget::{Budget, Spread, efficiency};
use crate::design::{design, hash, signs};
use crate::geometry::{Geometry, smooth};
use crate::hologram::Hologram;
use crate::process::Modulation;

/// Ports a side of the probe, at most.
const PORTS: usize = 128;
/// Fewest columns of a tile.
const COLUMNS_MIN: usize = 8;

/// Factors of the process's clip that are tried.
const CLIPS: [f64; 3] = [1.0, 0.85, 0.7];
/// Factors of the process's index change.
const STRENGTHS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 8.0];
/// Factors of a column's width; its length keeps the conditioning.
const WIDTHS: [f64; 3] = [0.75, 0.875, 1.0];
/// Further factors of its length.
const LENGTHS: [f64; 11] = [1.0, 1.02, 1.1, 1.19, 1.41, 1.68, 2.0, 2.83, 4.0, 5.66, 8.0];
/// Factors of the height of a pair of rows.
const HEIGHTS: [f64; 3] = [1.0, 2.0, 4.0];
/// Fewer levels, where each costs a pass.
const LEVELS: [u8; 2] = [4, 2];

/// A designed probe.
struct Probe {
    spread: Spread,
    weights_a_voxel: f64,
    /// Sum of the squares of gains times weights, in units of `dn_rms` squared.
    power: f64,
}

impl Probe {
    /// Rows and columns of weights that a probe holds, at most.
    fn most(process: &Hologram) -> [usize; 2] {
        let ports = PORTS.min(process.columns_max * process.rows_max);
        [ports, ports * process.quadrature.weights_a_grating()]
    }

    fn measure(process: &Hologram, weights: &RealBlock) -> Result<Probe, Diagnostics> {
        let weights = &spread_over(weights, Probe::most(process));
        let (k, ports) = (weights.k, process.quadrature.ports(weights.n));
        let g = Geometry::choose(process, k, ports)?;
        let power: f64 = weights.values.iter().map(|v| f64::from(*v).powi(2)).sum();
        let born = Born::new(&g, k, ports);
        let signs = [signs(1, k), signs(2, ports)];
        let ports_signs = [&signs[0][..], &signs[1][..]];
        // Rounds are taken to reach what the levels alone reach.
        let first_order = process.first_order();
        let d = design(&first_order, &g, &born, &mut Workspace::default(), weights, ports_signs, hash(0, 1));
        let relative = |db: f64| 10f64.powf(-db / 10.0);
        Ok(Probe {
            spread: Spread {
                layers: Spread::layers(&g, [k, ports], &d.levels, process.level_step(), d.noise_gain),
                noise_gain: d.noise_gain,
                written_square: d.written_square,
                efficiency: 0.0,
                levels: relative(d.snr_db),
                unread: relative(d.snr_complex_db),
            },
            weights_a_voxel: (k * ports) as f64 / g.voxel_count() as f64,
            power: (d.gain / process.dn_rms).powi(2) * power,
        })
    }

    fn budget(&self, process: &Hologram, g: &Geometry, [inputs, ports]: [usize; 2]) -> Budget {
        let dense = (inputs * ports) as f64 / g.voxel_count() as f64 / self.weights_a_voxel;
        let spread = Spread {
            layers: self.spread.layers * dense,
            noise_gain: self.spread.noise_gain * dense,
            efficiency: efficiency(process, g.size_um().z, process.dn_rms, self.power, inputs),
            ..self.spread
        };
        Budget::new(process, g, ports, &spread)
    }
}

/// Rows and columns spread over a block, as many as a probe has inputs and outputs, or all.
fn spread_over(block: &RealBlock, [inputs, outputs]: [usize; 2]) -> RealBlock {
    let [k, n] = [block.k.min(inputs), block.n.min(outputs)];
    let place = |i: usize, of: usize, all: usize| i * all / of.max(1);
    let at = |i: usize| place(i / n, k, block.k) * block.n + place(i % n, n, block.n);
    RealBlock { k, n, values: (0..k * n).filter_map(|i| block.values.get(at(i)).copied()).collect() }
}

/// Of some tiles' weights, in small, those whose probe reaches least at the lowest clip: a strong common component makes a hologram
/// with few high peaks. None without weights.
///
/// # Errors
/// Those of the source, and a process that has no probe.
pub fn hardest(
    process: &Hologram,
    tiles: &[TileId],
    source: &dyn TileSource,
) -> Result<Option<RealBlock>, Diagnostics> {
    let least = CLIPS.iter().fold(1.0, |least: f64, c| least.min(*c));
    let process = Hologram { clip_sigma: least * process.clip_sigma, ..process.clone() };
    let most = Probe::most(&process);
    let tried = |id: &TileId| {
        let TileContent::Real(block) = source.tile(*id)? else { return Ok(None) };
        let block = spread_over(&block, most);
        let levels = Probe::measure(&process, &block)?.spread.levels;
        Ok((levels > 0.0).then_some((levels, block)))
    };
    let all = tiles.par_iter().map(tried).collect::<Result<Vec<_>, Diagnostics>>()?;
    Ok(all.into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, block)| block))
}

/// The budget that the worst of some tiles, by their inputs and output ports, should have when no weights are harder to reach than
/// `weights`.
///
/// # Errors
/// A process that has no probe.
pub fn worst(
    process: &Hologram,
    shapes: &BTreeMap<[usize; 2], &Geometry>,
    weights: &RealBlock,
) -> Result<Option<Budget>, Diagnostics> {
    let probe = Probe::measure(process, weights)?;
    let all = shapes.iter().map(|(shape, g)| probe.budget(process, g, *shape));
    Ok(all.max_by(|a, b| a.total().total_cmp(&b.total())))
}

/// What may be chosen of a process: first clip and strength, unless they were measured; then the glass a
/// weight takes, and fewer levels where each costs a pass.
pub fn variants(process: &Hologram) -> Vec<Vec<Settings>> {
    let mut lists = Vec::new();
    let number = |v: f64| format!("{:?}", (v * 1e9).round() / 1e9);
    if process.base.calibration.dn.is_empty() {
        let mut list = Vec::new();
        for clip in CLIPS {
            for strength in STRENGTHS {
                let [clip, dn] = [clip * process.clip_sigma, strength * process.dn_rms];
                if 2.0 * clip * dn <= process.dn_max {
                    let keys = [("levels.clip_sigma", clip), ("levels.dn_rms", dn)];
                    list.push(keys.map(|(k, v)| (k.to_owned(), number(v))).into());
                }
            }
        }
        lists.push(list);
    }
    let mut counts = vec![process.base.levels];
    if process.base.modulation == Modulation::Pass && process.base.calibration.dn.is_empty() {
        counts.extend(LEVELS.into_iter().filter(|l| *l < process.base.levels));
    }
    // A length is rounded to an even number of layers.
    let depth = process.base.plate_mm[2] * 1e3 - process.base.clearance_um - process.base.voxel_um[2];
    let mut list = Vec::new();
    for width in WIDTHS {
        for length in LENGTHS {
            let length = length * width * process.length_per_column_um;
            let most = ((depth / length) as usize).min(process.columns_max) / COLUMNS_MIN * COLUMNS_MIN;
            let Some(columns) =
                (COLUMNS_MIN..=most).rev().find(|c| c.is_multiple_of(COLUMNS_MIN) && smooth(*c))
            else {
                continue;
            };
            for height in HEIGHTS {
                for count in &counts {
                    let numbers = [
                        ("tile.width_per_column_um", width * process.width_per_column_um),
                        ("tile.length_per_column_um", length),
                        ("tile.height_per_row_pair_um", height * process.height_per_row_pair_um),
                    ];
                    let mut settings: Settings = numbers.map(|(k, v)| (k.to_owned(), number(v))).into();
                    settings.insert("tile.columns_max".to_owned(), columns.to_string());
                    settings.insert("levels.count".to_owned(), count.to_string());
                    list.push(settings);
                }
            }
        }
    }
    lists.push(list);
    lists
}
