//! Cuts fixed matrices into tiles of the target's size, and gathers everything else that is fixed
//! into the program's data.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use pfmc_ir::backend::TileLimit;
use pfmc_ir::consts::{Const, ConstSource};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::graph::Graph;
use pfmc_ir::op::Op;
use pfmc_ir::origin::Origin;
use pfmc_ir::program::{DataEntry, TileProgram};
use pfmc_ir::text::INLINE_MAX;
use pfmc_ir::tile::{FixedMatrix, MatrixId, Scheme, Tile, TileId, TileKind};
use pfmc_ir::verify::Verified;

use crate::codes::E0004;
use crate::passes::fix::Found;
use crate::passes::{Exactness, PassInfo, PassRecord, Stats};
use crate::quantise::plan::WeightPlan;
use crate::source::ModelSource;

/// Even pieces of `0..length`, each at most `limit` and a multiple of `multiple` but the last.
pub(crate) fn cuts(length: u32, limit: u32, multiple: u32) -> Vec<Range<u32>> {
    let limit = if limit >= multiple && multiple > 0 { limit - limit % multiple } else { limit }.max(1);
    let pieces = length.div_ceil(limit).max(1);
    let even = length.div_ceil(pieces);
    let size = even.checked_next_multiple_of(multiple.max(1)).unwrap_or(even).clamp(1, limit);
    (0..length).step_by(size as usize).map(|s| s..s.saturating_add(size).min(length)).collect()
}

/// `t`, the tile's number and the end of its tensor's name, in the characters a cell name may have.
fn name(index: usize, origin: &Origin, fallback: &str) -> String {
    let source = origin.tensor.as_deref().unwrap_or(fallback);
    let clean: String = source
        .trim_end_matches(".weight")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let head = format!("t{index}_");
    let room = Tile::NAME_MAX.saturating_sub(head.len());
    let tail = &clean[clean.len().saturating_sub(room)..];
    format!("{head}{}", tail.trim_start_matches('_'))
}

/// Moves the constants of a graph and its regions that `moved` holds for into data: what they are in it, and the bytes
/// of each entry.
pub(crate) fn gather(graph: &mut Graph, moved: &dyn Fn(&Const) -> bool) -> (Vec<DataEntry>, Vec<Bytes>) {
    let mut data: Vec<DataEntry> = Vec::new();
    let mut pieces = Vec::new();
    let mut end = 0u64;
    // The same bytes are held once, wherever constants of them are.
    let mut known: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    graph.each_mut(&mut |graph| {
        for id in graph.order().unwrap_or_default() {
            let Some(&Op::Constant { id }) = graph.node(id).map(|n| &n.op) else { continue };
            let Some(c) = graph.consts.get_mut(id) else { continue };
            let Some(bytes) = c.bytes().filter(|_| moved(c)).cloned() else {
                continue;
            };
            if bytes.is_empty() {
                continue;
            }
            let offset = *known.entry((bytes.as_ptr() as usize, bytes.len())).or_insert(end);
            if offset == end {
                data.push(DataEntry { offset: end, len: bytes.len() as u64, origin: c.origin.clone() });
                end += bytes.len() as u64;
                pieces.push(bytes);
            }
            c.source = ConstSource::Data(offset);
        }
    });
    (data, pieces)
}

