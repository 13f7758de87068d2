//! The transfer matrix of a tile in the first Born approximation, as a fast linear operator A from
//! voxels to weights, its exact adjoint and the minimum-norm solution.
//!
//! In the scaling used here `T_p = V^(-1/2) s(K_p) sum_v dn(v) exp(-i K_p . r_v)`, with V the number of
//! voxels, s the voxel's form factor and r counted from the tile's origin (see [`crate::geometry`]),
//! which lies between the two middle layers.
//!
//! # Folding
//! Voxels r and -r are the two of a *site*. Re T depends on their sum alone and Im T on their
//! difference, so each quadrature is an operator on half a tile: `Re T_p = s sum_site f cos(K r)` with
//! the sum f ([`Part::Real`]), `Im T_p = -s sum_site f sin(K r)` with the difference ([`Part::Imaginary`]).
//! Sites are numbered as the voxels of the deeper half, x fastest, then y, then layer; [`mirrored`] gives the
//! other voxel of a site.
//!
//! # Transforms
//! Transverse frequencies are integer bins, so A is a 2D FFT of each layer, cut to the bins that
//! gratings use, and then, for each bin, a sum over layers at the depth frequencies of the weights
//! that share the bin. That sum is a non-uniform FFT: deconvolve, zero-pad, FFT, interpolate with
//! the kernel `exp(beta (sqrt(1 - x^2) - 1))` of [`TAPS`] taps. As only the real part is wanted, a bin's
//! line is continued to the other half of the tile by its conjugate; its spectrum is then real, but
//! for the half layer between origin and layer, and two lines share one transform.
//!
//! # Order of weights
//! Weights are kept in *line order*: weight (input column c, row r; output column c', row r') has
//! index `((r' * rows_in + r) * C + (c' - c) mod C) * C + c`. A *line* is the set of weights with one
//! transverse frequency; lines `c' - c = d` and `d - C` fill one chunk of C weights together.
//!
//! # Why the solution is cheap
//! Gratings and mirror gratings are disjoint ([`crate::geometry`] asserts it), so taking the real
//! part couples nothing: `A A^T` is block diagonal over lines, and the conjugate-gradient steps of
//! [`Born::solve`] never leave the lines' own depth sums.

use std::sync::Arc;

use rayon::prelude::*;
use rustfft::{Fft, FftPlanner, num_complex::Complex32};

use crate::geometry::{Geometry, smooth};

/// Width of the interpolation kernel in grid points.
const TAPS: usize = 8;
/// Oversampling of the depth grid; with [`TAPS`] taps the interpolation is right to about 1e-5.
const OVERSAMPLING: f64 = 1.5;
/// Layers, and rows, handled together: one cache line of complex numbers.
const BLOCK: usize = 8;
/// Chunks of weights whose depth lines one task writes.
const GROUP: usize = 32;

/// A quadrature of the transfer matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Re T, from the sums of a site's two voxels.
    Real,
    /// Im T, from their differences.
    Imaginary,
}

/// The operator of one geometry and one used rectangle of it.
pub struct Born {
    columns: usize,
    /// Sites along x, y, depth.
    sites: [usize; 3],
    /// First transverse bin used, of `2 C - 1`.
    first_bin: usize,
    /// Row bin of each pair of rows, `r' * rows_in + r`.
    row_bins: Vec<usize>,
    /// Length of the depth grid.
    grid: usize,
    /// Reciprocal transform of the kernel at each layer of sites.
    deconvolve: Vec<f32>,
    /// `exp(-i pi t / grid)` at each grid point t: the half layer between origin and layer.
    twiddle: Vec<Complex32>,
    /// First grid point of each weight's taps.
    start: Vec<u32>,
    /// Tap weights times form factor, sign of the centred origin and scale; 0 for unused ports.
    taps: Vec<[f32; TAPS]>,
    /// `sum |a_pv|^2 / 2` over the used weights: squared length of one voxel's effect on one part of T.
    voxel_norm: f64,
    x: [Arc<dyn Fft<f32>>; 2],
    y: [Arc<dyn Fft<f32>>; 2],
    z: [Arc<dyn Fft<f32>>; 2],
}

/// Scratch memory of the operator; grows on first use and is worth keeping.
#[derive(Default)]
pub struct Workspace {
    lines: [Vec<Complex32>; 2],
}

