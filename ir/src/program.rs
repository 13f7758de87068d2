//! The tile program: all a backend sees of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::codes::{E0302, E0401};
use crate::consts::ConstSource;
use crate::diag::{Diagnostic, Diagnostics};
use crate::graph::Graph;
use crate::numerics::accumulator_bound;
use crate::op::Op;
use crate::origin::Origin;
use crate::tile::{Activations, FixedMatrix, MatrixId, Scheme, Tile, TileId, TileKind};
use crate::verify::{Rule, Verify};

/// A named piece of the program's data bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataEntry {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Source tensor.
    pub origin: Origin,
}

/// Fixed matrices cut into tiles, data, and the host graph that uses them.
///
/// # Invariants (checked by [`Verify`])
///
/// 1. The graph's own invariants hold.
/// 2. Every element of every matrix, and every data byte, lies in exactly one tile; no tile is empty.
/// 3. Tile names are unique, `[A-Za-z0-9_]`, at most [`Tile::NAME_MAX`] long.
/// 4. Data entries are ascending without gaps, and every constant of the graph and its regions that is
///    in the data lies inside one entry.
/// 5. Each use of a matrix, in regions too, has its shape.
/// 6. No accumulator of a tile of codes can overflow 32 bits, whatever its codes.
#[derive(Debug, Clone, Default)]
pub struct TileProgram {
    /// Host operations, and where the fixed matrices are used.
    pub graph: Graph,
    /// Fixed matrices, by [`MatrixId`].
    pub matrices: Vec<FixedMatrix>,
    /// Tiles, by [`TileId`].
    pub tiles: Vec<Tile>,
    /// Data in ascending order of offset, without gaps.
    pub data: Vec<DataEntry>,
}

/// The invariants beyond those of the graph, by what is said of a breach.
pub const RULES: &[Rule] = &[
    Rule { name: "cover", says: &["do not cover it exactly once"] },
    Rule { name: "tile_range", says: &["lies outside matrix"] },
    Rule { name: "tile_name", says: &["ill-formed or repeated name"] },
    Rule { name: "scheme", says: &["has the scheme"] },
    Rule { name: "activation_scale", says: &["has the activation scale"] },
    Rule { name: "data_order", says: &["leaves a gap or overlaps"] },
    Rule { name: "data_tiles", says: &["leave a gap or overlap at byte", "data tiles hold"] },
    Rule { name: "data_constant", says: &["is not in the data"] },
    Rule { name: "matrix_use", says: &["says matrix"] },
    Rule { name: "accumulator", says: &["could overflow 32 bits"] },
];

impl TileProgram {
    /// The tiles with their ids.
    pub fn tiles(&self) -> impl Iterator<Item = (TileId, &Tile)> {
        self.tiles.iter().enumerate().map(|(i, t)| (TileId(i as u32), t))
    }

    /// The matrices with their ids.
    pub fn matrices(&self) -> impl Iterator<Item = (MatrixId, &FixedMatrix)> {
        self.matrices.iter().enumerate().map(|(i, m)| (MatrixId(i as u32), m))
    }

    /// Shape (k, n) and scheme of a matrix tile; `None` for a data tile.
    pub fn matrix_tile(&self, id: TileId) -> Option<(usize, usize, Scheme)> {
        match &self.tiles.get(id.index())?.kind {
            TileKind::Matrix { k, n, scheme, .. } => Some((k.len(), n.len(), *scheme)),
            TileKind::Data { .. } => None,
        }
    }

    /// Number of data bytes.
    pub fn data_len(&self) -> u64 {
        self.data.last().map_or(0, |d| d.offset.saturating_add(d.len))
    }

    /// Source of the elements at rows `k` and columns `n` of a tile, counted inside the tile. For
    /// a data tile, `n` counts bytes and `k` is ignored; the range then counts bytes of the tensor.
    pub fn element_origin(&self, id: TileId, k: Range<u64>, n: Range<u64>) -> Origin {
        let Some(tile) = self.tiles.get(id.index()) else { return Origin::default() };
        match &tile.kind {
            TileKind::Matrix { k: tk, n: tn, .. } => {
                let shift = |r: Range<u64>, by: u32| r.start + u64::from(by)..r.end + u64::from(by);
                tile.origin.with_range(shift(k, tk.start), shift(n, tn.start))
            }
            TileKind::Data { offset, .. } => {
                let at = offset.saturating_add(n.start);
                match self.data.iter().find(|d| (d.offset..d.offset.saturating_add(d.len)).contains(&at)) {
                    Some(d) => d
                        .origin
                        .with_range(0..1, at - d.offset..at - d.offset + n.end.saturating_sub(n.start)),
                    None => tile.origin.clone(),
                }
            }
        }
    }