/// Cuts `found` into tiles as planned and moves the graph's other large or learned constants into the
/// data. `limit` says how large a tile of a scheme may be.
///
/// # Errors
/// A scheme that the target does not hold, and what the program's verifier reports.
pub fn partition(
    mut graph: Graph,
    found: &[Found],
    plan: &WeightPlan,
    limit: &dyn Fn(Scheme) -> Option<TileLimit>,
    data_tile_bytes: Option<u64>,
) -> Result<(Verified<TileProgram>, ModelSource), Diagnostics> {
    let mut matrices = Vec::new();
    let mut tiles: Vec<Tile> = Vec::new();
    for (matrix, (f, m)) in found.iter().zip(&plan.matrices).enumerate() {
        matrices.push(FixedMatrix { activations: m.activations, ..f.matrix() });
        for block in &m.blocks {
            let scheme = block.scheme;
            let limit = limit(scheme).ok_or_else(|| {
                let message = format!("the target cannot hold weights as {scheme}");
                Diagnostic::error(&E0004, message).at(&f.origin)
            })?;
            let within = |[from, to]: [u32; 2], limit: u32, multiple: u32| {
                cuts(to - from, limit, multiple).into_iter().map(move |r| from + r.start..from + r.end)
            };
            for n in within(block.n, limit.n, limit.n_multiple) {
                for k in within(block.k, limit.k, limit.k_multiple) {
                    let wide = |r: &Range<u32>| u64::from(r.start)..u64::from(r.end);
                    let matrix = MatrixId(matrix as u32);
                    tiles.push(Tile {
                        name: name(tiles.len(), &f.origin, "matrix"),
                        origin: f.origin.with_range(wide(&k), wide(&n)),
                        kind: TileKind::Matrix { matrix, k, n: n.clone(), scheme },
                    });
                }
            }
        }
    }
    let views = found.iter().map(|f| f.view.clone()).collect();

    let (data, pieces) = gather(&mut graph, &|c| c.learned || c.len() > INLINE_MAX);
    let end = data.last().map_or(0, |d| d.offset + d.len);
    let tile_bytes = data_tile_bytes.unwrap_or(1 << 20).max(1);
    let mut offset = 0;
    while offset < end {
        let len = tile_bytes.min(end - offset);
        let origin = data
            .iter()
            .find(|d| (d.offset..d.offset + d.len).contains(&offset))
            .map(|d| d.origin.clone())
            .unwrap_or_default();
        tiles.push(Tile {
            name: name(tiles.len(), &Origin::default(), "data"),
            kind: TileKind::Data { offset, len },
            origin,
        });
        offset += len;
    }
    let program = Verified::new(TileProgram { graph, matrices, tiles, data })?;
    let source = ModelSource::new(&program, views, pieces);
    Ok((program, source))
}

/// Quantisation, as a pass.
pub static QUANTISE: PassInfo = PassInfo {
    name: "quantise",
    doc: "Gives every fixed matrix its scheme; contents are rounded tile by tile when asked for.",
    exactness: Exactness::Rounding,
};

/// Partition, as a pass.
pub static PARTITION: PassInfo = PassInfo {
    name: "partition",
    doc: "Cuts fixed matrices into tiles and gathers other large or learned constants into data.",
    exactness: Exactness::BitExact,
};

/// What quantising and partitioning did, for the manifest.
pub fn records(program: &TileProgram) -> [PassRecord; 2] {
    let bits = Stats::from([("bits".into(), program.matrix_bits()), ("weights".into(), program.weights())]);
    let tiles = Stats::from([
        ("tiles".into(), program.tiles.len() as u64),
        ("data_bytes".into(), program.data_len()),
    ]);
    [PassRecord::new(&QUANTISE, bits), PassRecord::new(&PARTITION, tiles)]
}

/// Tiles that a target holds: all, or the matrix tiles only.
pub fn held(program: &TileProgram, data_tiles: bool) -> impl Iterator<Item = TileId> + '_ {
    program
        .tiles()
        .filter(move |(_, t)| data_tiles || matches!(t.kind, TileKind::Matrix { .. }))
        .map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_cover_in_order_within_the_limit() {
        for length in [1u32, 2, 31, 32, 33, 384, 480, 481, 1536, 30522] {
            for (limit, multiple) in [(480, 32), (1024, 128), (256, 1), (7, 32), (1, 1)] {
                let pieces = cuts(length, limit, multiple);
                let mut at = 0;
                for p in &pieces {
                    assert!(
                        p.start == at && p.end > at && p.end - p.start <= limit,
                        "{length} {limit} {multiple}"
                    );
                    at = p.end;
                }
                assert_eq!(at, length);
            }
        }
        assert_eq!(cuts(1536, 1024, 128), vec![0..768, 768..1536]);
    }

    #[test]
    fn names_fit_a_cell() {
        let n = name(123, &Origin::tensor("model/layers.0.self_attn.q_proj.weight"), "x");
        assert!(
            n.len() <= Tile::NAME_MAX && n.starts_with("t123_") && n.ends_with("self_attn_q_proj"),
            "{n}"
        );
        assert_eq!(name(4, &Origin::default(), "data"), "t4_data");
    }
}