/// Scratch of one thread for layers.
struct Local {
    rows: Vec<Complex32>,
    band: Vec<Complex32>,
    layers: [Vec<f32>; 2],
    fft: Vec<Complex32>,
}

/// Scratch of one thread for depth lines.
struct Depth {
    grid: Vec<Complex32>,
    /// Real spectra of the two lines of a chunk, with the first taps repeated at the end.
    real: [Vec<f32>; 2],
    fft: Vec<Complex32>,
}

/// Index of a site's other voxel, which lies in the tile's shallower half: for site (x, y, layer) it is voxel
/// `((nx - x) mod nx, (ny - y) mod ny, layers - 1 - layer)`.
pub fn mirrored([nx, ny, layers]: [usize; 3], site: usize) -> usize {
    let (x, y, z) = (site % nx, site / nx % ny, site / (nx * ny));
    ((layers - 1 - z) * ny + (ny - y) % ny) * nx + (nx - x) % nx
}

impl Born {
    /// Prepares the operator for the first `inputs` x `outputs` ports of a geometry.
    pub fn new(g: &Geometry, inputs: usize, outputs: usize) -> Born {
        let c = g.columns;
        let [nx, ny, nz] = g.voxels;
        let layers = nz / 2;
        let grid = (0..)
            .map(|i| (OVERSAMPLING * nz as f64).ceil() as usize + i)
            .find(|&n| n >= 2 * TAPS && smooth(n));
        let grid = grid.unwrap_or(2 * nz + 2 * TAPS);
        let kernel = Kernel::new();
        let deconvolve =
            (0..layers).map(|i| (1.0 / kernel.transform((i as f64 + 0.5) / grid as f64)) as f32).collect();
        let twiddle = (0..grid)
            .map(|t| {
                let (s, c) = (std::f64::consts::PI * t as f64 / grid as f64).sin_cos();
                Complex32::new(c as f32, -s as f32)
            })
            .collect();
        let pairs = g.rows_in * g.rows_out;
        let input_k: Vec<_> = (0..g.inputs()).map(|p| g.input_k(p)).collect();
        let output_k: Vec<_> = (0..g.outputs()).map(|p| g.output_k(p)).collect();
        let scale = 1.0 / (g.voxel_count() as f64).sqrt();
        let two = 2 * g.carrier;
        let mut row_bins = Vec::with_capacity(pairs);
        let mut row_signs = Vec::with_capacity(pairs);
        for pair in 0..pairs {
            let bin = g.output_bins(pair / g.rows_in * c)[1] - g.input_bins(pair % g.rows_in * c)[1];
            row_bins.push(bin.rem_euclid(ny as i64) as usize);
            row_signs.push(if bin.rem_euclid(2) == 0 { 1.0 } else { -1.0 });
        }
        let mut start = vec![0u32; pairs * c * c];
        let mut taps = vec![[0f32; TAPS]; pairs * c * c];
        let norms: Vec<f64> = start
            .par_chunks_mut(c)
            .zip(taps.par_chunks_mut(c))
            .enumerate()
            .map(|(chunk, (start, taps))| {
                let (pair, d) = (chunk / c, chunk % c);
                let mut norm = 0.0;
                for (ci, (start, taps)) in start.iter_mut().zip(taps.iter_mut()).enumerate() {
                    let co = (ci + d) % c;
                    let (i, o) = (pair % g.rows_in * c + ci, pair / g.rows_in * c + co);
                    if i >= inputs || o >= outputs {
                        continue;
                    }
                    let k = output_k[o] - input_k[i];
                    let s = g.form_factor(&k);
                    let sign = if (two + co - ci).is_multiple_of(2) { 1.0 } else { -1.0 };
                    let xi = k.z * g.voxel_um[2] / std::f64::consts::TAU * grid as f64;
                    // Taps at grid points first, first + 1, ...: those within half a kernel of xi. The
                    // spectrum changes sign from one period of the grid to the next.
                    let first = (xi - TAPS as f64 / 2.0).ceil();
                    *start = first.rem_euclid(grid as f64) as u32;
                    let period = if (first / grid as f64).floor() as i64 % 2 == 0 { 1.0 } else { -1.0 };
                    for (t, tap) in taps.iter_mut().enumerate() {
                        let value = kernel.value(xi - first - t as f64) * s * sign * period;
                        *tap = (value * row_signs[pair] * scale) as f32;
                    }
                    norm += s * s;
                }
                norm
            })
            .collect();
        let mut planner = FftPlanner::new();
        let mut both = |n: usize| [planner.plan_fft_forward(n), planner.plan_fft_inverse(n)];
        Born {
            columns: c,
            sites: [nx, ny, layers],
            first_bin: two - (c - 1),
            row_bins,
            grid,
            deconvolve,
            twiddle,
            start,
            taps,
            voxel_norm: 0.5 * norms.iter().sum::<f64>() * scale * scale,
            x: both(nx),
            y: both(ny),
            z: both(grid),
        }
    }

