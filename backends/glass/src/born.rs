//! The transfer matrix of a tile in the first Born approximation, as a fast linear operator A from
//! voxels to weights, its exact adjoint and the minimum-norm solution.
//!
//! In the scaling used here `T_p = V^(-1/2) s(K_p) sum_v dn(v) exp(-i K_p . r_v)`, with V the number of
//! voxels, s the voxel's form factor and r counted from the centre of voxel `(nx/2, ny/2, nz/2)`.
//!
//! Transverse frequencies are integer bins, so A is a 2D FFT of each layer, cut to the bins that
//! gratings use, and then, for each bin, a sum over layers at the depth frequencies of the weights
//! that share the bin. That sum is a non-uniform FFT: deconvolve, zero-pad, FFT, interpolate with
//! the kernel `exp(beta (sqrt(1 - x^2) - 1))` of [`TAPS`] taps.
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
/// Layers handled together: one cache line of complex numbers.
const BLOCK: usize = 8;

/// The operator of one geometry and one used rectangle of it.
pub struct Born {
    columns: usize,
    voxels: [usize; 3],
    /// First transverse bin used, of `2 C - 1`.
    first_bin: usize,
    /// Row bin of each pair of rows, `r' * rows_in + r`.
    row_bins: Vec<usize>,
    /// Length of the depth grid.
    grid: usize,
    /// Reciprocal transform of the kernel at each layer.
    deconvolve: Vec<f32>,
    /// First grid point of each weight's taps.
    start: Vec<u32>,
    /// Tap weights times form factor, sign of the centred origin and scale; 0 for unused ports.
    taps: Vec<[f32; TAPS]>,
    /// `sum |a_pv|^2 / 2` over the used weights: squared length of one voxel's effect on the real part.
    voxel_norm: f64,
    x: [Arc<dyn Fft<f32>>; 2],
    y: [Arc<dyn Fft<f32>>; 2],
    z: [Arc<dyn Fft<f32>>; 2],
}

/// Scratch memory of the operator; grows on first use and is worth keeping.
#[derive(Default)]
pub struct Workspace {
    lines: Vec<Complex32>,
}

/// Scratch of one thread.
struct Local {
    row: Vec<Complex32>,
    band: Vec<Complex32>,
    layer: Vec<f32>,
    fft: Vec<Complex32>,
}

impl Born {
    /// Prepares the operator for the first `inputs` x `outputs` ports of a geometry.
    pub fn new(g: &Geometry, inputs: usize, outputs: usize) -> Born {
        let c = g.columns;
        let [nx, ny, nz] = g.voxels;
        let grid = (0..)
            .map(|i| (OVERSAMPLING * nz as f64).ceil() as usize + i)
            .find(|&n| n >= 2 * TAPS && smooth(n));
        let grid = grid.unwrap_or(2 * nz + 2 * TAPS);
        let kernel = Kernel::new();
        let deconvolve = (0..nz)
            .map(|i| (1.0 / kernel.transform((i as f64 - (nz / 2) as f64) / grid as f64)) as f32)
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
                    let xi =
                        (k.z * g.voxel_um[2] / std::f64::consts::TAU * grid as f64).rem_euclid(grid as f64);
                    // Taps at grid points first, first + 1, ...: those within half a kernel of xi.
                    let first = (xi - TAPS as f64 / 2.0).ceil();
                    *start = first.rem_euclid(grid as f64) as u32;
                    for (t, tap) in taps.iter_mut().enumerate() {
                        *tap =
                            (kernel.value(xi - first - t as f64) * s * sign * row_signs[pair] * scale) as f32;
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
            voxels: g.voxels,
            first_bin: two - (c - 1),
            row_bins,
            grid,
            deconvolve,
            start,
            taps,
            voxel_norm: 0.5 * norms.iter().sum::<f64>() * scale * scale,
            x: both(nx),
            y: both(ny),
            z: both(grid),
        }
    }

    /// Bytes a prepared operator, its workspace and the vectors of a design need, at most.
    pub fn memory_bytes(g: &Geometry) -> u64 {
        let weights = (g.inputs() * g.outputs()) as u64;
        let lines = 2 * weights / g.columns as u64 * g.voxels[2].next_multiple_of(BLOCK) as u64;
        weights * (4 * (TAPS as u64 + 1) + 8 + 8 + 8 + 4 + 4) + lines * 8 + 3 * g.voxel_count() as u64
    }

