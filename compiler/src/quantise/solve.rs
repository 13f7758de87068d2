//! Quantising a matrix against the second moments of its inputs.

use std::ops::Range;

use rayon::prelude::*;

use super::factor::{Factor, LANES, Lane, filled, subtract_scaled, times};
use pfmc_ir::tile::CodeBlock;

use super::{Grid, QuantiseError, TileRect, choose_grid, codes};

/// Damping, relative to the mean of the diagonal of the moments. Ten times less lowers the loss on the
/// calibration data and raises it on other data.
const DAMPING: f64 = 0.01;
/// Rounds of coordinate descent: codes, then scales.
const ROUNDS: usize = 2;
/// Sweeps over a column's codes in a round.
const SWEEPS: usize = 3;
/// Strips of columns that [`share`] looks at, about.
const SHARE_STRIPS: usize = 8;

/// Second moments of the inputs of a matrix of `k` rows, means over calibration rows.
#[derive(Debug, Clone, Copy)]
pub struct Moments<'a> {
    /// Rows of the matrix.
    pub k: usize,
    /// `[k][k]`, `E x'_i x'_j`: the inputs as the compiled program sees them.
    pub h: &'a [f32],
    /// `[k][k]`, `E x'_i x_j` with the inputs x of the source model; `None` where x' = x.
    pub c: Option<&'a [f32]>,
}

/// Quantises matrices that share their inputs.
pub struct Solver<'a> {
    moments: Moments<'a>,
    /// Rows in the order in which they are rounded, and where each row is in it.
    order: Vec<usize>,
    place: Vec<usize>,
    /// Moments in that order, damped.
    h: Vec<f32>,
    factor: Factor,
    /// By row, not in order.
    importance: Vec<f32>,
    /// Weights of rows for choosing scales and codebooks, by row: geometric means of their importance
    /// and their mean square. The former is too sure that later rows can compensate, which codes at
    /// the end of their range cannot.
    fitting: Vec<f32>,
}

/// How the best real-valued weights of a matrix differ from the model's.
#[derive(Debug, Clone, Copy)]
pub struct Correction<'a> {
    /// `[k][n]`, `E x'_i d_j`: what the outputs should hold beyond `w·x`. d is the source model's stream of
    /// residuals less the compiled one's where the product is added to it, so that the sum comes near the
    /// source's sum.
    pub wanted: Option<&'a [f32]>,
    /// Share of the correction that is made: see [`share`].
    pub share: f32,
}

/// A quantised matrix.
#[derive(Debug, Clone)]
pub struct Solution {
    /// Contents of the tiles, in the order asked for.
    pub blocks: Vec<CodeBlock>,
    /// Each tile's share of `sum over columns of E ((w' - q)·x')^2`, w' the best real-valued weights.
    /// Shares of tiles that compensate each other can be negative.
    pub losses: Vec<f64>,
    /// `sum over columns of E (w·x')^2`, of which the losses are a part.
    pub signal: f64,
}

impl Solution {
    /// Sum of the tiles' losses.
    pub fn loss(&self) -> f64 {
        self.losses.iter().sum()
    }
}

/// Columns that cross the same tiles and are computed together.
struct Strip<'t> {
    columns: Range<usize>,
    layout: &'t Layout,
}

/// The tiles that some columns cross, in ascending order of rows.
struct Layout {
    tiles: Vec<usize>,
    /// By row in rounding order: index into `tiles`, and into `groups`.
    tile: Vec<u32>,
    group: Vec<u32>,
    /// Rows of each group, the tile they lie in (index into `tiles`).
    groups: Vec<(Range<usize>, usize)>,
}

/// A strip's result: codes `[columns][k]` in rounding order, scales `[columns][groups]`.
struct Coded {
    codes: Vec<u8>,
    scales: Vec<u8>,
    /// One a tile of the layout.
    losses: Vec<f64>,
}