    /// Bytes a prepared operator, its workspace and the vectors of a design need, at most.
    pub fn memory_bytes(g: &Geometry, parts: usize) -> u64 {
        let weights = (g.inputs() * g.outputs()) as u64;
        let layers = g.voxels[2] as u64 / 2;
        let lines = 2 * weights / g.columns as u64 * layers.next_multiple_of(BLOCK as u64);
        let sites = g.voxel_count() as u64 / 2;
        // Operator, then a part: weights, two transfer matrices, errors, coefficients and the three
        // vectors of its solution, depth lines, the hologram; then two states and the levels.
        let operator = weights * 4 * (TAPS as u64 + 1);
        operator + parts as u64 * (weights * 32 + lines * 8 + sites * 4) + 4 * sites
    }

    /// Number of weights the geometry has, used or not.
    pub fn weights(&self) -> usize {
        self.taps.len()
    }

    /// Sites along x, y, depth.
    pub fn sites(&self) -> [usize; 3] {
        self.sites
    }

    /// Squared length of one voxel's effect on one part of the used weights.
    pub fn voxel_norm(&self) -> f64 {
        self.voxel_norm
    }

    /// Row of the band, and half of the chunk, of line `q` of `2 C - 1`.
    fn line(&self, q: usize) -> (usize, usize) {
        if q + 1 >= self.columns { (q + 1 - self.columns, 0) } else { (q + 1, 1) }
    }

    fn local(&self) -> Local {
        let [nx, ny, _] = self.sites;
        let need = [&self.x, &self.y].into_iter().flatten().map(|f| f.get_inplace_scratch_len()).max();
        Local {
            rows: vec![Complex32::ZERO; BLOCK / 2 * nx],
            band: vec![Complex32::ZERO; (2 * self.columns - 1) * ny],
            layers: [vec![0.0; nx * ny], Vec::new()],
            fft: vec![Complex32::ZERO; need.unwrap_or(0)],
        }
    }

    fn depth(&self) -> Depth {
        let need = self.z[0].get_inplace_scratch_len().max(self.z[1].get_inplace_scratch_len());
        Depth {
            grid: vec![Complex32::ZERO; self.grid],
            real: [vec![0.0; self.grid + TAPS], vec![0.0; self.grid + TAPS]],
            fft: vec![Complex32::ZERO; need],
        }
    }