    /// Bits that are fixed for the matrices: codes, scales, units and codebooks, or 16 a real element.
    pub fn matrix_bits(&self) -> u64 {
        let tiles = self.tiles().filter_map(|(id, _)| self.matrix_tile(id));
        tiles.map(|(k, n, scheme)| scheme.bits(k, n)).sum()
    }

    /// Number of fixed matrix elements.
    pub fn weights(&self) -> u64 {
        self.matrices.iter().map(|m| u64::from(m.k) * u64::from(m.n)).sum()
    }
}

impl Verify for TileProgram {
    fn verify(&self) -> Result<(), Diagnostics> {
        self.graph.verify()?;
        let mut bad = Diagnostics::new();
        let mut err = |message: String, origin: &Origin| {
            bad.push(Diagnostic::error(&E0302, message).at(origin));
        };
        let mut names = BTreeSet::new();
        let mut of_matrix: Vec<Vec<(Range<u32>, Range<u32>)>> = vec![Vec::new(); self.matrices.len()];
        let mut data_ranges = Vec::new();
        for (id, tile) in self.tiles() {
            let well_formed = (1..=Tile::NAME_MAX).contains(&tile.name.len())
                && tile.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !well_formed || !names.insert(&tile.name) {
                err(format!("tile {id} has the ill-formed or repeated name {:?}", tile.name), &tile.origin);
            }
            match &tile.kind {
                TileKind::Matrix { matrix, k, n, .. } => match self.matrices.get(matrix.index()) {
                    Some(m) if k.start < k.end && k.end <= m.k && n.start < n.end && n.end <= m.n => {
                        of_matrix[matrix.index()].push((k.clone(), n.clone()));
                    }
                    _ => err(format!("tile {id} lies outside matrix {matrix}"), &tile.origin),
                },
                TileKind::Data { offset, len } => data_ranges.push((*offset, *len)),
            }
            if let Some((k, _, scheme)) = self.matrix_tile(id) {
                if !scheme.is_valid() {
                    err(format!("tile {id} has the scheme {scheme}"), &tile.origin);
                } else if accumulator_bound(k as u64, scheme) > i32::MAX as u64 {
                    bad.push(
                        Diagnostic::error(&E0401, format!("{k} rows of {scheme} could overflow 32 bits"))
                            .at(&tile.origin),
                    );
                    return Err(bad);
                }
            }
        }
        for (id, m) in self.matrices() {
            if let Activations::Static(scale) = m.activations
                && !(scale.is_normal() && scale > 0.0)
            {
                err(format!("matrix {id} has the activation scale {scale}"), &m.origin);
            }
        }
        for ((id, m), rects) in self.matrices().zip(&mut of_matrix) {
            let area: u128 = rects.iter().map(|(k, n)| k.len() as u128 * n.len() as u128).sum();
            if area != u128::from(m.k) * u128::from(m.n) || overlapping(rects) {
                err(format!("the tiles of matrix {id} do not cover it exactly once"), &m.origin);
            }
        }
        let mut end = 0u64;
        for d in &self.data {
            if d.offset != end || d.offset.checked_add(d.len).is_none() {
                err(format!("data at byte {} leaves a gap or overlaps", d.offset), &d.origin);
            }
            end = d.offset.saturating_add(d.len);
        }
        data_ranges.sort_unstable();
        let mut at = 0u64;
        for (offset, len) in data_ranges {
            if offset != at || len == 0 {
                err(format!("data tiles leave a gap or overlap at byte {offset}"), &Origin::default());
            }
            at = offset.saturating_add(len);
        }
        if at != end {
            err(format!("data tiles hold {at} of {end} bytes"), &Origin::default());
        }
        self.graph.each(&mut |graph| {
            for (_, node) in graph.nodes() {
                if let (
                    Some(matrix),
                    Op::FixedLinear { k, n, .. }
                    | Op::FixedGrouped { k, n, .. }
                    | Op::FixedLookup { k, n, .. },
                ) = (node.op.matrix(), &node.op)
                {
                    let fits = self
                        .matrices
                        .get(matrix.index())
                        .is_some_and(|m| i64::from(m.k) == *k && i64::from(m.n) == *n);
                    if !fits {
                        err(format!("{} says matrix {matrix} is {k} x {n}", node.op.name()), &node.origin);
                    }
                }
                if let Op::Constant { id } = node.op
                    && let Some(c) = graph.consts.get(id)
                    && let ConstSource::Data(offset) = c.source
                {
                    let len = c.elem.stored(c.len()).unwrap_or(0) as u64;
                    // Entries ascend, or that is an error already.
                    let before = self.data.partition_point(|d| d.offset <= offset);
                    let entry = before.checked_sub(1).and_then(|i| self.data.get(i));
                    let ends = entry.and_then(|d| d.offset.checked_add(d.len));
                    let inside = ends.is_some_and(|end| offset.checked_add(len).is_some_and(|e| e <= end));
                    if !inside {
                        err(
                            format!("a constant of {len} bytes at byte {offset} is not in the data"),
                            &c.origin,
                        );
                    }
                }
            }
        });
        bad.check()
    }
}

