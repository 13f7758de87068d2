//! Models that do not exist: shapes from a number of parameters by a rule.
//!
//! The width d of a model is the largest multiple of 480 with which d / 128 layers do not have more parameters than wanted, and the layers are
//! then as many as come closest: models of the llama family have 32 layers of 4096 (128 a layer), 80 of 8192 (102) and 126 of 16384 (130). Multiples
//! of 480 are those of a model made for hardware: they fill tiles of 480 rows. All have a table of 65 536 entries that look-up and output
//! share.
//!
//! | name | a layer |
//! |---|---|
//! | `llama` | q, o [d, d], k, v [d, d/4], gate, up [d, 8d/3], down [8d/3, d]: 10.5 d^2 |
//! | `moe` | the attention of `llama`; a router; 64 experts of gate, up [d, 2d/3], down [2d/3, d], of which a token takes 4: 130.5 d^2 |
//! | `gpt` | q, k, v, o [d, d], up [d, 4d], down [4d, d]: 12 d^2 |
//!
//! Widths are rounded up to multiples of 32.

use std::collections::BTreeMap;
use std::ops::Range;

use pfmc_ir::backend::Target;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::estimate::{Stage, TileClass, Workload, number};
use pfmc_ir::tile::Scheme;

use crate::codes::{E0004, E0005};
use crate::compile::narrowed;
use crate::partition::cuts;

/// Entries of the table.
const VOCABULARY: f64 = 65_536.0;
/// Width a layer, and width of a head.
const UNIT: f64 = 128.0;
/// Widths are multiples of this.
const STEP: f64 = 480.0;
/// Experts of a layer, and those that a token takes.
const EXPERTS: [f64; 2] = [64.0, 4.0];
/// Parameters that the rules are made for.
const SIZES: Range<f64> = 1e8..1e24;

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Arch {
    /// Decoder with grouped keys and values and gated layers.
    #[default]
    Llama,
    /// The same with experts.
    Moe,
    /// Decoder with plain layers.
    Gpt,
}

/// Matrices of one shape.
#[derive(Debug, Clone, Copy)]
struct Matrices {
    k: f64,
    n: f64,
    /// How many a layer, and how many of them a token uses.
    count: [f64; 2],
    /// On the longest chain.
    chain: bool,
}

impl Arch {
    /// Matrices of a layer of width `d`.
    fn layer(self, d: f64) -> Vec<Matrices> {
        let up = |v: f64| (v / 32.0).ceil() * 32.0;
        let all = |k, n, count: f64, chain| Matrices { k, n, count: [count; 2], chain };
        let narrow = up(d / 4.0);
        let grouped = [all(d, d, 2.0, true), all(d, narrow, 2.0, false)];
        match self {
            Arch::Llama => {
                let f = up(8.0 * d / 3.0);
                [&grouped[..], &[all(d, f, 2.0, true), all(f, d, 1.0, true)]].concat()
            }
            Arch::Moe => {
                let f = up(2.0 * d / 3.0);
                let [experts, taken] = EXPERTS;
                let banks =
                    |k, n, each: f64| Matrices { k, n, count: [each * experts, each * taken], chain: true };
                [&grouped[..], &[all(d, experts, 1.0, true), banks(d, f, 2.0), banks(f, d, 1.0)]].concat()
            }
            Arch::Gpt => vec![all(d, d, 4.0, true), all(d, 4.0 * d, 1.0, true), all(4.0 * d, d, 1.0, true)],
        }
    }

    /// Chain of a layer: how often matrices of each shape wait for each other. Two of a shape on the chain are q and o.
    fn times(self, m: &Matrices, d: f64) -> f64 {
        match (m.chain, m.k == d && m.n == d) {
            (false, _) => 0.0,
            (true, true) => 2.0,
            (true, false) => 1.0,
        }
    }
}

/// Lengths of the pieces of a side and how many there are of each.
fn pieces(length: f64, limit: u32, multiple: u32) -> BTreeMap<u32, f64> {
    let mut found = BTreeMap::new();
    for r in cuts(length as u32, limit, multiple) {
        *found.entry(r.end - r.start).or_insert(0.0) += 1.0;
    }
    found
}