    /// One part of `T = A f`. `rows(first, pair)` puts the sites `first..first + nx` into the real and
    /// the next row's into the imaginary parts of `pair`: sums of the two voxels for the real part,
    /// differences (the deeper one's less the other's) for the imaginary part.
    pub fn forward(
        &self,
        ws: &mut Workspace,
        part: Part,
        rows: impl Fn(usize, &mut [Complex32]) + Sync,
        out: &mut [f32],
    ) {
        let [nx, ny, layers] = self.sites;
        let c = self.columns;
        let slots = self.row_bins.len() * c * 2;
        let [lines, _] = &mut ws.lines;
        lines.resize(slots * layers.next_multiple_of(BLOCK), Complex32::ZERO);
        lines.par_chunks_mut(slots * BLOCK).enumerate().for_each_init(
            || self.local(),
            |l, (block, lines)| {
                for zi in 0..BLOCK.min(layers - block * BLOCK) {
                    let layer = (block * BLOCK + zi) * nx * ny;
                    for y0 in (0..ny).step_by(BLOCK) {
                        let height = BLOCK.min(ny - y0);
                        let pairs = &mut l.rows[..height / 2 * nx];
                        for (k, pair) in pairs.chunks_exact_mut(nx).enumerate() {
                            rows(layer + (y0 + 2 * k) * nx, pair);
                        }
                        self.x[0].process_with_scratch(pairs, &mut l.fft);
                        // Two real rows in one transform: even and odd parts under conjugation.
                        for (q, to) in l.band.chunks_exact_mut(ny).enumerate() {
                            let bin = self.first_bin + q;
                            let to = &mut to[y0..y0 + height];
                            for (row, to) in pairs.chunks_exact(nx).zip(to.chunks_exact_mut(2)) {
                                let (a, b) = (row[bin], row[nx - bin]);
                                to[0] = Complex32::new(0.5 * (a.re + b.re), 0.5 * (a.im - b.im));
                                to[1] = Complex32::new(0.5 * (a.im + b.im), 0.5 * (b.re - a.re));
                            }
                        }
                    }
                    self.y[0].process_with_scratch(&mut l.band, &mut l.fft);
                    for (pair, &bin) in self.row_bins.iter().enumerate() {
                        let lines = &mut lines[pair * c * 2 * BLOCK..(pair + 1) * c * 2 * BLOCK];
                        for (q, from) in l.band.chunks_exact(ny).enumerate() {
                            let (d, half) = self.line(q);
                            lines[(d * 2 + half) * BLOCK + zi] = from[bin];
                        }
                    }
                }
            },
        );
        let lines = &*lines;
        let min = (512 / c).max(1);
        out.par_chunks_mut(c).enumerate().with_min_len(min).for_each_init(
            || self.depth(),
            |depth, (chunk, out)| {
                depth.grid.fill(Complex32::ZERO);
                for block in 0..layers.div_ceil(BLOCK) {
                    let at = (block * slots + chunk * 2) * BLOCK;
                    let first = block * BLOCK;
                    let (one, two) = lines[at..at + 2 * BLOCK].split_at(BLOCK);
                    for ((i, w), (&a, &b)) in
                        self.deconvolve[first..].iter().enumerate().zip(one.iter().zip(two))
                    {
                        let b = if chunk % c == 0 { Complex32::ZERO } else { b };
                        let (a, b) = match part {
                            Part::Real => (a, b),
                            Part::Imaginary => (Complex32::new(a.im, -a.re), Complex32::new(b.im, -b.re)),
                        };
                        let w = 0.5 * w;
                        depth.grid[first + i] = Complex32::new(a.re - b.im, a.im + b.re) * w;
                        depth.grid[self.grid - 1 - first - i] = Complex32::new(a.re + b.im, b.re - a.im) * w;
                    }
                }
                self.gather(depth, chunk, out);
            },
        );
    }

    /// `A^T c` of one or both parts: `f(layer of sites, layers of the parts, its part of out)` for each
    /// layer, where `out` has one element a site. The layer of a part that is not given is empty.
    pub fn adjoint<T: Send>(
        &self,
        ws: &mut Workspace,
        real: &[f32],
        imaginary: Option<&[f32]>,
        out: &mut [T],
        f: impl Fn(usize, [&[f32]; 2], &mut [T]) + Sync,
    ) {
        self.adjoint_of(ws, real, imaginary, out, |_| true, f);
    }

    /// As [`Born::adjoint`], with empty layers where `wanted` says no.
    pub fn adjoint_of<T: Send>(
        &self,
        ws: &mut Workspace,
        real: &[f32],
        imaginary: Option<&[f32]>,
        out: &mut [T],
        wanted: impl Fn(usize) -> bool + Sync,
        f: impl Fn(usize, [&[f32]; 2], &mut [T]) + Sync,
    ) {
        let [nx, ny, layers] = self.sites;
        let [first, second] = &mut ws.lines;
        self.spread(first, real, Part::Real);
        if let Some(c) = imaginary {
            self.spread(second, c, Part::Imaginary);
        }
        let (first, second) = (&*first, &*second);
        out.par_chunks_mut(nx * ny * BLOCK).enumerate().for_each_init(
            || self.local(),
            |l, (block, out)| {
                for (zi, out) in out.chunks_exact_mut(nx * ny).enumerate() {
                    if !wanted(block * BLOCK + zi) {
                        f(block * BLOCK + zi, [&[], &[]], out);
                        continue;
                    }
                    self.layer(first, layers, block, zi, l, 0);
                    if imaginary.is_some() {
                        self.layer(second, layers, block, zi, l, 1);
                    }
                    let [a, b] = &l.layers;
                    f(block * BLOCK + zi, [a, b], out);
                }
            },
        );
    }

