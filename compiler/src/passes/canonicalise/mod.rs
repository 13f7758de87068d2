//! Recovers the blocks that exporters take apart: norms, activations, rotary positions, attention;
//! removes what changes nothing and what is computed twice.
//!
//! Each pattern is anchored at the one operation it cannot do without (a root, an error function, a
//! softmax) and says where its forms come from. Shapes are those known before anything is bound; where
//! they do not prove that a block computes the same, the parts stay.

mod activation;
mod attention;
mod norm;
mod pattern;
mod rotary;
mod tidy;

use pfmc_ir::diag::Diagnostics;
use pfmc_ir::graph::{Graph, NodeId};
use pfmc_ir::infer;
use pfmc_ir::shape::OpenType;

use super::{Exactness, Pass, PassInfo, PassRecord, Stats};
use pattern::Net;

/// What the pass is.
pub static INFO: PassInfo = PassInfo {
    name: "canonicalise",
    doc: "Recovers norms, activations, rotary positions and attention from their parts; removes operations that \
          change nothing or are done twice.",
    exactness: Exactness::Rounding,
};

/// Most rounds of tidying; each undoes one layer of operations that change nothing.
const ROUNDS: usize = 8;

/// Recovers blocks. Sums may be taken in another order, so that results differ by rounding.
#[derive(Debug, Clone, Copy, Default)]
pub struct Canonicalise;

/// The blocks that a record of this pass counts, in words; `None` for other passes, and where there are
/// none.
pub fn recovered(record: &PassRecord) -> Option<String> {
    let of = |name: &&str| record.stats.get(*name).map(|n| format!("{n} {name}"));
    let all: Vec<String> = BLOCKS.iter().filter_map(of).collect();
    (record.name == INFO.name && !all.is_empty()).then(|| all.join(", "))
}

/// Names of the counts of blocks.
pub const BLOCKS: [&str; 6] = ["attentions", "rotaries", "rms norms", "layer norms", "gelus", "silus"];

/// Finds a block at a node and says what it was.
type Recover = fn(&mut Net, NodeId) -> Option<&'static str>;

fn tidy(net: &mut Net, stats: &mut Stats) {
    for _ in 0..ROUNDS {
        let merged = tidy::merge(net);
        let mut simplified = 0;
        for id in net.0.order().unwrap_or_default() {
            simplified += u64::from(tidy::simplify(net, id).is_some());
        }
        *stats.entry("merged".into()).or_default() += merged;
        *stats.entry("simplified".into()).or_default() += simplified;
        if merged + simplified == 0 {
            break;
        }
    }
}

impl Pass<OpenType> for Canonicalise {
    fn info(&self) -> &'static PassInfo {
        &INFO
    }

    fn run(&self, graph: &mut Graph<OpenType>) -> Result<Stats, Diagnostics> {
        let mut stats = Stats::new();
        let mut net = Net(graph);
        tidy(&mut net, &mut stats);
        let patterns: [Recover; 4] =
            [activation::recover, norm::recover, rotary::recover, attention::recover];
        for recover in patterns {
            for id in net.0.order().unwrap_or_default() {
                if let Some(what) = recover(&mut net, id) {
                    *stats.entry(what.into()).or_default() += 1;
                }
            }
        }
        tidy(&mut net, &mut stats);
        graph.remove_dead();
        stats.retain(|_, n| *n > 0);
        stats.insert("nodes".into(), graph.node_count() as u64);
        infer::annotate(graph)?;
        Ok(stats)
    }
}