/// What a model of about so many parameters asks of a target.
///
/// # Errors
/// A number of parameters that the rules are not made for, and a scheme that the target does not hold.
pub fn workload(
    arch: Arch,
    parameters: f64,
    target: &dyn Target,
    scheme: Scheme,
    context: f64,
) -> Result<Workload, Diagnostics> {
    if !SIZES.contains(&parameters) {
        let text = format!("{parameters:e} parameters are outside of {:e} to {:e}", SIZES.start, SIZES.end);
        return Err(Diagnostic::error(&E0005, text)
            .help("give --params a number between them, such as 1e12")
            .into());
    }
    let layer = |d: f64| arch.layer(d).iter().map(|m| m.k * m.n * m.count[0]).sum::<f64>();
    let size = |d: f64| VOCABULARY * d + d / UNIT * layer(d);
    let (mut low, mut high) = (1.0, 2.0);
    while size(high * STEP) <= parameters {
        (low, high) = (high, high * 2.0);
    }
    while high - low > 1.0 {
        let middle = ((low + high) / 2.0).floor();
        if size(middle * STEP) <= parameters { low = middle } else { high = middle }
    }
    let d = low * STEP;
    let layers = ((parameters - VOCABULARY * d) / layer(d)).round().max(1.0);
    let weights = VOCABULARY * d + layers * layer(d);
    let norms = (2.0 * layers + 1.0) * d;
    let mut work = Workload {
        about: format!("{arch:?}, {} layers of width {d}", number(layers)).to_lowercase(),
        parameters: weights + norms,
        weights,
        data_bytes: 4.0 * norms,
        ..Workload::default()
    };
    let mut index: BTreeMap<(u32, u32, Scheme), usize> = BTreeMap::new();
    let mut add = |m: &Matrices, times: f64, on_chain: f64, lookups: f64| -> Result<(), Diagnostics> {
        let scheme = narrowed(scheme, m.n.min(f64::from(u32::MAX)) as u32);
        let limit = target.tile_limit(scheme).ok_or_else(|| {
            Diagnostic::error(&E0004, format!("the target cannot hold weights as {scheme}"))
        })?;
        let mut tallest = (0, 0);
        let (down, across) = (pieces(m.k, limit.k, limit.k_multiple), pieces(m.n, limit.n, limit.n_multiple));
        for (&k, ks) in &down {
            for (&n, ns) in &across {
                let class = *index.entry((k, n, scheme)).or_insert_with(|| {
                    work.tiles.push(TileClass { k, n, scheme, count: 0.0, products: 0.0, lookups: 0.0 });
                    work.tiles.len() - 1
                });
                if let Some(c) = work.tiles.get_mut(class) {
                    let tiles = ks * ns * times;
                    c.count += tiles * m.count[0];
                    c.products += tiles * m.count[1];
                    // A column is in one of the tiles beside each other.
                    c.lookups += lookups * ks * ns * f64::from(n) / m.n;
                }
                tallest = tallest.max((k, class));
            }
        }
        let mut stage = |times: f64, lookup: bool| {
            let class = tallest.1;
            match work.stages.iter_mut().find(|s| (s.class, s.lookup) == (class, lookup)) {
                Some(s) => s.times += times,
                None => work.stages.push(Stage { class, times, lookup }),
            }
        };
        if on_chain > 0.0 {
            stage(on_chain, false);
        }
        if lookups > 0.0 {
            stage(lookups, true);
        }
        Ok(())
    };
    for m in arch.layer(d) {
        add(&m, layers, layers * arch.times(&m, d), 0.0)?;
    }
    add(&Matrices { k: d, n: VOCABULARY, count: [1.0; 2], chain: true }, 1.0, 1.0, 1.0)?;
    let cached = if arch == Arch::Gpt { d } else { d / 4.0 };
    // Products of queries with keys and of the softmax with values, the softmax itself; norms, turns, sums and gates.
    work.host_ops = layers * (2.0 * context * d + context * d / UNIT + 16.0 * d) + VOCABULARY;
    work.host_bytes = layers * 2.0 * 2.0 * context * cached;
    Ok(work)
}