    /// Depth lines of one part of `A^T c`, `[group of chunks][block of layers][line of the group][layer]`.
    fn spread(&self, lines: &mut Vec<Complex32>, c_in: &[f32], part: Part) {
        let c = self.columns;
        let layers = self.sites[2];
        let blocks = layers.div_ceil(BLOCK);
        let chunks = self.row_bins.len() * c;
        lines.resize(2 * chunks * blocks * BLOCK, Complex32::ZERO);
        lines
            .par_chunks_mut(GROUP * 2 * blocks * BLOCK)
            .zip(c_in.par_chunks(GROUP * c))
            .enumerate()
            .for_each_init(
                || self.depth(),
                |depth, (group, (lines, c_in))| {
                    let slots = 2 * c_in.len() / c;
                    for (k, c_in) in c_in.chunks_exact(c).enumerate() {
                        self.scatter(depth, group * GROUP + k, c_in);
                        for (z, w) in self.deconvolve.iter().enumerate() {
                            let (u, v) = (depth.grid[z], depth.grid[self.grid - 1 - z]);
                            let w = 0.5 * w;
                            let a = Complex32::new(u.re + v.re, u.im - v.im) * w;
                            let b = Complex32::new(u.im + v.im, v.re - u.re) * w;
                            let (a, b) = match part {
                                Part::Real => (a, b),
                                Part::Imaginary => (Complex32::new(-a.im, a.re), Complex32::new(-b.im, b.re)),
                            };
                            let at = (z / BLOCK * slots + 2 * k) * BLOCK + z % BLOCK;
                            lines[at] = a;
                            lines[at + BLOCK] = b;
                        }
                    }
                },
            );
    }

    /// Layer `zi` of a block from the depth lines of [`Born::spread`], into `l.layers[which]`.
    fn layer(
        &self,
        lines: &[Complex32],
        layers: usize,
        block: usize,
        zi: usize,
        l: &mut Local,
        which: usize,
    ) {
        let [nx, ny, _] = self.sites;
        let c = self.columns;
        let blocks = layers.div_ceil(BLOCK);
        let chunks = self.row_bins.len() * c;
        l.band.fill(Complex32::ZERO);
        for (pair, &bin) in self.row_bins.iter().enumerate() {
            for d in 0..c {
                let chunk = pair * c + d;
                let (group, k) = (chunk / GROUP, chunk % GROUP);
                let slots = 2 * GROUP.min(chunks - group * GROUP);
                let at = group * GROUP * 2 * blocks * BLOCK + (block * slots + 2 * k) * BLOCK + zi;
                l.band[(d + c - 1) * ny + bin] = lines[at];
                if d > 0 {
                    l.band[(d - 1) * ny + bin] = lines[at + BLOCK];
                }
            }
        }
        self.y[1].process_with_scratch(&mut l.band, &mut l.fft);
        let layer = &mut l.layers[which];
        layer.resize(nx * ny, 0.0);
        for (y0, rows) in layer.chunks_mut(BLOCK * nx).enumerate() {
            let height = rows.len() / nx;
            let pairs = &mut l.rows[..height / 2 * nx];
            pairs.fill(Complex32::ZERO);
            for (q, from) in l.band.chunks_exact(ny).enumerate() {
                let bin = self.first_bin + q;
                let from = &from[y0 * BLOCK..y0 * BLOCK + height];
                for (row, from) in pairs.chunks_exact_mut(nx).zip(from.chunks_exact(2)) {
                    let (a, b) = (from[0] * 0.5, from[1] * 0.5);
                    row[bin] = Complex32::new(a.re - b.im, a.im + b.re);
                    row[nx - bin] = Complex32::new(a.re + b.im, b.re - a.im);
                }
            }
            self.x[1].process_with_scratch(pairs, &mut l.fft);
            for (row, to) in pairs.chunks_exact(nx).zip(rows.chunks_exact_mut(2 * nx)) {
                let (first, second) = to.split_at_mut(nx);
                for ((v, a), b) in row.iter().zip(first).zip(second) {
                    *a = v.re;
                    *b = v.im;
                }
            }
        }
    }

