//! Products of f32 by vector instructions.
//!
//! An element of a product is one sum in ascending order of k, by fused multiply-adds, in a lane of
//! its own. So the width of the vectors, the size of the blocks and the division among threads do
//! not influence a result.
//!
//! Blocking follows Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"
//! (ACM TOMS 34, 2008), without packing of the left operand, whose rows are read as they lie.

use std::cell::RefCell;

use pulp::Simd;

use super::matmul::{Rectangle, Right};

/// Depth that is packed at once.
const KC: usize = 128;
/// Columns that are packed at once; a multiple of twice the lanes of every processor.
const COLUMNS: usize = 128;
/// Depths that a transposing copy moves at once, so that what it writes stays in the first cache.
const TURNED: usize = 64;
/// Rows up to which the right operand is read where it lies.
pub(super) const THIN: usize = 48;
/// Depths read side by side there: as many rows as a first cache keeps when all begin at the same
/// place of a page.
const RUNS: usize = 8;
/// Bytes of a cache line.
const LINE: usize = 64;

thread_local! {
    /// Packed columns of the right operand, kept for the next product of the thread: at most
    /// `KC * COLUMNS` elements and a line.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A rectangle of a product of f32.
pub(super) struct Panels<'a, 'o>(pub(super) Rectangle<'a, 'o, f32>);

impl pulp::WithSimd for Panels<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Rectangle { a, step, b, k, first, out } = self.0;
        let n = out.first().map_or(0, |row| row.len());
        let left = Left { data: a, step };
        let mut done = 0;
        if b.column == 1 && out.len() <= THIN {
            let right = Right { data: &b.data[first..], ..b };
            done = match (out.len(), S::REGISTER_COUNT >= 32) {
                (1, true) => in_place::<S, 1, 16>(simd, left, right, k, out),
                (1, false) => in_place::<S, 1, 8>(simd, left, right, k, out),
                (2, true) => in_place::<S, 2, 8>(simd, left, right, k, out),
                (2, false) => in_place::<S, 2, 4>(simd, left, right, k, out),
                (3 | 4, true) => in_place::<S, 4, 4>(simd, left, right, k, out),
                (_, true) => in_place::<S, 8, 2>(simd, left, right, k, out),
                (_, false) => in_place::<S, 6, 2>(simd, left, right, k, out),
            };
        }
        if done == n || k == 0 {
            return;
        }
        let high = if S::REGISTER_COUNT >= 32 { 8 } else { 6 };
        let wide = 2 * S::F32_LANES;
        let mut kept = PACKED.take();
        let room = k.min(KC) * COLUMNS + LINE / size_of::<f32>();
        if kept.len() < room {
            kept.resize(room, 0.0);
        }
        let skip = kept.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        let packed = &mut kept[skip..];
        for group in (done..n).step_by(COLUMNS) {
            let columns = (n - group).min(COLUMNS);
            for from in (0..k).step_by(KC) {
                let depths = (k - from).min(KC);
                pack::<S>(b, from, depths, first + group, columns, packed);
                for (p, panel) in packed.chunks_exact(depths * wide).take(columns.div_ceil(wide)).enumerate()
                {
                    let at = group + p * wide;
                    let columns = (n - at).min(wide);
                    for (block, rows) in out.chunks_mut(high).enumerate() {
                        let left = left.below(block * high);
                        tiles::<S, 2>(simd, left, (from, depths), panel, wide, rows, at, columns);
                    }
                }
            }
        }
        PACKED.set(kept);
    }
}

/// The left operand: row r begins at `data[r * step]`.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    step: usize,
}

impl<'a> Left<'a> {
    #[inline(always)]
    fn below(self, row: usize) -> Self {
        Left { data: &self.data[row * self.step..], step: self.step }
    }

    #[inline(always)]
    fn rows<const M: usize>(self, from: usize, depths: usize) -> [&'a [f32]; M] {
        let mut rows = [&self.data[..0]; M];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &self.data[r * self.step + from..][..depths];
        }
        rows
    }
}

/// Whole tiles with the right operand read where it lies, `H` rows and `V` vectors each; the columns
/// done. Each row of the right operand is read in long runs.
#[inline(always)]
fn in_place<S: Simd, const H: usize, const V: usize>(
    simd: S,
    left: Left<'_>,
    right: Right<'_, f32>,
    k: usize,
    out: &mut [&mut [f32]],
) -> usize {
    let n = out.first().map_or(0, |row| row.len());
    let wide = V * S::F32_LANES;
    let whole = n - n % wide;
    for from in (0..k).step_by(RUNS) {
        let depths = (k - from).min(RUNS);
        for at in (0..whole).step_by(wide) {
            let part = &right.data[from * right.row + at..];
            for (block, rows) in out.chunks_mut(H).enumerate() {
                let left = left.below(block * H);
                if rows.len() == H {
                    tile::<S, H, V>(simd, left.rows(from, depths), part, right.row, rows, at, wide);
                } else {
                    tiles::<S, V>(simd, left, (from, depths), part, right.row, rows, at, wide);
                }
            }
        }
    }
    whole
}