/// Whether any two rectangles overlap; sweeps along k.
fn overlapping(rects: &mut [(Range<u32>, Range<u32>)]) -> bool {
    rects.sort_unstable_by_key(|(k, n)| (k.start, n.start));
    // Disjoint intervals of n by their begin, with their end there and along k. Those that end before
    // the sweep make room when they are met.
    let mut open: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for (k, n) in rects.iter() {
        while let Some((&begin, &(end, until))) = open.range(..n.end).next_back()
            && end > n.start
        {
            if until > k.start {
                return true;
            }
            open.remove(&begin);
        }
        open.insert(n.start, (n.end, k.end));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Levels;

    #[test]
    fn overlaps_are_found_whatever_the_order() {
        let grid = |n: u32| {
            let cells = (0..n).flat_map(|i| (0..n).map(move |j| (3 * i..3 * i + 3, 2 * j..2 * j + 2)));
            cells.rev().collect::<Vec<_>>()
        };
        assert!(!overlapping(&mut grid(9)));
        // A corner, a rectangle across many, and one around one that began before it.
        for extra in [(5..6, 3..4), (13..14, 0..18), (0..30, 7..8)] {
            let mut rects = grid(9);
            rects.push(extra);
            assert!(overlapping(&mut rects));
        }
        assert!(!overlapping(&mut [(0..2, 0..9), (2..3, 3..4), (2..5, 0..3), (3..4, 3..9)]));
        // 400 000 strips of one row: far from quadratic.
        let mut strips: Vec<_> = (0..400_000).map(|i| (0..4, 3 * i..3 * i + 3)).collect();
        assert!(!overlapping(&mut strips));
    }

    fn program() -> TileProgram {
        let tile = |name: &str, k: Range<u32>, n: Range<u32>| Tile {
            name: name.into(),
            kind: TileKind::Matrix {
                matrix: MatrixId(0),
                k,
                n,
                scheme: Scheme::Codes { bits: 4, group: 8, levels: Levels::Uniform },
            },
            origin: Origin::tensor("w"),
        };
        TileProgram {
            matrices: vec![FixedMatrix {
                k: 10,
                n: 6,
                activations: Activations::Row,
                origin: Origin::tensor("w"),
            }],
            tiles: vec![tile("a", 0..8, 0..6), tile("b", 8..10, 0..4), tile("c", 8..10, 4..6)],
            ..TileProgram::default()
        }
    }

    fn message(p: &TileProgram) -> String {
        p.verify().unwrap_err().to_string()
    }

    #[test]
    fn a_full_cover_verifies_and_each_fault_is_named() {
        assert!(program().verify().is_ok());
        let mut p = program();
        p.tiles.pop();
        assert!(message(&p).contains("matrix 0 do not cover"), "{}", message(&p));
        let mut p = program();
        if let TileKind::Matrix { n, .. } = &mut p.tiles[2].kind {
            *n = 3..5;
        }
        assert!(message(&p).contains("do not cover"), "same area, overlapping: {}", message(&p));
        let mut p = program();
        if let TileKind::Matrix { n, .. } = &mut p.tiles[2].kind {
            *n = 4..7;
        }
        assert!(message(&p).contains("tile 2 lies outside matrix 0"), "{}", message(&p));
        let mut p = program();
        p.tiles[1].name = "a".into();
        assert!(message(&p).contains("repeated name"), "{}", message(&p));
        let mut p = program();
        p.data.push(DataEntry { offset: 4, len: 4, origin: Origin::default() });
        assert!(message(&p).contains("data at byte 4"), "{}", message(&p));
    }

    #[test]
    fn origins_reach_the_tensor_element() {
        let p = program();
        let o = p.element_origin(TileId(2), 1..2, 0..1);
        assert_eq!((o.tensor.as_deref(), o.range), (Some("w"), Some([9, 10, 4, 5])));
    }
}