    /// Transforms the filled depth grid and interpolates the weights of a chunk.
    fn gather(&self, depth: &mut Depth, chunk: usize, out: &mut [f32]) {
        let Depth { grid, real: [one, two], fft } = depth;
        self.z[0].process_with_scratch(grid, fft);
        for ((v, t), (a, b)) in grid.iter().zip(&self.twiddle).zip(one.iter_mut().zip(two.iter_mut())) {
            *a = v.re * t.re - v.im * t.im;
            *b = v.re * t.im + v.im * t.re;
        }
        for real in [&mut *one, &mut *two] {
            let (head, tail) = real.split_at_mut(self.grid);
            for (t, h) in tail.iter_mut().zip(head) {
                *t = -*h;
            }
        }
        let c = self.columns;
        let split = c - chunk % c;
        for (real, range) in [(&*one, 0..split), (&*two, split..c)] {
            let weights = chunk * c + range.start..chunk * c + range.end;
            let (taps, start) = (&self.taps[weights.clone()], &self.start[weights]);
            for ((out, taps), &start) in out[range].iter_mut().zip(taps).zip(start) {
                let from = &real[start as usize..start as usize + TAPS];
                let mut sum = [0f32; TAPS];
                for ((s, u), t) in sum.iter_mut().zip(from).zip(taps) {
                    *s = u * t;
                }
                let four: [f32; 4] = std::array::from_fn(|i| sum[i] + sum[i + 4]);
                *out = (four[0] + four[2]) + (four[1] + four[3]);
            }
        }
    }

    /// Spreads the weights of a chunk over the depth grid and transforms back.
    fn scatter(&self, depth: &mut Depth, chunk: usize, from: &[f32]) {
        let Depth { grid, real: [one, two], fft } = depth;
        let c = self.columns;
        let split = c - chunk % c;
        for (real, range) in [(&mut *one, 0..split), (&mut *two, split..c)] {
            real.fill(0.0);
            let weights = chunk * c + range.start..chunk * c + range.end;
            let (taps, start) = (&self.taps[weights.clone()], &self.start[weights]);
            for ((v, taps), &start) in from[range].iter().zip(taps).zip(start) {
                for (u, t) in real[start as usize..start as usize + TAPS].iter_mut().zip(taps) {
                    *u += v * t;
                }
            }
            let (head, tail) = real.split_at_mut(self.grid);
            for (h, t) in head.iter_mut().zip(tail) {
                *h -= *t;
            }
        }
        for ((v, t), (a, b)) in grid.iter_mut().zip(&self.twiddle).zip(one.iter().zip(two.iter())) {
            *v = Complex32::new(a * t.re + b * t.im, b * t.re - a * t.im);
        }
        self.z[1].process_with_scratch(grid, fft);
    }

