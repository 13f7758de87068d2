//! How weights become voxels: the one place where the backend chooses between its methods.
//!
//! A method says of a process file what it needs beside what every process has ([`Process`]), how large a tile may be and what
//! space it takes, what its levels are, and which levels hold given weights how well. Placing tiles, writing time, the order and
//! framing of a schedule, marks, coupons and read-back of all these are the same for every method.
//!
//! | method | a weight is | where |
//! |---|---|---|
//! | `hologram` | a grating of a volume hologram, read by homodyne | [`crate::hologram`], [`crate::design`], [`crate::recompute`] |
//! | `mask` | the azimuth of a half-wave pixel between polarisers | [`crate::mask`] |

use std::collections::BTreeMap;
use std::sync::Arc;

use pfmc_ir::backend::{Reached, Settings, TileLimit};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tile::{RealBlock, TileId, TileSource};

use crate::born::Born;
use crate::budget::Budget;
use crate::forecast;
use crate::geometry::Geometry;
use crate::hologram::{Hologram, Operators};
use crate::mask::{self, Mask};
use crate::process::{Fields, Process};
use crate::propagate::Grid;
use crate::recompute::Written;
use crate::schedule::{Header, Level, Tile};

/// A validated process file.
#[derive(Debug, Clone, PartialEq)]
pub enum Lowering {
    /// Tiles are volume holograms.
    Hologram(Hologram),
    /// Tiles are masks of half-wave pixels.
    Mask(Mask),
}

/// Names of methods in process files and schedules.
pub const METHODS: [&str; 2] = ["hologram", "mask"];

/// What a tile takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    /// Voxels along x, y and depth.
    pub voxels: [usize; 3],
    /// Gap to the next tile along x and y, micrometres.
    pub gap_um: [f64; 2],
    /// Glass of the zone beyond the outermost tiles along x and y, micrometres.
    pub margin_um: [f64; 2],
}

impl Space {
    /// Voxels of the tile.
    pub fn voxel_count(&self) -> u64 {
        self.voxels.iter().map(|v| *v as u64).product()
    }
}

/// What a tile is.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A hologram of this geometry.
    Hologram(Geometry),
    /// A mask of pixels.
    Mask,
}

/// A relative error power, or how far something may be off.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Term {
    /// What.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How much.
    #[prost(double, tag = "2")]
    pub value: f64,
    /// Unit; none of an error power, which is relative to the weights'.
    #[prost(string, tag = "3")]
    pub unit: String,
}

impl Term {
    /// A term.
    pub fn new(name: &str, value: f64, unit: &str) -> Term {
        Term { name: name.to_owned(), value, unit: unit.to_owned() }
    }
}

/// The error budget of a tile: independent errors add.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Accuracy {
    /// Error powers by cause, those of the levels first.
    #[prost(message, repeated, tag = "1")]
    pub terms: Vec<Term>,
    /// Deviations of light, tile and temperature that cost 1 dB of the total.
    #[prost(message, repeated, tag = "2")]
    pub tolerances: Vec<Term>,
}

impl Accuracy {
    /// Error power of the levels.
    pub fn levels(&self) -> f64 {
        self.terms.first().map_or(0.0, |t| t.value)
    }

    /// Sum of all error powers.
    pub fn total(&self) -> f64 {
        self.terms.iter().map(|t| t.value).sum()
    }

    /// The ratio of the whole, and the largest of the terms.
    pub fn reached(&self) -> Option<Reached> {
        let largest = self.terms.iter().max_by(|a, b| a.value.total_cmp(&b.value))?;
        let (limit, limit_db) = (largest.name.clone(), Budget::db(largest.value));
        Some(Reached { db: Budget::db(self.total()), limit, limit_db })
    }
}

/// A designed tile.
#[derive(Debug, Clone, PartialEq)]
pub struct Designed {
    /// Levels, x fastest, then y, then layer.
    pub levels: Vec<u8>,
    /// What the tile's record says of the design: ports, gain, scales, ratios. A gain of 0 is that of a tile of zeros.
    pub record: Tile,
    /// Unless all weights are 0.
    pub accuracy: Option<Accuracy>,
}

