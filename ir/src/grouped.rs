//! Products whose columns belong to groups, each with inputs of its own: what grouped and depthwise
//! convolutions become. Arithmetic is that of [`crate::numerics`]; a row is the inputs of one group.

use std::ops::Range;

use rayon::prelude::*;

use crate::eval::{matmul, vectorised, zeros};
use crate::loaded::LoadedTile;
use crate::numerics;
use crate::tile::{Activations, CodeBlock, TileContent};

/// Rows of x that a task takes.
const ROWS: usize = 64;
/// Fewest columns of one group in a tile for which a product of blocks pays.
const BLOCK: usize = 8;

/// The weights of columns of one tile.
enum Weights {
    /// Codes times their scales, which fit 16 bits, `[n][k]`.
    Codes(Vec<i16>, f32),
    /// Codes of columns of one group.
    CodeBlock(CodeBlock),
    /// Real values, `[n][k]`.
    Real(Vec<f32>),
    /// Real values of columns of one group, `[k][n]`.
    RealBlock(Vec<f32>),
}

/// Columns of one tile; for products of blocks all of one group.
struct Part {
    k: Range<usize>,
    n: Range<usize>,
    weights: Weights,
}

/// Columns `at` of rows of `width` elements.
fn columns<T: Copy>(rows: &[T], width: usize, at: &Range<usize>) -> Vec<T> {
    rows.chunks_exact(width.max(1)).flat_map(|row| row[at.clone()].iter().copied()).collect()
}

/// Rows of `width` elements, transposed.
fn turned<T: Copy>(rows: &[T], width: usize) -> Vec<T> {
    (0..width).flat_map(|j| rows.iter().copied().skip(j).step_by(width)).collect()
}

/// The parts of a tile, in ascending order of columns. `each` columns belong to one group.
fn parts(tile: &LoadedTile, each: usize) -> Result<Vec<Part>, String> {
    let width = tile.n.len();
    let (first, last) = (tile.n.start / each, tile.n.end.saturating_sub(1) / each);
    let narrow = each < BLOCK;
    let ranges: Vec<Range<usize>> = if narrow {
        vec![tile.n.clone()]
    } else {
        (first..=last).map(|g| (g * each).max(tile.n.start)..((g + 1) * each).min(tile.n.end)).collect()
    };
    let part = |n: Range<usize>| {
        let at = n.start - tile.n.start..n.end - tile.n.start;
        let weights = match &tile.content {
            TileContent::Codes(b) if narrow => {
                let scaled = |(i, &level): (usize, &i8)| {
                    i16::from(level) * i16::from(b.scales[i / width / b.group * width + i % width])
                };
                let scaled: Vec<i16> = b.levels.iter().enumerate().map(scaled).collect();
                Weights::Codes(turned(&scaled, width), b.unit)
            }
            TileContent::Codes(b) => Weights::CodeBlock(CodeBlock {
                n: at.len(),
                levels: columns(&b.levels, width, &at),
                scales: columns(&b.scales, width, &at),
                codebook: b.codebook.clone(),
                ..*b
            }),
            TileContent::Real(b) if narrow => Weights::Real(turned(&b.values, width)),
            TileContent::Real(b) => Weights::RealBlock(columns(&b.values, width, &at)),
            TileContent::Data(_) => return Err("a data tile has no product".to_owned()),
        };
        Ok(Part { k: tile.k.clone(), n, weights })
    };
    ranges.into_iter().map(part).collect()
}

/// x `[rows][groups][k]` times the columns of each group of a matrix `[k, n]`: `[rows][n]`, column j
/// belonging to group `j / (n / groups)`. Tiles come in ascending order of n, then k.
///
/// # Errors
/// When x does not fit, or the groups do not divide the columns.
pub(crate) fn product(
    tiles: &[LoadedTile],
    (k, n): (usize, usize),
    activations: Activations,
    groups: usize,
    x: &[f32],
) -> Result<Vec<f32>, String> {
    if k == 0 || n == 0 || groups == 0 || !n.is_multiple_of(groups) {
        return Err(format!("{groups} groups do not divide a matrix of {k} x {n}"));
    }
    let width = groups.checked_mul(k).filter(|w| x.len().is_multiple_of(*w));
    let width = width.ok_or_else(|| format!("{} inputs do not fit {groups} groups of {k}", x.len()))?;
    let each = n / groups;
    let mut all = Vec::new();
    for tile in tiles {
        all.extend(parts(tile, each)?);
    }
    let codes = tiles.iter().any(|t| matches!(t.content, TileContent::Codes(_)));
    let mut out = zeros::<f32>(&[x.len() / width, n])?;
    out.par_chunks_mut(n * ROWS).zip(x.par_chunks(width * ROWS)).for_each(|(out, x)| {
        Rows { k, n, activations, groups, each, x }.product(&all, codes, out);
    });
    Ok(out)
}