    /// Coefficients c of the minimum-norm sums (or differences) of sites `A^T c` with `A A^T c = w`,
    /// after at most `steps` conjugate-gradient steps on each line. Returns them with `sum c w`, the
    /// squared norm of that field of sites.
    pub fn solve(&self, w: &[f32], steps: usize) -> (Vec<f32>, f64) {
        let [nx, ny, layers] = self.sites;
        let c = self.columns;
        let half_area = 0.25 * (nx * ny) as f32;
        let mut out = vec![0f32; w.len()];
        let min = (512 / c).max(1);
        let norms: Vec<f64> = out
            .par_chunks_mut(c)
            .zip(w.par_chunks(c))
            .enumerate()
            .with_min_len(min)
            .map_init(
                || (self.depth(), vec![0f32; c], vec![0f32; c], vec![0f32; c]),
                |(depth, r, p, ap), (chunk, (out, w))| {
                    let split = c - chunk % c;
                    let ranges = [0..split, split..c];
                    r.copy_from_slice(w);
                    p.copy_from_slice(w);
                    let mut rs = ranges.clone().map(|range| dot(&r[range.clone()], &r[range]));
                    let small = rs.map(|rs| rs * 1e-12);
                    for _ in 0..steps {
                        if rs.iter().zip(small).all(|(rs, small)| *rs <= small) {
                            break;
                        }
                        self.scatter(depth, chunk, p);
                        let (head, tail) = depth.grid.split_at_mut(layers);
                        let end = tail.len() - layers;
                        tail[..end].fill(Complex32::ZERO);
                        for ((d, a), b) in self.deconvolve.iter().zip(head).zip(tail[end..].iter_mut().rev())
                        {
                            let factor = d * d * half_area;
                            *a *= factor;
                            *b *= factor;
                        }
                        self.gather(depth, chunk, ap);
                        for (range, (rs, small)) in ranges.iter().zip(rs.iter_mut().zip(small)) {
                            let range = range.clone();
                            let pap = dot(&p[range.clone()], &ap[range.clone()]);
                            if *rs <= small || pap <= 0.0 {
                                p[range].fill(0.0);
                                continue;
                            }
                            let a = (*rs / pap) as f32;
                            let (p, r) = (&mut p[range.clone()], &mut r[range.clone()]);
                            for ((o, r), (p, ap)) in
                                out[range.clone()].iter_mut().zip(r.iter_mut()).zip(p.iter().zip(&ap[range]))
                            {
                                *o += p * a;
                                *r -= ap * a;
                            }
                            let next = dot(r, r);
                            let b = (next / *rs) as f32;
                            for (p, r) in p.iter_mut().zip(r.iter()) {
                                *p = r + *p * b;
                            }
                            *rs = next;
                        }
                    }
                    dot(out, w)
                },
            )
            .collect();
        (out, norms.iter().sum())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

/// The interpolation kernel `exp(beta (sqrt(1 - x^2) - 1))`, x in units of half its width.
struct Kernel {
    beta: f64,
}

impl Kernel {
    fn new() -> Kernel {
        let beta = 0.98 * std::f64::consts::PI * TAPS as f64 * (1.0 - 0.5 / OVERSAMPLING);
        Kernel { beta }
    }

    /// Value at `u` grid points from the centre.
    fn value(&self, u: f64) -> f64 {
        let x = 2.0 * u / TAPS as f64;
        if x.abs() > 1.0 { 0.0 } else { (self.beta * ((1.0 - x * x).sqrt() - 1.0)).exp() }
    }

    /// Fourier transform at `f` cycles a grid point, with `u = (w/2) sin(t)` and the midpoint rule.
    fn transform(&self, f: f64) -> f64 {
        let n = 120;
        let half = TAPS as f64 / 2.0;
        let step = std::f64::consts::PI / n as f64;
        (0..n)
            .map(|i| {
                let t = (i as f64 + 0.5) * step - std::f64::consts::FRAC_PI_2;
                let u = half * t.sin();
                self.value(u) * (std::f64::consts::TAU * f * u).cos() * half * t.cos() * step
            })
            .sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::geometry::Request;
    use crate::hologram::Hologram;
    use nalgebra::Vector3;

    pub(crate) fn process() -> Hologram {
        Hologram::parse("t", include_str!("../process/borosilicate-phase.toml")).unwrap()
    }

    /// Deterministic values in [-1, 1).
    pub(crate) fn noise(n: usize, seed: u32) -> Vec<f32> {
        (0..n).map(|i| crate::design::hash(seed, i as u32) as f32 / 2f32.powi(31) - 1.0).collect()
    }

    pub(crate) fn load(v: &[f32], nx: usize) -> impl Fn(usize, &mut [Complex32]) + Sync {
        move |first, pair| {
            for (x, p) in pair.iter_mut().enumerate() {
                *p = Complex32::new(v[first + x], v[first + nx + x]);
            }
        }
    }

    /// Port pair of a weight in line order.
    fn ports(g: &Geometry, p: usize) -> (usize, usize) {
        let c = g.columns;
        let (pair, d, ci) = (p / c / c, p / c % c, p % c);
        (pair % g.rows_in * c + ci, pair / g.rows_in * c + (ci + d) % c)
    }

    #[test]
    fn the_operator_equals_the_direct_sum_and_its_adjoint_is_exact() {
        let process = process();
        for (c, ri, ro, k, n) in [(8, 1, 1, 8, 8), (16, 2, 3, 32, 48), (16, 3, 2, 41, 30), (24, 1, 2, 24, 48)]
        {
            let g = Geometry::new(&process, Request::new(c, ri, ro)).unwrap();
            let born = Born::new(&g, k, n);
            let [nx, ny, nz] = g.voxels;
            let v = noise(g.voxel_count(), 1);
            let (lower, upper) = v.split_at(v.len() / 2);
            let mut ws = Workspace::default();
            let mut t = [vec![0f32; born.weights()], vec![0f32; born.weights()]];
            for (part, (t, sign)) in
                [Part::Real, Part::Imaginary].into_iter().zip(t.iter_mut().zip([1.0, -1.0]))
            {
                let folded: Vec<f32> = upper
                    .iter()
                    .enumerate()
                    .map(|(i, u)| u + sign * lower[mirrored(born.sites(), i)])
                    .collect();
                born.forward(&mut ws, part, load(&folded, nx), t);
                let both = noise(t.len(), 2);
                let zero = vec![0f32; t.len()];
                let mut back = vec![0f32; folded.len()];
                let (a, b, at) =
                    if part == Part::Real { (&both, None, 0) } else { (&zero, Some(&both[..]), 1) };
                born.adjoint(&mut ws, a, b, &mut back, |_, layers, out| out.copy_from_slice(layers[at]));
                let left: f64 = t.iter().zip(&both).map(|(t, c)| f64::from(t * c)).sum();
                let right: f64 = folded.iter().zip(&back).map(|(v, b)| f64::from(v * b)).sum();
                let norm: f64 = back.iter().map(|b| f64::from(b * b)).sum::<f64>().sqrt();
                assert!((left - right).abs() < 1e-5 * norm * (v.len() as f64).sqrt(), "{left} {right}");
            }
            let (mut signal, mut error, mut tested) = (0f64, 0f64, 0);
            for p in (0..born.weights()).step_by(born.weights() / 60 + 1) {
                let (i, o) = ports(&g, p);
                if i >= k || o >= n {
                    assert_eq!((t[0][p], t[1][p]), (0.0, 0.0));
                    continue;
                }
                let kk = g.output_k(o) - g.input_k(i);
                let mut sum = [0f64; 2];
                for z in 0..nz {
                    for y in 0..ny {
                        for x in 0..nx {
                            let at = [x, y, z].map(|i| i as f64);
                            let r = Vector3::from_fn(|a, _| (at[a] - g.origin()[a]) * g.voxel_um[a]);
                            let (s, cos) = kk.dot(&r).sin_cos();
                            let value = f64::from(v[(z * ny + y) * nx + x]);
                            sum[0] += value * cos;
                            sum[1] -= value * s;
                        }
                    }
                }
                let f = g.form_factor(&kk) / (g.voxel_count() as f64).sqrt();
                let (re, im) = (sum[0] * f, sum[1] * f);
                signal += re * re + im * im;
                error += (re - f64::from(t[0][p])).powi(2) + (im - f64::from(t[1][p])).powi(2);
                tested += 1;
            }
            let db = 10.0 * (signal / error).log10();
            assert!(tested > 20 && db > 85.0, "{c} {ri} {ro}: {db:.1} dB over {tested}");
        }
    }

    #[test]
    fn the_solution_reproduces_the_weights_and_its_norm_is_what_it_says() {
        let process = process();
        let g = Geometry::new(&process, Request::new(16, 2, 2)).unwrap();
        let born = Born::new(&g, 30, 32);
        let mut w = noise(born.weights(), 3);
        for (p, w) in w.iter_mut().enumerate() {
            if ports(&g, p).0 >= 30 {
                *w = 0.0;
            }
        }
        let mut last = f64::INFINITY;
        for steps in [1, 3, 6, 12, 24] {
            let (c, norm) = born.solve(&w, steps);
            let mut ws = Workspace::default();
            let mut v = vec![0f32; g.voxel_count() / 2];
            born.adjoint(&mut ws, &c, None, &mut v, |_, layers, out| out.copy_from_slice(layers[0]));
            let mut t = vec![0f32; w.len()];
            born.forward(&mut ws, Part::Real, load(&v, g.voxels[0]), &mut t);
            let error: f64 = t.iter().zip(&w).map(|(t, w)| f64::from((t - w).powi(2))).sum();
            let residual = error / w.iter().map(|w| f64::from(w * w)).sum::<f64>();
            assert!(residual < last || residual < 1e-10, "{steps}: {residual}");
            last = residual;
            if steps == 24 {
                assert!(residual < 1e-6, "{residual}");
                let direct: f64 = v.iter().map(|v| f64::from(v * v)).sum();
                assert!((direct / norm - 1.0).abs() < 1e-3, "{direct} {norm}");
            }
        }
    }
}