impl<'a> Solver<'a> {
    /// Orders rows by falling mean square (rows that matter most are rounded while most others can still
    /// compensate) and factorises the moments. Takes about `k^3 / 6` products and 20 bytes for each
    /// element of `h`.
    ///
    /// # Errors
    /// When lengths do not fit, a moment is not finite, or memory is short.
    pub fn new(moments: Moments<'a>) -> Result<Self, QuantiseError> {
        let k = moments.k;
        let square = k.checked_mul(k);
        if k == 0 || square != Some(moments.h.len()) || moments.c.is_some_and(|c| square != Some(c.len())) {
            return Err(QuantiseError::Shape(format!("{} moments for {k} inputs", moments.h.len())));
        }
        if !moments.h.iter().chain(moments.c.unwrap_or_default()).all(|v| v.is_finite()) {
            return Err(QuantiseError::NotFinite);
        }
        let mut order: Vec<usize> = (0..k).collect();
        let diagonal = |i: usize| moments.h[i * k + i];
        order.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)));
        let mut place = vec![0; k];
        for (at, &row) in order.iter().enumerate() {
            place[row] = at;
        }
        let mut h = filled(0f32, k * k)?;
        h.par_chunks_mut(k).zip(&order).for_each(|(to, &row)| {
            let from = &moments.h[row * k..(row + 1) * k];
            for (to, &column) in to.iter_mut().zip(&order) {
                *to = from[column];
            }
        });
        let factor = Factor::new(&h, k, DAMPING)?;
        for i in 0..k {
            h[i * k + i] += factor.damping;
        }
        let ordered = factor.importance();
        let importance = place.iter().map(|&at| ordered[at]).collect();
        let fitting = place.iter().map(|&at| (ordered[at] * h[at * k + at]).sqrt()).collect();
        Ok(Solver { moments, order, place, h, factor, importance, fitting })
    }

    /// What a squared error of 1 in each row costs after other rows have compensated; for
    /// [`super::expected_loss`].
    pub fn importance(&self) -> &[f32] {
        &self.importance
    }

    /// Quantises `weights` (`[k][n]`). `tiles` have to cover the matrix without overlap; those that some
    /// column crosses compensate each other's errors.
    ///
    /// # Errors
    /// When lengths do not fit, the tiles do not cover the matrix exactly once, a scheme is none that a
    /// tile can have, a weight is not finite, or memory is short.
    pub fn solve(
        &self,
        weights: &[f32],
        n: usize,
        correction: Correction<'_>,
        tiles: &[TileRect],
    ) -> Result<Solution, QuantiseError> {
        let k = self.moments.k;
        self.check(weights, n, correction.wanted)?;
        let ranges = self.layouts(n, tiles)?;
        let strips: Vec<Strip> = ranges
            .iter()
            .flat_map(|(columns, layout)| {
                columns
                    .clone()
                    .step_by(LANES)
                    .map(move |start| Strip { columns: start..(start + LANES).min(columns.end), layout })
            })
            .collect();
        let (target, signal) = self.target(weights, n, correction)?;
        let levels: Vec<(Grid, f32)> = tiles.par_iter().map(|t| self.levels(t, &target)).collect();
        let coded: Vec<Coded> = strips
            .par_iter()
            .map(|s| pulp::Arch::new().dispatch(|| self.strip(s, &target, &levels)))
            .collect();

        let mut losses = vec![0f64; tiles.len()];
        let mut blocks: Vec<CodeBlock> = tiles
            .iter()
            .zip(&levels)
            .map(|(t, (levels, unit))| CodeBlock {
                k: t.k.len(),
                n: t.n.len(),
                bits: t.bits,
                group: t.group,
                unit: *unit,
                levels: vec![0; t.k.len() * t.n.len()],
                scales: vec![0; t.k.len().div_ceil(t.group) * t.n.len()],
                codebook: levels.codebook(),
            })
            .collect();
        for (strip, coded) in strips.iter().zip(&coded) {
            let layout = strip.layout;
            for (&t, loss) in layout.tiles.iter().zip(&coded.losses) {
                losses[t] += loss;
            }
            for (l, column) in strip.columns.clone().enumerate() {
                for (g, (rows, tile)) in layout.groups.iter().enumerate() {
                    let t = layout.tiles[*tile];
                    let (rect, block, levels) = (&tiles[t], &mut blocks[t], &levels[t].0);
                    let (first, width) = (rows.start - rect.k.start, rect.n.len());
                    let column = column - rect.n.start;
                    block.scales[first / rect.group * width + column] =
                        coded.scales[l * layout.groups.len() + g];
                    for row in rows.clone() {
                        let code = coded.codes[l * k + self.place[row]];
                        block.levels[(row - rect.k.start) * width + column] = levels.integer(code.into());
                    }
                }
            }
        }
        Ok(Solution { blocks, losses, signal })
    }

    /// Ranges of columns that cross the same tiles.
    fn layouts(&self, n: usize, tiles: &[TileRect]) -> Result<Vec<(Range<usize>, Layout)>, QuantiseError> {
        let k = self.moments.k;
        for t in tiles {
            codes(t.scheme())?;
            if t.k.is_empty() || t.k.end > k || t.n.is_empty() || t.n.end > n {
                return Err(QuantiseError::Shape(format!("a tile {:?} x {:?} of {k} x {n}", t.k, t.n)));
            }
        }
        let mut cuts: Vec<usize> = tiles.iter().flat_map(|t| [t.n.start, t.n.end]).chain([0, n]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut out = Vec::new();
        for pair in cuts.windows(2) {
            let columns = pair[0]..pair[1];
            let mut within: Vec<usize> = (0..tiles.len())
                .filter(|&t| tiles[t].n.start <= columns.start && columns.end <= tiles[t].n.end)
                .collect();
            within.sort_by_key(|&t| tiles[t].k.start);
            let (mut tile, mut group, mut groups) = (vec![0u32; k], vec![0u32; k], Vec::new());
            let mut at = 0;
            for (index, &t) in within.iter().enumerate() {
                let rect = &tiles[t];
                if rect.k.start != at {
                    at = 0;
                    break;
                }
                at = rect.k.end;
                for start in rect.k.clone().step_by(rect.group) {
                    let rows = start..start.saturating_add(rect.group).min(rect.k.end);
                    for row in rows.clone() {
                        tile[self.place[row]] = index as u32;
                        group[self.place[row]] = groups.len() as u32;
                    }
                    groups.push((rows, index));
                }
            }
            if at != k {
                return Err(QuantiseError::Shape(format!(
                    "tiles do not cover rows 0 to {k} of columns {} to {} exactly once",
                    columns.start, columns.end
                )));
            }
            out.push((columns, Layout { tiles: within, tile, group, groups }));
        }
        Ok(out)
    }

    fn check(&self, weights: &[f32], n: usize, wanted: Option<&[f32]>) -> Result<(), QuantiseError> {
        let k = self.moments.k;
        if k.checked_mul(n) != Some(weights.len()) || wanted.is_some_and(|w| w.len() != weights.len()) {
            return Err(QuantiseError::Shape(format!("{} weights for {k} x {n}", weights.len())));
        }
        let finite = weights.iter().chain(wanted.unwrap_or_default()).all(|v| v.is_finite());
        if finite { Ok(()) } else { Err(QuantiseError::NotFinite) }
    }

    /// For columns `w` of the weights: `H w`, and `(C - H) w + wanted`, the moments of the inputs with what the
    /// weights leave of the wanted outputs. Rows in their own order.
    #[inline(always)]
    fn left_over(&self, w: &[Lane], wanted: Option<&[Lane]>) -> (Vec<Lane>, Vec<Lane>) {
        let zeros = vec![[0f32; LANES]; w.len()];
        let (mut hw, mut left) = (zeros.clone(), zeros);
        times(self.moments.h, w, &mut hw);
        if let Some(c) = self.moments.c {
            times(c, w, &mut left);
            for (left, hw) in left.iter_mut().flatten().zip(hw.iter().flatten()) {
                *left -= hw;
            }
        }
        for (left, wanted) in left.iter_mut().flatten().zip(wanted.into_iter().flatten().flatten()) {
            *left += wanted;
        }
        (hw, left)
    }

    /// `(H + damping)^-1` times moments of the inputs, rows in their own order.
    #[inline(always)]
    fn regress(&self, moments: &[Lane]) -> Vec<Lane> {
        let mut ordered: Vec<Lane> = self.order.iter().map(|&row| moments[row]).collect();
        self.factor.solve(&mut ordered);
        self.place.iter().map(|&at| ordered[at]).collect()
    }

    /// The best real-valued weights, `[n][k]` with rows in rounding order, and the signal:
    /// `w' = w + share (H + damping)^-1 ((C - H) w + wanted)`.
    fn target(
        &self,
        weights: &[f32],
        n: usize,
        Correction { wanted, share }: Correction<'_>,
    ) -> Result<(Vec<f32>, f64), QuantiseError> {
        let k = self.moments.k;
        let mut target = filled(0f32, weights.len())?;
        let signals: Vec<f64> = target
            .par_chunks_mut(LANES * k)
            .enumerate()
            .map(|(strip, out)| {
                pulp::Arch::new().dispatch(|| {
                    let first = strip * LANES;
                    let columns = first..first + out.len() / k;
                    let mut w = lanes(weights, n, columns.clone());
                    let wanted = wanted.map(|v| lanes(v, n, columns));
                    let (hw, left) = self.left_over(&w, wanted.as_deref());
                    let signal = inner(&w, &hw).iter().sum::<f64>();
                    if self.moments.c.is_some() || wanted.is_some() {
                        let shift = self.regress(&left);
                        for (w, shift) in w.iter_mut().flatten().zip(shift.iter().flatten()) {
                            *w += share * shift;
                        }
                    }
                    for (l, out) in out.chunks_exact_mut(k).enumerate() {
                        for (out, &row) in out.iter_mut().zip(&self.order) {
                            *out = w[row][l];
                        }
                    }
                    signal
                })
            })
            .collect();
        Ok((target, signals.iter().sum()))
    }

    /// Grid and unit of a tile, from the target alone.
    fn levels(&self, tile: &TileRect, target: &[f32]) -> (Grid, f32) {
        let k = self.moments.k;
        let mut turned = Vec::with_capacity(tile.k.len() * tile.n.len());
        for column in tile.n.clone() {
            let column = &target[column * k..(column + 1) * k];
            turned.extend(tile.k.clone().map(|row| column[self.place[row]]));
        }
        let turned: Vec<&[f32]> = turned.chunks_exact(tile.k.len().max(1)).collect();
        let importance = &self.fitting[tile.k.clone()];
        let scheme = (tile.bits, tile.group, tile.levels);
        let levels = pulp::Arch::new().dispatch(|| choose_grid(&turned, importance, scheme));
        let unit = levels.unit(&turned, importance, tile.group);
        (levels, unit)
    }

    /// Codes and scales of some columns.
    #[inline(always)]
    fn strip(&self, strip: &Strip, target: &[f32], levels: &[(Grid, f32)]) -> Coded {
        let (k, layout) = (self.moments.k, strip.layout);
        let (count, groups) = (strip.columns.len(), layout.groups.len());
        let target = &target[strip.columns.start * k..strip.columns.end * k];
        let tiles: Vec<&(Grid, f32)> = layout.tiles.iter().map(|&t| &levels[t]).collect();

        let mut scales = vec![0u8; count * groups];
        let mut x = Vec::new();
        for (scales, column) in scales.chunks_exact_mut(groups).zip(target.chunks_exact(k)) {
            for (scale, (rows, tile)) in scales.iter_mut().zip(&layout.groups) {
                let (levels, unit) = tiles[*tile];
                x.clear();
                x.extend(rows.clone().map(|row| column[self.place[row]]));
                *scale = levels.fit_multiple(&x, &self.fitting[rows.clone()], *unit).0;
            }
        }

        let mut errors = vec![[0f32; LANES]; k];
        for (l, column) in target.chunks_exact(k).enumerate() {
            for (e, w) in errors.iter_mut().zip(column) {
                e[l] = *w;
            }
        }
        let mut codes = vec![0u8; count * k];
        self.factor.round(&mut errors, |j, l, v| {
            if l >= count {
                return 0.0;
            }
            let (levels, unit) = tiles[layout.tile[j] as usize];
            let scale = f32::from(scales[l * groups + layout.group[j] as usize]) * unit;
            let code = levels.nearest(if scale > 0.0 { v / scale } else { 0.0 });
            codes[l * k + j] = code as u8;
            levels.value(code) * scale
        });

        let mut gradient = vec![[0f32; LANES]; k];
        times(&self.h, &errors, &mut gradient);
        let mut losses = vec![0f64; tiles.len()];
        let (mut g, mut before) = (vec![0f32; k], vec![0f32; k]);
        for l in 0..count {
            for ((g, e), (from_g, from_e)) in g.iter_mut().zip(&mut before).zip(gradient.iter().zip(&errors))
            {
                (*g, *e) = (from_g[l], from_e[l]);
            }
            let codes = &mut codes[l * k..(l + 1) * k];
            let scales = &mut scales[l * groups..(l + 1) * groups];
            for _ in 0..ROUNDS {
                for _ in 0..SWEEPS {
                    if !self.move_codes(layout, &tiles, scales, codes, &mut g) {
                        break;
                    }
                }
                self.move_scales(layout, &tiles, scales, codes, &mut g);
            }
            self.move_codes(layout, &tiles, scales, codes, &mut g);
            let column = &target[l * k..(l + 1) * k];
            for j in 0..k {
                let (levels, unit) = tiles[layout.tile[j] as usize];
                let scale = f32::from(scales[layout.group[j] as usize]) * unit;
                let error = column[j] - levels.value(codes[j].into()) * scale;
                losses[layout.tile[j] as usize] += f64::from(error) * f64::from(g[j]);
            }
        }
        Coded { codes, scales, losses }
    }

    /// One sweep of coordinate descent over the codes of a column, whose gradient `g` is H times its
    /// errors. Whether any moved.
    #[inline(always)]
    fn move_codes(
        &self,
        layout: &Layout,
        tiles: &[&(Grid, f32)],
        scales: &[u8],
        codes: &mut [u8],
        g: &mut [f32],
    ) -> bool {
        let k = g.len();
        let mut moved = false;
        for j in 0..k {
            let (levels, unit) = tiles[layout.tile[j] as usize];
            let scale = f32::from(scales[layout.group[j] as usize]) * unit;
            if scale == 0.0 {
                continue;
            }
            let row = &self.h[j * k..(j + 1) * k];
            let old = levels.value(codes[j].into());
            let code = levels.nearest(old + g[j] / (row[j] * scale));
            if code as u8 != codes[j] {
                codes[j] = code as u8;
                subtract_scaled(g, (levels.value(code) - old) * scale, row);
                moved = true;
            }
        }
        moved
    }

    /// Moves each group's scale of a column to the multiple nearest its least-squares value.
    #[inline(always)]
    fn move_scales(
        &self,
        layout: &Layout,
        tiles: &[&(Grid, f32)],
        scales: &mut [u8],
        codes: &[u8],
        g: &mut [f32],
    ) {
        let k = g.len();
        let mut direction = vec![0f32; k];
        for (scale, (rows, tile)) in scales.iter_mut().zip(&layout.groups) {
            let (levels, unit) = tiles[*tile];
            if *scale == 0 {
                continue;
            }
            direction.fill(0.0);
            let (mut slope, mut curvature) = (0f64, 0f64);
            for row in rows.clone() {
                let j = self.place[row];
                let level = levels.value(codes[j].into());
                if level != 0.0 {
                    subtract_scaled(&mut direction, -level, &self.h[j * k..(j + 1) * k]);
                    slope += f64::from(level) * f64::from(g[j]);
                }
            }
            for row in rows.clone() {
                let j = self.place[row];
                curvature += f64::from(levels.value(codes[j].into())) * f64::from(direction[j]);
            }
            if curvature > 0.0 && *unit > 0.0 {
                let best = f64::from(*scale) + slope / (curvature * f64::from(*unit));
                let best = best.round().clamp(1.0, 255.0) as u8;
                if best != *scale {
                    subtract_scaled(g, (f32::from(best) - f32::from(*scale)) * unit, &direction);
                    *scale = best;
                }
            }
        }
    }
}