/// A tile of up to 8 rows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn tiles<S: Simd, const V: usize>(
    simd: S,
    left: Left<'_>,
    (from, depths): (usize, usize),
    right: &[f32],
    step: usize,
    rows: &mut [&mut [f32]],
    at: usize,
    columns: usize,
) {
    macro_rules! by_rows {
        ($($m:literal)*) => {
            match rows.len() {
                $($m => tile::<S, $m, V>(simd, left.rows(from, depths), right, step, rows, at, columns),)*
                _ => {}
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8);
}

/// Copies depths `from..from + depths` of columns `first..first + columns` to panels
/// `[depths][2 lanes]`, of which the last is filled up with zeros.
#[inline(always)]
fn pack<S: Simd>(
    b: Right<'_, f32>,
    from: usize,
    depths: usize,
    first: usize,
    columns: usize,
    packed: &mut [f32],
) {
    let wide = 2 * S::F32_LANES;
    let panels = packed.chunks_exact_mut(depths * wide).take(columns.div_ceil(wide)).enumerate();
    if b.column == 1 && columns.is_multiple_of(wide) {
        for d in 0..depths {
            let row = &b.data[(from + d) * b.row + first..][..columns];
            for (p, part) in row.chunks_exact(wide).enumerate() {
                packed[(p * depths + d) * wide..][..wide].copy_from_slice(part);
            }
        }
        return;
    }
    for (p, panel) in panels {
        let here = (columns - p * wide).min(wide);
        if here < wide {
            panel.fill(0.0);
        }
        for (block, panel) in panel.chunks_mut(TURNED * wide).enumerate() {
            let depth = from + block * TURNED;
            if b.column == 1 {
                for (d, row) in panel.chunks_exact_mut(wide).enumerate() {
                    let at = (depth + d) * b.row + first + p * wide;
                    row[..here].copy_from_slice(&b.data[at..at + here]);
                }
                continue;
            }
            for j in 0..here {
                let column = &b.data[(first + p * wide + j) * b.column + depth * b.row..];
                for (row, v) in panel.chunks_exact_mut(wide).zip(column.iter().step_by(b.row.max(1))) {
                    row[j] = *v;
                }
            }
        }
    }
}

/// Adds the product of M rows with `V` vectors of columns to `columns` elements of `out` from column
/// `at` on. Depth d of the right operand begins at `right[d * step]`.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn tile<S: Simd, const M: usize, const V: usize>(
    simd: S,
    left: [&[f32]; M],
    right: &[f32],
    step: usize,
    out: &mut [&mut [f32]],
    at: usize,
    columns: usize,
) {
    let wide = V * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    if columns == wide {
        for r in 0..M {
            let (row, _) = S::as_simd_f32s(&out[r][at..at + wide]);
            sums[r].copy_from_slice(&row[..V]);
        }
    } else {
        for r in 0..M {
            for (sum, part) in sums[r].iter_mut().zip(out[r][at..at + columns].chunks(S::F32_LANES)) {
                *sum = simd.partial_load_f32s(part);
            }
        }
    }
    // Iterators side by side need one test a depth, where indices need one a row; a row that is not
    // there repeats another and is not read.
    let row = |r: usize| left[if r < M { r } else { 0 }].iter();
    let pairs = |r: usize| row(r).zip(row(r + 1));
    let rows = pairs(0).zip(pairs(2)).zip(pairs(4).zip(pairs(6)));
    for ((((a, b), (c, d)), ((e, f), (g, h))), columns) in rows.zip(right.chunks(step)) {
        let (columns, _) = S::as_simd_f32s(&columns[..wide]);
        let left = [*a, *b, *c, *d, *e, *f, *g, *h];
        for r in 0..M {
            let x = simd.splat_f32s(left[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_f32s(x, columns[v], sums[r][v]);
            }
        }
    }
    if columns == wide {
        for r in 0..M {
            let (row, _) = S::as_mut_simd_f32s(&mut out[r][at..at + wide]);
            row[..V].copy_from_slice(&sums[r]);
        }
    } else {
        for r in 0..M {
            for (sum, part) in sums[r].iter().zip(out[r][at..at + columns].chunks_mut(S::F32_LANES)) {
                simd.partial_store_f32s(part, *sum);
            }
        }
    }
}