impl Lowering {
    /// Reads and checks a process file.
    ///
    /// # Errors
    /// Every problem of the text: syntax, missing and unknown keys, values out of range,
    /// contradictions.
    pub fn parse(name: &str, text: &str) -> Result<Lowering, Diagnostics> {
        let (mut f, measured) = Fields::open(name, text)?;
        let [hologram, mask] = METHODS;
        if f.choice("optics", "method", &[(hologram, false), (mask, true)]) {
            Mask::read(f, measured.is_some()).map(Lowering::Mask)
        } else {
            Hologram::read(f, measured).map(Lowering::Hologram)
        }
    }

    /// What every process has.
    pub fn base(&self) -> &Process {
        match self {
            Lowering::Hologram(h) => &h.base,
            Lowering::Mask(m) => &m.base,
        }
    }

    /// The method's name in process files and schedules.
    pub fn method(&self) -> &'static str {
        let [hologram, mask] = METHODS;
        match self {
            Lowering::Hologram(_) => hologram,
            Lowering::Mask(_) => mask,
        }
    }

    /// Bits of a level in a schedule, 4 or 8: the fill's is the highest.
    pub fn level_bits(&self) -> u32 {
        if self.base().fill_level() < 16 { 4 } else { 8 }
    }

    /// Largest tile.
    pub fn tile_limit(&self) -> TileLimit {
        match self {
            Lowering::Hologram(h) => {
                let (most, multiple) = ((h.columns_max * h.rows_max) as u32, h.columns_max as u32);
                let parts = h.quadrature.weights_a_grating() as u32;
                TileLimit { k: most, n: most * parts, k_multiple: multiple, n_multiple: multiple * parts }
            }
            Lowering::Mask(m) => TileLimit {
                k: m.inputs_max as u32,
                n: m.outputs_max as u32,
                k_multiple: mask::MULTIPLE,
                n_multiple: mask::MULTIPLE,
            },
        }
    }

    /// A tile of `inputs` x `outputs` weights.
    ///
    /// # Errors
    /// When the process has none.
    pub fn block(&self, inputs: usize, outputs: usize) -> Result<Block, Diagnostics> {
        match self {
            Lowering::Hologram(h) => {
                Geometry::choose(h, inputs, h.quadrature.ports(outputs)).map(Block::Hologram)
            }
            Lowering::Mask(m) => m.holds(inputs, outputs).map(|()| Block::Mask),
        }
    }

    /// Refuses a tile, here by its name, that is too large for what the process asks of its design.
    ///
    /// # Errors
    /// E0624.
    pub fn refuse(&self, block: &Block, inputs: usize, tile: &str) -> Result<(), Diagnostic> {
        match (self, block) {
            (Lowering::Hologram(h), Block::Hologram(g)) if h.propagation_rounds > 0 => {
                Grid::new(&Written::of(h, g)).refuse(inputs, tile)
            }
            _ => Ok(()),
        }
    }

    /// The space that a tile of `inputs` x `outputs` weights takes.
    pub fn space(&self, block: &Block, inputs: usize, outputs: usize) -> Space {
        let base = self.base();
        match block {
            Block::Hologram(g) => Space {
                voxels: g.voxels,
                gap_um: g.gap_um(base.gap_min_um),
                margin_um: g.margin_um(base.gap_min_um),
            },
            Block::Mask => {
                let layers = if let Lowering::Mask(m) = self { m.layers } else { 1 };
                let room = [base.gap_min_um; 2];
                Space { voxels: [outputs, inputs, layers], gap_um: room, margin_um: room }
            }
        }
    }

    /// Whether the process has its largest tile.
    ///
    /// # Errors
    /// Why it has not.
    pub fn check(&self) -> Result<(), Diagnostics> {
        let limit = self.tile_limit();
        self.block(limit.k as usize, limit.n as usize).map(|_| ())
    }

    /// Output ports that `columns` columns of a matrix take.
    pub fn ports(&self, columns: usize) -> usize {
        match self {
            Lowering::Hologram(h) => h.quadrature.ports(columns),
            Lowering::Mask(_) => columns,
        }
    }

    /// What each level number means, the fill's last.
    pub fn levels(&self) -> Vec<Level> {
        match self {
            Lowering::Hologram(h) => h.levels(),
            Lowering::Mask(m) => m.levels(),
        }
    }

    /// Puts what the method says into a schedule's header.
    pub fn header(&self, header: &mut Header) {
        match self {
            Lowering::Hologram(h) => h.header(header),
            Lowering::Mask(_) => header.port_map = mask::PIXEL_MAP.into(),
        }
    }

    /// Ratios that a tile's record holds, by the names of measures.
    pub fn ratios(&self, record: &Tile) -> Vec<(&'static str, f64)> {
        match self {
            Lowering::Hologram(_) => {
                vec![("snr_db", record.snr_db), ("snr_complex_db", record.snr_complex_db)]
            }
            Lowering::Mask(_) => vec![("snr_db", record.snr_db)],
        }
    }

    /// Memory that designing a tile takes, bytes.
    pub fn memory_bytes(&self, block: &Block, space: &Space) -> u64 {
        match (self, block) {
            (Lowering::Hologram(h), Block::Hologram(g)) => {
                let propagation = match h.propagation_rounds {
                    0 => 0,
                    _ => Grid::new(&Written::of(h, g)).memory_bytes(),
                };
                Born::memory_bytes(g, h.quadrature.weights_a_grating()) + propagation
            }
            // Weights and levels.
            _ => space.voxel_count() + 8 * (space.voxels[0] * space.voxels[1]) as u64,
        }
    }

    /// Settings to choose among for a volume or a ratio; none of a mask, where a weight is a pixel.
    pub fn variants(&self) -> Vec<Vec<Settings>> {
        match self {
            Lowering::Hologram(h) => forecast::variants(h),
            Lowering::Mask(_) => Vec::new(),
        }
    }

    /// Of some tiles' weights, in small, those that are hardest to reach; none where there are no variants.
    ///
    /// # Errors
    /// Those of the source, and a process that has no probe.
    pub fn hardest(
        &self,
        tiles: &[TileId],
        source: &dyn TileSource,
    ) -> Result<Option<RealBlock>, Diagnostics> {
        match self {
            Lowering::Hologram(h) => forecast::hardest(h, tiles, source),
            Lowering::Mask(_) => Ok(None),
        }
    }

    /// The budget that the worst of some tiles, by inputs and output ports, should have when no weights are harder to reach; none where there are no variants.
    ///
    /// # Errors
    /// A process that has no probe.
    pub fn forecast(
        &self,
        shapes: &BTreeMap<[usize; 2], &Block>,
        hardest: &RealBlock,
    ) -> Result<Option<Accuracy>, Diagnostics> {
        let Lowering::Hologram(h) = self else { return Ok(None) };
        let geometries = shapes.iter().filter_map(|(shape, block)| match block {
            Block::Hologram(g) => Some((*shape, g)),
            Block::Mask => None,
        });
        let worst = forecast::worst(h, &geometries.collect(), hardest)?;
        Ok(worst.map(|budget| budget.accuracy(None)))
    }
}

/// Hands out designs of tiles; keeps what tiles of a shape share.
#[derive(Default)]
pub(crate) struct Designer {
    operators: Operators,
}

/// The design of one tile.
pub(crate) enum Job<'a> {
    Hologram(&'a Hologram, &'a Geometry, Arc<Born>),
    Mask(&'a Mask),
}

impl Designer {
    /// What designs tiles of a shape; none where tile and process are of two methods.
    pub(crate) fn job<'a>(
        &mut self,
        lowering: &'a Lowering,
        block: &'a Block,
        used: [usize; 2],
    ) -> Option<Job<'a>> {
        match (lowering, block) {
            (Lowering::Hologram(h), Block::Hologram(g)) => {
                Some(Job::Hologram(h, g, self.operators.get(g, used)))
            }
            (Lowering::Mask(m), Block::Mask) => Some(Job::Mask(m)),
            _ => None,
        }
    }
}

impl Job<'_> {
    /// Designs a tile; its number names the stream of random choices.
    pub(crate) fn design(&self, weights: &RealBlock, tile: u32) -> Designed {
        match self {
            Job::Hologram(h, g, born) => h.design(g, born, weights, tile),
            Job::Mask(m) => mask::design::design(m, weights),
        }
    }
}