    /// Number of weights the geometry has, used or not.
    pub fn weights(&self) -> usize {
        self.taps.len()
    }

    /// Squared length of one voxel's effect on the real parts of the used weights.
    pub fn voxel_norm(&self) -> f64 {
        self.voxel_norm
    }

    /// Row of the band, and half of the chunk, of line `q` of `2 C - 1`.
    fn line(&self, q: usize) -> (usize, usize) {
        if q + 1 >= self.columns { (q + 1 - self.columns, 0) } else { (q + 1, 1) }
    }

    fn local(&self) -> Local {
        let [nx, ny, _] = self.voxels;
        let need =
            [&self.x, &self.y, &self.z].into_iter().flatten().map(|f| f.get_inplace_scratch_len()).max();
        Local {
            row: vec![Complex32::ZERO; nx],
            band: vec![Complex32::ZERO; (2 * self.columns - 1) * ny],
            layer: vec![0.0; nx * ny],
            fft: vec![Complex32::ZERO; need.unwrap_or(0)],
        }
    }

    /// `T = A v`. `rows(first, pair)` puts the voxels `first..first + nx` into the real and the next
    /// row's into the imaginary parts of `pair`; voxels count x, then y, then z.
    pub fn forward(
        &self,
        ws: &mut Workspace,
        rows: impl Fn(usize, &mut [Complex32]) + Sync,
        out: &mut [Complex32],
    ) {
        let [nx, ny, nz] = self.voxels;
        let c = self.columns;
        let slots = self.row_bins.len() * c * 2;
        ws.lines.resize(slots * nz.next_multiple_of(BLOCK), Complex32::ZERO);
        ws.lines.par_chunks_mut(slots * BLOCK).enumerate().for_each_init(
            || self.local(),
            |l, (block, lines)| {
                for zi in 0..BLOCK.min(nz - block * BLOCK) {
                    let layer = (block * BLOCK + zi) * nx * ny;
                    for y in (0..ny).step_by(2) {
                        rows(layer + y * nx, &mut l.row);
                        self.x[0].process_with_scratch(&mut l.row, &mut l.fft);
                        // Two real rows in one transform: even and odd parts under conjugation.
                        let bins = self.first_bin..self.first_bin + 2 * c - 1;
                        let mirror = l.row[nx - bins.end + 1..=nx - bins.start].iter().rev();
                        for ((a, b), to) in l.row[bins].iter().zip(mirror).zip(l.band.chunks_exact_mut(ny)) {
                            to[y] = Complex32::new(0.5 * (a.re + b.re), 0.5 * (a.im - b.im));
                            to[y + 1] = Complex32::new(0.5 * (a.im + b.im), 0.5 * (b.re - a.re));
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
        let lines = &ws.lines;
        let min = (512 / c).max(1);
        out.par_chunks_mut(c).enumerate().with_min_len(min).for_each_init(
            || (vec![Complex32::ZERO; self.grid + TAPS], self.local_fft()),
            |(grid, fft), (chunk, out)| {
                for half in 0..2 {
                    let Some((first, part)) = self.part(chunk, half, out) else { continue };
                    grid.fill(Complex32::ZERO);
                    for block in 0..nz.div_ceil(BLOCK) {
                        let at = (block * slots + chunk * 2 + half) * BLOCK;
                        for zi in 0..BLOCK.min(nz - block * BLOCK) {
                            let z = block * BLOCK + zi;
                            grid[self.grid_index(z)] = lines[at + zi] * self.deconvolve[z];
                        }
                    }
                    self.gather(grid, fft, first, part);
                }
            },
        );
    }

    /// `A^T c`, real: `f(layer index, layer, its part of out)` for each layer, where `out` has one
    /// element a voxel.
    pub fn adjoint<T: Send>(
        &self,
        ws: &mut Workspace,
        c_in: &[Complex32],
        out: &mut [T],
        f: impl Fn(usize, &[f32], &mut [T]) + Sync,
    ) {
        let [nx, ny, nz] = self.voxels;
        self.spread(ws, c_in);
        let lines = &ws.lines;
        out.par_chunks_mut(nx * ny * BLOCK).enumerate().for_each_init(
            || self.local(),
            |l, (block, out)| {
                for (zi, out) in out.chunks_exact_mut(nx * ny).enumerate() {
                    let z = block * BLOCK + zi;
                    self.layer(lines, z, nz, l);
                    f(z, &l.layer, out);
                }
            },
        );
    }

    /// One layer of `A^T c`, for sampling it; cheaper than [`Born::adjoint`] for few layers.
    pub fn adjoint_layers(&self, ws: &mut Workspace, c_in: &[Complex32], layers: &[usize]) -> Vec<Vec<f32>> {
        self.spread(ws, c_in);
        let lines = &ws.lines;
        layers
            .par_iter()
            .map(|&z| {
                let mut l = self.local();
                self.layer(lines, z, self.voxels[2], &mut l);
                l.layer
            })
            .collect()
    }

    /// Depth lines of `A^T c` into the workspace, `[chunk][half][z]`.
    fn spread(&self, ws: &mut Workspace, c_in: &[Complex32]) {
        let nz = self.voxels[2];
        let c = self.columns;
        let slots = self.row_bins.len() * c * 2;
        ws.lines.resize(slots * nz.next_multiple_of(BLOCK), Complex32::ZERO);
        let min = (512 / c).max(1);
        ws.lines[..slots * nz]
            .par_chunks_mut(2 * nz)
            .zip(c_in.par_chunks(c))
            .enumerate()
            .with_min_len(min)
            .for_each_init(
                || (vec![Complex32::ZERO; self.grid + TAPS], self.local_fft()),
                |(grid, fft), (chunk, (lines, c_in))| {
                    for (half, line) in lines.chunks_exact_mut(nz).enumerate() {
                        let Some((first, part)) = self.part_ref(chunk, half, c_in) else { continue };
                        self.scatter(grid, fft, first, part);
                        for (z, v) in line.iter_mut().enumerate() {
                            *v = grid[self.grid_index(z)] * self.deconvolve[z];
                        }
                    }
                },
            );
    }

    /// Layer `z` from lines `[slot][nz]`, into `l.layer`.
    fn layer(&self, lines: &[Complex32], z: usize, nz: usize, l: &mut Local) {
        let [nx, ny, _] = self.voxels;
        let c = self.columns;
        l.band.fill(Complex32::ZERO);
        for (pair, &bin) in self.row_bins.iter().enumerate() {
            let lines = &lines[pair * c * 2 * nz..(pair + 1) * c * 2 * nz];
            for (q, to) in l.band.chunks_exact_mut(ny).enumerate() {
                let (d, half) = self.line(q);
                to[bin] = lines[(d * 2 + half) * nz + z];
            }
        }
        self.y[1].process_with_scratch(&mut l.band, &mut l.fft);
        for (y2, rows) in l.layer.chunks_exact_mut(2 * nx).enumerate() {
            l.row.fill(Complex32::ZERO);
            for (q, from) in l.band.chunks_exact(ny).enumerate() {
                let (a, b) = (from[2 * y2] * 0.5, from[2 * y2 + 1] * 0.5);
                let bin = self.first_bin + q;
                l.row[bin] = Complex32::new(a.re - b.im, a.im + b.re);
                l.row[nx - bin] = Complex32::new(a.re + b.im, b.re - a.im);
            }
            self.x[1].process_with_scratch(&mut l.row, &mut l.fft);
            let (first, second) = rows.split_at_mut(nx);
            for ((v, a), b) in l.row.iter().zip(first).zip(second) {
                *a = v.re;
                *b = v.im;
            }
        }
    }

    fn local_fft(&self) -> Vec<Complex32> {
        let need = self.z[0].get_inplace_scratch_len().max(self.z[1].get_inplace_scratch_len());
        vec![Complex32::ZERO; need]
    }

    /// Place of layer `z` on the depth grid, whose point 0 is the phase origin.
    fn grid_index(&self, z: usize) -> usize {
        let origin = self.voxels[2] / 2;
        if z >= origin { z - origin } else { self.grid + z - origin }
    }

    /// The weights of one line of a chunk and the index of the first.
    fn part<'a>(
        &self,
        chunk: usize,
        half: usize,
        out: &'a mut [Complex32],
    ) -> Option<(usize, &'a mut [Complex32])> {
        let c = self.columns;
        let split = c - chunk % c;
        let range = if half == 0 { 0..split } else { split..c };
        (!range.is_empty()).then(|| (chunk * c + range.start, &mut out[range]))
    }

    fn part_ref<'a>(
        &self,
        chunk: usize,
        half: usize,
        from: &'a [Complex32],
    ) -> Option<(usize, &'a [Complex32])> {
        let c = self.columns;
        let split = c - chunk % c;
        let range = if half == 0 { 0..split } else { split..c };
        (!range.is_empty()).then(|| (chunk * c + range.start, &from[range]))
    }

    /// Transforms the filled depth grid and interpolates the weights of a line.
    fn gather(&self, grid: &mut [Complex32], fft: &mut [Complex32], first: usize, out: &mut [Complex32]) {
        self.z[0].process_with_scratch(&mut grid[..self.grid], fft);
        let (head, tail) = grid.split_at_mut(self.grid);
        tail.copy_from_slice(&head[..TAPS]);
        let n = out.len();
        for ((out, taps), &start) in
            out.iter_mut().zip(&self.taps[first..first + n]).zip(&self.start[first..first + n])
        {
            let from = &grid[start as usize..start as usize + TAPS];
            let (mut re, mut im) = (0f32, 0f32);
            for (u, t) in from.iter().zip(taps) {
                re += u.re * t;
                im += u.im * t;
            }
            *out = Complex32::new(re, im);
        }
    }

    /// Spreads the weights of a line over the depth grid and transforms back.
    fn scatter(&self, grid: &mut [Complex32], fft: &mut [Complex32], first: usize, from: &[Complex32]) {
        grid.fill(Complex32::ZERO);
        let n = from.len();
        for ((v, taps), &start) in
            from.iter().zip(&self.taps[first..first + n]).zip(&self.start[first..first + n])
        {
            for (u, t) in grid[start as usize..start as usize + TAPS].iter_mut().zip(taps) {
                *u += v * t;
            }
        }
        let (head, tail) = grid.split_at_mut(self.grid);
        for (h, t) in head.iter_mut().zip(tail) {
            *h += *t;
        }
        self.z[1].process_with_scratch(head, fft);
    }

    /// Coefficients c of the minimum-norm real index change `A^T c` with `A A^T c = w`, after at
    /// most `steps` conjugate-gradient steps on each line. Returns them with `sum Re(conj(c) w)`,
    /// the squared norm of that index change.
    pub fn solve(&self, w: &[f32], steps: usize) -> (Vec<Complex32>, f64) {
        let [nx, ny, nz] = self.voxels;
        let c = self.columns;
        let half_area = 0.5 * (nx * ny) as f32;
        let mut out = vec![Complex32::ZERO; w.len()];
        let min = (512 / c).max(1);
        let norms: Vec<f64> = out
            .par_chunks_mut(c)
            .zip(w.par_chunks(c))
            .enumerate()
            .with_min_len(min)
            .map_init(
                || (vec![Complex32::ZERO; self.grid + TAPS], self.local_fft()),
                |(grid, fft), (chunk, (out, w))| {
                    let split = c - chunk % c;
                    let mut norm = 0f64;
                    for range in [0..split, split..c] {
                        let (w, out) = (&w[range.clone()], &mut out[range.clone()]);
                        let first = chunk * c + range.start;
                        let mut r: Vec<Complex32> = w.iter().map(|&w| Complex32::new(w, 0.0)).collect();
                        let mut p = r.clone();
                        let mut ap = vec![Complex32::ZERO; w.len()];
                        let mut rs: f64 = r.iter().map(|v| f64::from(v.norm_sqr())).sum();
                        let small = rs * 1e-12;
                        for _ in 0..steps {
                            if rs <= small || rs == 0.0 {
                                break;
                            }
                            self.scatter(grid, fft, first, &p);
                            self.window(grid, nz, half_area);
                            self.gather(grid, fft, first, &mut ap);
                            let pap: f64 = p.iter().zip(&ap).map(|(p, a)| f64::from((p.conj() * a).re)).sum();
                            if pap <= 0.0 {
                                break;
                            }
                            let a = (rs / pap) as f32;
                            for ((o, r), (p, ap)) in out.iter_mut().zip(r.iter_mut()).zip(p.iter().zip(&ap)) {
                                *o += p * a;
                                *r -= ap * a;
                            }
                            let next: f64 = r.iter().map(|v| f64::from(v.norm_sqr())).sum();
                            let b = (next / rs) as f32;
                            for (p, r) in p.iter_mut().zip(&r) {
                                *p = r + *p * b;
                            }
                            rs = next;
                        }
                        norm += out.iter().zip(w).map(|(o, &w)| f64::from(o.re * w)).sum::<f64>();
                    }
                    norm
                },
            )
            .collect();
        (out, norms.iter().sum())
    }

    /// Applies twice the deconvolution and a factor to the layers on the grid; clears the rest.
    fn window(&self, grid: &mut [Complex32], nz: usize, factor: f32) {
        let origin = nz / 2;
        grid[nz - origin..self.grid - origin].fill(Complex32::ZERO);
        for (z, d) in self.deconvolve.iter().enumerate() {
            grid[self.grid_index(z)] *= d * d * factor;
        }
    }
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
    use crate::process::Process;
    use nalgebra::Vector3;

    pub(crate) fn process() -> Process {
        Process::parse("t", include_str!("../process/borosilicate-phase.toml")).unwrap()
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
            let mut t = vec![Complex32::ZERO; born.weights()];
            let mut ws = Workspace::default();
            born.forward(&mut ws, load(&v, nx), &mut t);
            let (mut signal, mut error, mut tested) = (0f64, 0f64, 0);
            for p in (0..t.len()).step_by(t.len() / 60 + 1) {
                let (i, o) = ports(&g, p);
                if i >= k || o >= n {
                    assert_eq!(t[p], Complex32::ZERO);
                    continue;
                }
                let kk = g.output_k(o) - g.input_k(i);
                let mut sum = [0f64; 2];
                for z in 0..nz {
                    for y in 0..ny {
                        for x in 0..nx {
                            let at = [x, y, z].map(|i| i as f64);
                            let r =
                                Vector3::from_fn(|a, _| (at[a] - (g.voxels[a] / 2) as f64) * g.voxel_um[a]);
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
                error += (re - f64::from(t[p].re)).powi(2) + (im - f64::from(t[p].im)).powi(2);
                tested += 1;
            }
            let db = 10.0 * (signal / error).log10();
            assert!(tested > 20 && db > 85.0, "{c} {ri} {ro}: {db:.1} dB over {tested}");

            let both: Vec<Complex32> =
                noise(2 * t.len(), 2).chunks_exact(2).map(|c| Complex32::new(c[0], c[1])).collect();
            let mut back = vec![0f32; v.len()];
            born.adjoint(&mut ws, &both, &mut back, |_, layer, out| out.copy_from_slice(layer));
            let left: f64 = t.iter().zip(&both).map(|(t, c)| f64::from(t.re * c.re + t.im * c.im)).sum();
            let right: f64 = v.iter().zip(&back).map(|(v, b)| f64::from(v * b)).sum();
            let norm: f64 = back.iter().map(|b| f64::from(b * b)).sum::<f64>().sqrt();
            assert!((left - right).abs() < 1e-5 * norm * (v.len() as f64).sqrt(), "{left} {right}");
            let sampled = born.adjoint_layers(&mut ws, &both, &[nz / 3]);
            assert_eq!(sampled[0], back[nz / 3 * nx * ny..(nz / 3 + 1) * nx * ny]);
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
            let mut v = vec![0f32; g.voxel_count()];
            born.adjoint(&mut ws, &c, &mut v, |_, layer, out| out.copy_from_slice(layer));
            let mut t = vec![Complex32::ZERO; w.len()];
            born.forward(&mut ws, load(&v, g.voxels[0]), &mut t);
            let error: f64 = t.iter().zip(&w).map(|(t, w)| f64::from((t - w).norm_sqr())).sum();
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