/// Columns of a `[k][n]` matrix, side by side; at most [`LANES`], zeros where there are fewer.
#[inline(always)]
fn lanes(matrix: &[f32], n: usize, columns: Range<usize>) -> Vec<Lane> {
    let row = |row: &[f32]| {
        let mut lane = [0f32; LANES];
        lane[..columns.len()].copy_from_slice(&row[columns.clone()]);
        lane
    };
    matrix.chunks_exact(n).map(row).collect()
}

/// The share of a correction that lowers the error on inputs it was not made from, from 0 to 1. Of two
/// halves of the calibration data each gives a correction, D0 and D1; in the other half's moments the error is
/// a parabola of the share t, `t^2 D0·H1 D0 - 2 t D0·((C1 - H1) w + wanted1)`, and the share is where the sum of both is least.
/// Columns from all over the matrix stand for it.
///
/// # Errors
/// As [`Solver::solve`].
pub fn share(
    halves: [(&Solver<'_>, Option<&[f32]>); 2],
    weights: &[f32],
    n: usize,
) -> Result<f32, QuantiseError> {
    for (solver, wanted) in halves {
        solver.check(weights, n, wanted)?;
    }
    let strips = n.div_ceil(LANES);
    let sums: Vec<[f64; 2]> = (0..strips)
        .into_par_iter()
        .step_by(strips.div_ceil(SHARE_STRIPS).max(1))
        .map(|strip| {
            pulp::Arch::new().dispatch(|| {
                let columns = strip * LANES..((strip + 1) * LANES).min(n);
                let w = lanes(weights, n, columns.clone());
                let left = halves.map(|(solver, wanted)| {
                    let wanted = wanted.map(|v| lanes(v, n, columns.clone()));
                    solver.left_over(&w, wanted.as_deref()).1
                });
                let mut sums = [0f64; 2];
                for (own, other) in [(0, 1), (1, 0)] {
                    let shift = halves[own].0.regress(&left[own]);
                    let mut seen = vec![[0f32; LANES]; shift.len()];
                    times(halves[other].0.moments.h, &shift, &mut seen);
                    sums[0] += inner(&shift, &left[other]).iter().sum::<f64>();
                    sums[1] += inner(&shift, &seen).iter().sum::<f64>();
                }
                sums
            })
        })
        .collect();
    let [slope, curvature] = sums.iter().fold([0.0; 2], |a, s| [a[0] + s[0], a[1] + s[1]]);
    // Without a correction any share of it is the same.
    Ok(if curvature > 0.0 { (slope / curvature).clamp(0.0, 1.0) as f32 } else { 1.0 })
}

/// Inner products of two sets of columns.
#[inline(always)]
fn inner(a: &[Lane], b: &[Lane]) -> [f64; LANES] {
    let mut sums = [0f64; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += f64::from(*a) * f64::from(*b);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::data_free;
    use pfmc_ir::tile;

    use super::*;

    const NONE: Correction<'static> = Correction { wanted: None, share: 1.0 };

    struct Random(u64);

    impl Random {
        /// About normal.
        fn next(&mut self) -> f32 {
            let mut sum = -6f32;
            for _ in 0..12 {
                self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                sum += (self.0 >> 40) as f32 / 16777216.0;
            }
            sum
        }

        fn many(&mut self, len: usize) -> Vec<f32> {
            (0..len).map(|_| self.next()).collect()
        }
    }

    /// Moments of `rows` correlated inputs.
    fn moments(k: usize, rows: usize, random: &mut Random) -> Vec<f32> {
        let mut h = vec![0f32; k * k];
        for _ in 0..rows {
            let mut x = random.many(k);
            for i in 1..k {
                x[i] = (0.7 * x[i - 1] + x[i]) * (1.0 + (i % 3) as f32 * 0.3);
                x[i] = x[i].clamp(-8.0, 8.0);
            }
            for i in 0..k {
                subtract_scaled(&mut h[i * k..(i + 1) * k], -x[i] / rows as f32, &x);
            }
        }
        h
    }

    fn rect(k: Range<usize>, n: Range<usize>, bits: u8, group: usize, codebook: bool) -> TileRect {
        let levels = if codebook { tile::Levels::Codebook } else { tile::Levels::Uniform };
        TileRect { k, n, bits, group, levels }
    }

    fn solve(h: &[f32], k: usize, w: &[f32], n: usize, tiles: &[TileRect]) -> Solution {
        Solver::new(Moments { k, h, c: None }).unwrap().solve(w, n, NONE, tiles).unwrap()
    }

    /// The matrix that tiles hold.
    fn whole(k: usize, n: usize, tiles: &[TileRect], blocks: &[CodeBlock]) -> Vec<f32> {
        let mut out = vec![f32::NAN; k * n];
        for (t, b) in tiles.iter().zip(blocks) {
            for (row, i) in b.dequantize().chunks(b.n).zip(t.k.clone()) {
                out[i * n + t.n.start..i * n + t.n.end].copy_from_slice(row);
            }
        }
        out
    }

    /// `sum over columns of (w - q)^T H (w - q)`.
    fn loss(h: &[f32], k: usize, n: usize, w: &[f32], q: &[f32]) -> f64 {
        let mut sum = 0f64;
        for j in 0..n {
            let e = |i: usize| f64::from(w[i * n + j] - q[i * n + j]);
            for i in 0..k {
                sum += e(i) * (0..k).map(|m| f64::from(h[i * k + m]) * e(m)).sum::<f64>();
            }
        }
        sum
    }

    /// All 3^6 assignments of codes, at the scale that the solver chose.
    #[test]
    fn tiny_columns_come_near_the_optimum_of_exhaustive_search() {
        let mut random = Random(3);
        let (k, mut optima, mut sums) = (6, 0, [0f64; 2]);
        for _ in 0..60 {
            let (given, w) = (moments(k, 20, &mut random), random.many(k));
            let solver = Solver::new(Moments { k, h: &given, c: None }).unwrap();
            let mut h = given.clone();
            for i in 0..k {
                h[i * k + i] += solver.factor.damping;
            }
            let block = &solver.solve(&w, 1, NONE, &[rect(0..k, 0..1, 2, k, false)]).unwrap().blocks[0];
            let got = loss(&h, k, 1, &w, &block.dequantize());
            let scale = f32::from(block.scales[0]) * block.unit;
            let best = (0..729)
                .map(|c: i32| {
                    let q: Vec<f32> = (0..6).map(|i| (c / 3i32.pow(i) % 3 - 1) as f32 * scale).collect();
                    loss(&h, k, 1, &w, &q)
                })
                .fold(f64::INFINITY, f64::min);
            assert!(got > best * 0.999, "{got} {best}");
            optima += usize::from(got < best * 1.0001 + 1e-9);
            sums = [sums[0] + got, sums[1] + best];
        }
        assert!(optima > 40 && sums[0] < 1.15 * sums[1], "the optimum in {optima} of 60, {sums:?}");
    }

    #[test]
    fn the_loss_is_far_below_that_of_rounding_and_is_what_was_said() {
        let mut random = Random(5);
        let (k, n) = (96, 37);
        let (h, w) = (moments(k, 400, &mut random), random.many(k * n));
        for (bits, codebook) in [(2, false), (3, true), (4, false), (4, true), (6, true), (8, false)] {
            let tiles = [rect(0..k, 0..n, bits, 32, codebook)];
            let solution = solve(&h, k, &w, n, &tiles);
            let got = loss(&h, k, n, &w, &solution.blocks[0].dequantize());
            let rounded = data_free(&w, None, k, n, tiles[0].scheme()).unwrap().dequantize();
            assert!(got < 0.8 * loss(&h, k, n, &w, &rounded), "{bits} {codebook}: {got}");
            assert!((solution.loss() / got - 1.0).abs() < 0.15, "{} {got}", solution.loss());
            let signal = loss(&h, k, n, &w, &vec![0.0; k * n]);
            assert!((solution.signal / signal - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn tiles_of_all_shapes_and_schemes_compensate_each_other() {
        let mut random = Random(8);
        let (k, n) = (50, 40);
        let (h, w) = (moments(k, 300, &mut random), random.many(k * n));
        let tiles = [
            rect(20..50, 0..10, 4, 7, true),
            rect(0..20, 0..25, 3, 32, false),
            rect(0..50, 25..40, 5, 100, true),
            rect(20..50, 10..25, 2, 15, false),
        ];
        let solution = solve(&h, k, &w, n, &tiles);
        for (t, b) in tiles.iter().zip(&solution.blocks) {
            assert_eq!((b.k, b.n, b.bits, b.group), (t.k.len(), t.n.len(), t.bits, t.group));
            assert_eq!(b.scales.len(), b.k.div_ceil(b.group) * b.n);
            let most = pfmc_ir::numerics::code_max(b.bits);
            let known = |l: &i8| {
                if t.levels == tile::Levels::Codebook {
                    b.codebook.contains(l)
                } else {
                    i32::from(*l).abs() <= most
                }
            };
            assert!(b.levels.iter().all(known));
        }
        let rounded = super::super::data_free_tiles(&w, None, k, n, &tiles).unwrap();
        let losses = [&solution.blocks, &rounded].map(|b| loss(&h, k, n, &w, &whole(k, n, &tiles, b)));
        assert!(losses[0] < 0.8 * losses[1], "{losses:?}");
    }

    #[test]
    fn inputs_of_another_scale_and_wanted_outputs_move_the_target() {
        let mut random = Random(9);
        let (k, n) = (24, 18);
        let (m, w, v) = (moments(k, 4000, &mut random), random.many(k * n), random.many(k * n));
        let h: Vec<f32> = m.iter().map(|v| v * 4.0).collect();
        let c: Vec<f32> = m.iter().map(|v| v * 2.0).collect();
        // E x'_i d_j of d = x'·v.
        let wanted: Vec<f32> =
            (0..k * n).map(|at| (0..k).map(|i| h[at / n * k + i] * v[i * n + at % n]).sum::<f32>()).collect();
        let solver = Solver::new(Moments { k, h: &h, c: Some(&c) }).unwrap();
        // x' = 2 x, so that the best weights are w / 2.
        let got = solver
            .solve(&w, n, Correction { wanted: Some(&wanted), share: 1.0 }, &[rect(0..k, 0..n, 8, 8, false)])
            .unwrap();
        let want: Vec<f32> = w.iter().zip(&v).map(|(w, v)| w / 2.0 + v).collect();
        let error = loss(&h, k, n, &want, &got.blocks[0].dequantize());
        let size = loss(&h, k, n, &want, &vec![0.0; k * n]);
        assert!(error < 1e-3 * size, "{error} {size}");
    }

    #[test]
    fn corrections_are_made_as_far_as_the_other_half_bears_them_out() {
        let mut random = Random(10);
        let (k, n) = (24, 18);
        let (w, v) = (random.many(k * n), random.many(k * n));
        // d = x·v in both halves, in one of them, in none; and opposed.
        let (h, other) = (moments(k, 4000, &mut random), moments(k, 4000, &mut random));
        let of = |h: &[f32], by: f32| -> Vec<f32> {
            let wanted = |at: usize| (0..k).map(|i| by * h[at / n * k + i] * v[i * n + at % n]).sum();
            (0..k * n).map(wanted).collect()
        };
        let solvers = [&h, &other].map(|h| Solver::new(Moments { k, h, c: None }).unwrap());
        let share_of = |a: f32, b: f32| {
            let wanted = [of(&h, a), of(&other, b)];
            let half = |i: usize| (&solvers[i], Some(&wanted[i][..]));
            share([half(0), half(1)], &w, n).unwrap()
        };
        assert!(share_of(1.0, 1.0) > 0.97);
        assert_eq!(share_of(1.0, -1.0), 0.0);
        // With moments that are nearly alike: slope 2 a b, curvature a^2 + b^2.
        assert!((share_of(1.0, 0.5) - 0.8).abs() < 0.05);
        let solution = solvers[0].solve(
            &w,
            n,
            Correction { wanted: Some(&of(&h, 1.0)), share: 0.5 },
            &[rect(0..k, 0..n, 8, 8, false)],
        );
        let want: Vec<f32> = w.iter().zip(&v).map(|(w, v)| w + v / 2.0).collect();
        let error = loss(&h, k, n, &want, &solution.unwrap().blocks[0].dequantize());
        assert!(error < 1e-3 * loss(&h, k, n, &want, &vec![0.0; k * n]), "{error}");
        assert!(share([(&solvers[0], None), (&solvers[1], Some(&w[1..]))], &w, n).is_err());
    }

    #[test]
    fn threads_and_the_order_of_columns_do_not_matter() {
        let mut random = Random(11);
        let (k, n) = (40, 53);
        let (h, w) = (moments(k, 200, &mut random), random.many(k * n));
        let tiles = [rect(0..k, 0..30, 3, 16, true), rect(0..k, 30..n, 4, 40, false)];
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| solve(&h, k, &w, n, &tiles).blocks)
        };
        assert_eq!(with(1), with(3));
        let reversed: Vec<f32> = w.chunks(n).flat_map(|r| r.iter().rev().copied()).collect();
        let all = [rect(0..k, 0..n, 4, 16, false)];
        let a = solve(&h, k, &w, n, &all).blocks[0].dequantize();
        let b = solve(&h, k, &reversed, n, &all).blocks[0].dequantize();
        assert!(a.chunks(n).zip(b.chunks(n)).all(|(a, b)| a.iter().eq(b.iter().rev())));
    }

    #[test]
    fn degenerate_moments_are_solved_and_impossible_requests_refused() {
        let mut random = Random(13);
        let (k, n) = (33, 5);
        let w = random.many(k * n);
        let tiles = [rect(0..k, 0..n, 4, 11, true)];
        let mut dead = moments(k, 100, &mut random);
        for i in 0..k {
            (dead[i * k + 4], dead[4 * k + i]) = (0.0, 0.0);
        }
        for h in [vec![0.0; k * k], vec![1.0; k * k], moments(k, 3, &mut random), dead] {
            let q = solve(&h, k, &w, n, &tiles).blocks[0].dequantize();
            let far = w.iter().zip(&q).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(far.is_finite() && far < 10.0, "{far}");
        }
        let zero = solve(&[1.0], 1, &[0.0, 0.0], 2, &[rect(0..1, 0..2, 4, 1, false)]);
        assert_eq!((zero.blocks[0].unit, zero.signal), (0.0, 0.0));

        let h = moments(k, 50, &mut random);
        assert_eq!(Solver::new(Moments { k, h: &h[1..], c: None }).err().map(|e| e.to_string()), {
            Some("1088 moments for 33 inputs".into())
        });
        let bad = vec![f32::NAN; k * k];
        assert_eq!(Solver::new(Moments { k, h: &bad, c: None }).err(), Some(QuantiseError::NotFinite));
        assert!(Solver::new(Moments { k: 0, h: &[], c: None }).is_err());
        let solver = Solver::new(Moments { k, h: &h, c: None }).unwrap();
        for tiles in [
            vec![],
            vec![rect(0..k, 0..n - 1, 4, 8, false)],
            vec![rect(0..k - 1, 0..n, 4, 8, false)],
            vec![rect(0..k, 0..n + 1, 4, 8, false)],
            vec![rect(0..k, 0..n, 4, 8, false), rect(5..9, 0..n, 4, 8, false)],
            vec![rect(0..k, 0..n, 4, 0, false)],
            vec![rect(0..k, 0..n, 9, 8, false)],
            vec![rect(0..k, 0..n, 7, 8, true)],
            vec![rect(0..usize::MAX, 0..n, 4, 8, false)],
        ] {
            assert!(solver.solve(&w, n, NONE, &tiles).is_err(), "{tiles:?}");
        }
        assert!(solver.solve(&w[1..], n, NONE, &tiles).is_err());
        assert!(solver.solve(&vec![f32::INFINITY; k * n], n, NONE, &tiles).is_err());
    }
}