/// Some rows of x.
struct Rows<'a> {
    k: usize,
    n: usize,
    activations: Activations,
    groups: usize,
    /// Columns of a group.
    each: usize,
    /// `[rows][groups][k]`
    x: &'a [f32],
}

impl Rows<'_> {
    fn product(&self, parts: &[Part], codes: bool, out: &mut [f32]) {
        let rows = out.len() / self.n;
        let mut q = Vec::new();
        let mut scales = Vec::new();
        if codes {
            q.resize(self.x.len(), 0i8);
            let each = q.chunks_exact_mut(self.k).zip(self.x.chunks_exact(self.k));
            scales.extend(each.map(|(q, x)| numerics::quantize_activations(self.activations, x, q)));
        }
        // Sums over the tiles along k, in f64 and in ascending order of k.
        let mut sums = vec![0f64; rows * self.n];
        for part in parts {
            let depth = part.k.len();
            match &part.weights {
                Weights::Codes(w, unit) => self.dots(part, &q, w, &mut sums, |x, w| {
                    let sum = x
                        .iter()
                        .zip(w)
                        .fold(0i32, |s, (&x, &w)| s.wrapping_add(i32::from(x).wrapping_mul(w.into())));
                    f64::from(sum) * f64::from(*unit)
                }),
                Weights::Real(w) => self.dots(part, self.x, w, &mut sums, |x, w| {
                    f64::from(x.iter().zip(w).fold(0f32, |s, (x, w)| x.mul_add(*w, s)))
                }),
                Weights::CodeBlock(block) => {
                    let mut acc = vec![0i32; rows * block.n];
                    numerics::accumulate(block, &self.of_group(part, &q, rows), rows, &mut acc);
                    self.add(part, &mut sums, &acc, |a| f64::from(a) * f64::from(block.unit));
                }
                Weights::RealBlock(w) => {
                    let x = self.of_group(part, self.x, rows);
                    let y = matmul::product_f32(&x, w, rows, depth, part.n.len());
                    self.add(part, &mut sums, &y, f64::from);
                }
            }
        }
        for (r, (out, sums)) in out.chunks_exact_mut(self.n).zip(sums.chunks_exact(self.n)).enumerate() {
            for (g, (out, sums)) in
                out.chunks_exact_mut(self.each).zip(sums.chunks_exact(self.each)).enumerate()
            {
                let scale = scales.get(r * self.groups + g).map_or(1.0, |&s| f64::from(s));
                for (o, s) in out.iter_mut().zip(sums) {
                    *o = (s * scale) as f32;
                }
            }
        }
    }

    /// Adds the product of each column with its group's inputs.
    fn dots<X: Copy, W: Copy>(
        &self,
        part: &Part,
        x: &[X],
        w: &[W],
        sums: &mut [f64],
        dot: impl Fn(&[X], &[W]) -> f64,
    ) {
        vectorised(
            #[inline(always)]
            || {
                for (x, sums) in x.chunks_exact(self.groups * self.k).zip(sums.chunks_exact_mut(self.n)) {
                    let columns = part.n.clone().zip(w.chunks_exact(part.k.len()));
                    for ((j, w), s) in columns.zip(&mut sums[part.n.clone()]) {
                        let from = j / self.each * self.k;
                        *s += dot(&x[from + part.k.start..from + part.k.end], w);
                    }
                }
            },
        );
    }

    /// The inputs of a part's group, `[rows][k]`.
    fn of_group<X: Copy>(&self, part: &Part, x: &[X], rows: usize) -> Vec<X> {
        let from = part.n.start / self.each * self.k;
        let mut out = Vec::with_capacity(rows * part.k.len());
        for row in x.chunks_exact(self.groups * self.k) {
            out.extend_from_slice(&row[from + part.k.start..from + part.k.end]);
        }
        out
    }

    fn add<T: Copy>(&self, part: &Part, sums: &mut [f64], y: &[T], value: impl Fn(T) -> f64) {
        for (sums, y) in sums.chunks_exact_mut(self.n).zip(y.chunks_exact(part.n.len())) {
            for (s, y) in sums[part.n.clone()].iter_mut().zip(y) {
                *s += value(*y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::FixedMatrices;
    use crate::loaded::LoadedMatrices;
    use crate::program::TileProgram;
    use crate::tile::{FixedMatrix, Levels, MatrixId, RealBlock, Scheme, Tile, TileId, TileKind, TileSource};

    struct Contents(Vec<TileContent>);

    impl TileSource for Contents {
        fn tile(&self, id: TileId) -> Result<TileContent, crate::diag::Diagnostics> {
            Ok(self.0[id.index()].clone())
        }
    }

    /// Numbers between -1 and 1.
    fn ramp(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 507.0).collect()
    }

    /// A matrix in tiles that end at rows `k` and columns `n`, whose content is made of their elements.
    fn loaded(
        w: &[f32],
        (k, n): (&[usize], &[usize]),
        scheme: Scheme,
        content: &dyn Fn(&[f32], usize, usize) -> TileContent,
    ) -> LoadedMatrices {
        let width = *n.last().unwrap();
        let ranges = |ends: &[usize]| -> Vec<Range<usize>> {
            let begins = std::iter::once(0).chain(ends.iter().copied());
            begins.zip(ends.iter().copied()).map(|(a, b)| a..b).collect()
        };
        let (mut tiles, mut contents) = (Vec::new(), Vec::new());
        for n in ranges(n) {
            for k in ranges(k) {
                let rows = &w[k.start * width..k.end * width];
                contents.push(content(&columns(rows, width, &n), k.len(), n.len()));
                tiles.push(Tile {
                    name: format!("t{}", tiles.len()),
                    kind: TileKind::Matrix {
                        matrix: MatrixId(0),
                        k: k.start as u32..k.end as u32,
                        n: n.start as u32..n.end as u32,
                        scheme,
                    },
                    origin: Default::default(),
                });
            }
        }
        let matrix = FixedMatrix {
            k: *k.last().unwrap() as u32,
            n: width as u32,
            activations: Activations::Row,
            origin: Default::default(),
        };
        let program = TileProgram { tiles, matrices: vec![matrix], ..TileProgram::default() };
        let contents = Contents(contents);
        LoadedMatrices::load(&program, &contents, &contents).unwrap()
    }

    /// Each group's columns as a matrix of its own, multiplied with the group's inputs.
    fn one_by_one(
        m: &dyn Fn(Range<usize>) -> LoadedMatrices,
        k: usize,
        n: usize,
        groups: usize,
        x: &[f32],
    ) -> Vec<f32> {
        let (rows, each) = (x.len() / k / groups, n / groups);
        let mut out = vec![0f32; rows * n];
        for g in 0..groups {
            let own: Vec<f32> =
                x.chunks_exact(k * groups).flat_map(|row| row[g * k..][..k].iter().copied()).collect();
            let y = m(g * each..(g + 1) * each).linear(MatrixId(0), &own).unwrap();
            for (out, y) in out.chunks_exact_mut(n).zip(y.chunks_exact(each)) {
                out[g * each..][..each].copy_from_slice(y);
            }
        }
        out
    }

    /// Exact codes, so that columns can be cut before they are made: every unit is 2^-10.
    fn exact(values: &[f32], k: usize, n: usize) -> TileContent {
        let levels = values.iter().map(|v| (v * 7.0).round() as i8).collect();
        // The scale depends on the group of rows alone.
        let scales = (0..k.div_ceil(4) * n).map(|i| (i / n * 30 + 40) as u8).collect();
        TileContent::Codes(CodeBlock {
            k,
            n,
            bits: 4,
            group: 4,
            unit: 1.0 / 1024.0,
            levels,
            scales,
            codebook: Vec::new(),
        })
    }

    #[test]
    fn codes_have_the_bits_of_a_matrix_a_group() {
        // Depthwise, narrow and wide groups; tiles cut inside groups and along k.
        for (k, groups, each, tiles_k, tiles_n) in [
            (9, 30, 1, vec![9], vec![7, 30]),
            (9, 6, 3, vec![4, 9], vec![5, 18]),
            (18, 3, 20, vec![8, 18], vec![25, 60]),
            (5, 1, 12, vec![5], vec![12]),
        ] {
            let n = groups * each;
            let w = ramp(k * n);
            let mut x = ramp(133 * groups * k);
            x[3] = f32::NAN;
            let scheme = Scheme::Codes { bits: 4, group: 4, levels: Levels::Uniform };
            let m = loaded(&w, (&tiles_k, &tiles_n), scheme, &exact);
            let ours = m.grouped(MatrixId(0), groups, &x).unwrap();
            let of = |at: Range<usize>| loaded(&columns(&w, n, &at), (&tiles_k, &[each]), scheme, &exact);
            let want = one_by_one(&of, k, n, groups, &x);
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&ours), bits(&want), "{groups} groups of {k} x {each}");
            assert!(ours[..each].iter().all(|v| v.is_nan()) && (groups == 1 || !ours[each].is_nan()));
        }
    }

    #[test]
    fn real_weights_give_the_sums_of_their_products() {
        let real = |v: &[f32], k, n| TileContent::Real(RealBlock { k, n, values: v.to_vec() });
        for (k, groups, each) in [(9, 12, 1), (6, 2, 10)] {
            let n = groups * each;
            let (w, x) = (ramp(k * n), ramp(70 * groups * k));
            let m = loaded(&w, (&[4, k], &[5, n]), Scheme::Real, &real);
            let y = m.grouped(MatrixId(0), groups, &x).unwrap();
            for (at, y) in y.iter().enumerate() {
                let (r, j) = (at / n, at % n);
                let row = &x[(r * groups + j / each) * k..][..k];
                let want: f64 =
                    row.iter().enumerate().map(|(i, &x)| f64::from(x) * f64::from(w[i * n + j])).sum();
                assert!((f64::from(*y) - want).abs() < 1e-5, "row {r} column {j}: {y} {want}");
            }
        }
    }

    #[test]
    fn groups_that_do_not_divide_the_matrix_are_no_program() {
        let of = |attrs: &str, shape: &str| {
            let text = format!(
                "pfir 1\n%0 = input \"x\" : f32[b, {shape}]\n%1 = fixed_grouped(%0) {{{attrs}}} : f32[b, 6]\noutput \"y\" = %1\n"
            );
            let mut graph = crate::text::parse_program(&text).unwrap().graph;
            crate::infer::annotate(&mut graph).map_err(|e| e.to_string())
        };
        assert!(of("matrix=0, k=4, n=6, groups=3", "3, 4").is_ok());
        for (attrs, shape, why) in [
            ("matrix=0, k=4, n=6, groups=4", "4, 4", "4 groups do not divide"),
            ("matrix=0, k=4, n=6, groups=0", "0, 4", "0 groups"),
            ("matrix=0, k=4, n=6, groups=-3", "3, 4", "-3 groups"),
            ("matrix=0, k=4, n=-9223372036854775808, groups=-1", "3, 4", "do not divide"),
            ("matrix=0, k=4, n=6, groups=3", "2, 4", "lengths 2 and 3 differ"),
            ("matrix=0, k=4, n=6, groups=3", "3, 5", "lengths 5 and 4 differ"),
        ] {
            let refused = of(attrs, shape).unwrap_err();
            assert!(refused.contains(why), "{attrs}: {refused}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let m = loaded(
            &ramp(36),
            (&[6], &[6]),
            Scheme::Codes { bits: 4, group: 4, levels: Levels::Uniform },
            &exact,
        );
        let refused = |groups, x: &[f32]| m.grouped(MatrixId(0), groups, x).unwrap_err().to_string();
        assert!(refused(4, &[0.0; 24]).contains("4 groups do not divide"));
        assert!(refused(0, &[]).contains("0 groups"));
        assert!(refused(3, &[0.0; 17]).contains("17 inputs do not fit"));
        assert!(refused(usize::MAX, &[0.0; 18]).contains("do not divide"));
        assert!(m.grouped(MatrixId(1), 3, &[0.0; 18]).is_err());
        assert_eq!(m.grouped(MatrixId(0), 3, &[]).unwrap(), [0f32; 0]);
    }
}
