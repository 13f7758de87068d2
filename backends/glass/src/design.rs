//! From weights to voxel levels: minimum-norm hologram within the range of the levels, band-pass error
//! diffusion, and greedy flips of single levels inside the band that is read.
//!
//! What is read is one quadrature ([`Quadrature::Single`]): with one calibrated phase and one gain a for the
//! tile, `snr = |a W|^2 / |Re T - a W|^2`; or both ([`Quadrature::Dual`]), each with weights of its own, and
//! then `snr = |a W|^2 / |T - a W|^2` with W complex. The complex figure of a single quadrature takes
//! `|T - a W|^2` with W real.
//!
//! 1. The minimum-norm hologram leaves the range of the levels in a few percent of the voxels. Alternating
//!    over-relaxed projections (cut to the range; then the least change that restores T) find a hologram
//!    close by that stays inside.
//! 2. Levels are chosen along x with the rounding error fed back, so that it falls outside the band. In a
//!    single quadrature only the sum of a site's two voxels counts (see [`crate::born`]): the sum is rounded,
//!    to half a level step a voxel, and then divided among the two.
//! 3. A flip step computes the error `e = T - a W` over what is read, the gradient `g = A^T e` at every voxel
//!    and moves voxels one level against it. A voxel's predicted gain is `|g| q - q^2 |a_v|^2 / 2`, with q the
//!    level step and `|a_v|` the length of its effect. Of each small cell of voxels the one with the largest gradient
//!    moves, if that is above a bar. Since T is linear in the voxels, the error as a function of the share of these
//!    moves is a parabola known after one evaluation; its minimum steers the bar.
//! 4. Where the process asks for it ([`Hologram::propagation_rounds`]), the tile is propagated ([`crate::propagate`]): what its T
//!    has beyond first order hardly changes with the few voxels that must move to make up for it, so that it is held while flips
//!    go on with `e = T_1 + (T - T_1) - a W`; then the tile is propagated again. Rounds end when the propagated ratio is
//!    that of the levels alone. All figures are of the propagated T then.

use std::sync::atomic::{AtomicU64, Ordering};

use pfmc_ir::tile::RealBlock;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use crate::born::{Born, Part, Workspace};
use crate::geometry::Geometry;
use crate::hologram::{Hologram, Quadrature};
use crate::recompute::Written;
use crate::schedule::{SNR_MAX_DB, sign, sign_bytes};

/// Over-relaxation of the projections; between 1 and 2.
const RELAXATION: f32 = 1.7;
/// Conjugate-gradient steps that restore T within a projection.
const RESTORE_STEPS: usize = 3;

/// Sites along x and y of which a flip step moves at most one: the one with the largest gradient. Neighbours that
/// move together overshoot.
const CELL: [usize; 2] = [16, 2];
/// A flip step moves sites of every so many-th layer.
const LAYER_STEP: usize = 2;
/// Most by which the bar for a move lies above the gradient from which moves pay, in terms of the gradient's root
/// mean square.
const BAR_ABOVE: f32 = 0.5;
/// Flip steps in sequence that move nothing before flips end.
const IDLE_STEPS: usize = 4;
/// Rounds end when the propagated ratio is so near to that of the levels alone, or to the target, dB.
const CLOSE_DB: f64 = 0.2;

/// A designed tile.
#[derive(Debug, Clone, PartialEq)]
pub struct Design {
    /// Level of each voxel, x fastest, then y, then depth.
    pub levels: Vec<u8>,
    /// Gain: `Re T = gain * W` with `T = s(K)/V sum (dn - bias) exp(-i K r)`; 0 when all weights are 0.
    pub gain: f64,
    /// Signal-to-noise ratio of what is read, dB.
    pub snr_db: f64,
    /// Signal-to-noise ratio of the complex transfer matrix, dB.
    pub snr_complex_db: f64,
    /// Error power on what is read, relative to the signal, for white noise of `dn_rms` a voxel.
    pub noise_gain: f64,
    /// Mean square of the written index change, bias included, in units of `dn_rms` squared.
    pub written_square: f64,
    /// The history of the ratio in flips: after diffusion, then after each flip step; in rounds with what is held.
    pub history_db: Vec<f64>,
    /// The ratio of the propagated T: of the levels as chosen for first order, then after each round.
    pub propagated_db: Vec<f64>,
}

/// A hash of a counter: the named generator of the design, `lowbias32` after mixing in the seed.
#[inline(always)]
pub(crate) fn hash(seed: u32, counter: u32) -> u32 {
    let mut x = counter ^ seed.wrapping_mul(0x9e37_79b9);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Index in line order (see [`crate::born`]) of the weight from input `i` to output `o`.
fn line_order(g: &Geometry, i: usize, o: usize) -> usize {
    let c = g.columns;
    let pair = o / c * g.rows_in + i / c;
    (pair * c + (o % c + c - i % c) % c) * c + i % c
}

/// Sums over weights in fixed portions, so that the result does not depend on the thread count.
fn sum<const N: usize>(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> [f64; N] + Sync) -> [f64; N] {
    let parts: Vec<[f64; N]> = a
        .par_chunks(8192)
        .zip(b.par_chunks(8192))
        .map(|(a, b)| {
            let mut s = [0f64; N];
            for (&a, &b) in a.iter().zip(b) {
                for (s, v) in s.iter_mut().zip(f(a, b)) {
                    *s += v;
                }
            }
            s
        })
        .collect();
    parts.into_iter().fold([0f64; N], |mut a, p| {
        a.iter_mut().zip(p).for_each(|(a, p)| *a += p);
        a
    })
}

/// A vector for each part that is read.
type Parts<const P: usize> = [Vec<f32>; P];

/// Squared length.
fn square<const P: usize>(w: &Parts<P>) -> f64 {
    w.iter().map(|w| sum(w, w, |a, b| [f64::from(a) * f64::from(b)])[0]).sum()
}

/// Best real gain over all parts, and squared error of what is read with it.
fn real_fit<const P: usize>(t: &Parts<P>, w: &Parts<P>, power: f64) -> (f64, f64) {
    let (mut tw, mut tt) = (0f64, 0f64);
    for (t, w) in t.iter().zip(w) {
        let s = sum(t, w, |t, w| [f64::from(t) * f64::from(w), f64::from(t) * f64::from(t)]);
        tw += s[0];
        tt += s[1];
    }
    let a = tw / power;
    (a, (tt - a * tw).max(1e-30 * tt))
}

fn db(signal: f64, error: f64) -> f64 {
    10.0 * (signal / error).log10()
}

/// `e = t - a w`.
fn residual<const P: usize>(t: &Parts<P>, w: &Parts<P>, a: f32, e: &mut Parts<P>) {
    for ((t, w), e) in t.iter().zip(w).zip(e) {
        e.par_chunks_mut(8192).zip(t.par_chunks(8192)).zip(w.par_chunks(8192)).for_each(|((e, t), w)| {
            for ((e, t), w) in e.iter_mut().zip(t).zip(w) {
                *e = t - a * w;
            }
        });
    }
}

/// Pseudo-random signs of ports, one bit a port; `stream` names them.
pub fn signs(stream: u32, ports: usize) -> Vec<u8> {
    (0..sign_bytes(ports) as u32).map(|i| hash(stream, i) as u8).collect()
}

/// Designs the tile that holds `weights` behind the signs of its input and output ports. `seed` names
/// the generator's stream.
pub fn design(
    process: &Hologram,
    g: &Geometry,
    born: &Born,
    ws: &mut Workspace,
    weights: &RealBlock,
    [input_signs, output_signs]: [&[u8]; 2],
    seed: u32,
) -> Design {
    design_taking(1.0, process, g, born, ws, weights, [input_signs, output_signs], seed)
}

/// As [`design`], where rounds make up for `taken` of what T has beyond first order.
#[allow(clippy::too_many_arguments, reason = "one more than the function that it serves")]
fn design_taking(
    taken: f32,
    process: &Hologram,
    g: &Geometry,
    born: &Born,
    ws: &mut Workspace,
    weights: &RealBlock,
    [input_signs, output_signs]: [&[u8]; 2],
    seed: u32,
) -> Design {
    let rms = pfmc_ir::numerics::root_mean_square(&weights.values);
    if rms == 0.0 || !rms.is_normal() {
        return Design {
            levels: vec![process.base.fill_level(); g.voxel_count()],
            gain: 0.0,
            snr_db: 0.0,
            snr_complex_db: 0.0,
            noise_gain: 0.0,
            written_square: process.clip_sigma * process.clip_sigma,
            history_db: Vec::new(),
            propagated_db: Vec::new(),
        };
    }
    let parts = process.quadrature.weights_a_grating();
    let mut w = vec![vec![0f32; born.weights()]; parts];
    for (i, row) in weights.values.chunks_exact(weights.n.max(1)).enumerate() {
        for (o, v) in row.iter().enumerate() {
            let port = o / parts;
            w[o % parts][line_order(g, i, port)] = sign(input_signs, i) * sign(output_signs, port) * v / rms;
        }
    }
    let task = Task { weights, process, g, born, seed, rms: f64::from(rms), taken };
    let second = w.pop().unwrap_or_default();
    match (process.quadrature, w.pop()) {
        (Quadrature::Dual, Some(first)) => task.run(ws, [first, second]),
        _ => task.run(ws, [second]),
    }
}

/// Figures of a transfer matrix: the best real gain, the ratio of what is read, and that of the whole matrix with
/// the best complex gain, dB. `entry(i, o)` gives T from input i to output port o, and W, a complex number of which
/// `parts` are read.
pub(crate) fn figures(
    [k, n]: [usize; 2],
    parts: usize,
    entry: impl Fn(usize, usize) -> [[f64; 2]; 2],
) -> (f64, f64, f64) {
    let (mut read, mut all, mut power) = (0f64, 0f64, 0f64);
    let (mut same, mut across) = (0f64, 0f64);
    for i in 0..k {
        for o in 0..n.div_ceil(parts) {
            let [[re, im], [wr, wi]] = entry(i, o);
            same += re * wr + im * wi;
            across += im * wr - re * wi;
            all += re * re + im * im;
            // Of an odd number of columns a port of two has one to spare.
            read += re * re + if (o + 1) * parts <= n && parts == 2 { im * im } else { 0.0 };
            power += wr * wr + wi * wi;
        }
    }
    let signal = (same * same + across * across) / power;
    let ratio = |signal: f64, total: f64| db(signal, (total - signal).max(1e-30 * total)).min(SNR_MAX_DB);
    (same / power, ratio(same * same / power, read), ratio(signal, all))
}

/// What a design needs besides its weights.
struct Task<'a> {
    weights: &'a RealBlock,
    process: &'a Hologram,
    g: &'a Geometry,
    born: &'a Born,
    seed: u32,
    rms: f64,
    taken: f32,
}

/// Levels, and the transfer matrix that they have.
struct Choice<const P: usize> {
    /// Levels of each site.
    state: Vec<u8>,
    /// The parts that are read, to first order, and what is held beside it.
    t: Parts<P>,
    held: Parts<P>,
    /// Squared length of the weights.
    power: f64,
    /// Best real gain, and squared error with it.
    gain: f64,
    error: f64,
    history_db: Vec<f64>,
}

impl<const P: usize> Choice<P> {
    fn db(&self) -> f64 {
        db(self.gain * self.gain * self.power, self.error)
    }
}

/// Levels of a site's two voxels in one byte: the deeper one in the low half.
fn pair(deeper: u8, other: u8) -> u8 {
    deeper | other << 4
}

/// Cuts the two voxels of a site to `limit`; `f` is their sum and, where it is there, their difference.
#[inline(always)]
fn cut<const P: usize>(f: [f32; P], limit: f32) -> [f32; P] {
    let mut f = f;
    match f.as_mut_slice() {
        [sum, difference] => {
            let a = (0.5 * (*sum + *difference)).clamp(-limit, limit);
            let b = (0.5 * (*sum - *difference)).clamp(-limit, limit);
            (*sum, *difference) = (a + b, a - b);
        }
        [sum] => *sum = sum.clamp(-2.0 * limit, 2.0 * limit),
        _ => {}
    }
    f
}

impl Task<'_> {
    fn run<const P: usize>(&self, ws: &mut Workspace, w: Parts<P>) -> Design {
        let Task { process, g, born, seed, rms, .. } = *self;
        let [nx, ny, _] = born.sites();
        let sites = g.voxel_count() / 2;
        let parts = [Part::Real, Part::Imaginary];
        let power = square(&w);
        let top = process.base.levels - 1;
        let step = process.level_step() as f32;
        let zero = || -> Parts<P> { std::array::from_fn(|_| vec![0f32; born.weights()]) };
        // Hologram in units of its own root mean square.
        let mut norm = 0f64;
        let mut c: Parts<P> = std::array::from_fn(|part| {
            let (c, n) = born.solve(&w[part], process.cg_steps);
            norm += n;
            c
        });
        let to_unit = (2.0 * g.voxel_count() as f64 / norm).sqrt() as f32;
        c.iter_mut().flatten().for_each(|c| *c *= to_unit);
        let limit = process.clip_sigma as f32 - (0.3 * step).min(0.1 * process.clip_sigma as f32);
        let mut field: Vec<[f32; P]> = Vec::new();
        let mut t = zero();
        let mut e = zero();
        if process.clip_steps > 0 {
            field.resize(sites, [0f32; P]);
            born.adjoint(ws, &c[0], c.get(1).map(|c| &c[..]), &mut field, |_, layers, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = std::array::from_fn(|part| layers[part][i]);
                }
            });
        }
        for round in 0..process.clip_steps {
            for (part, t) in t.iter_mut().enumerate() {
                let field = &field;
                born.forward(
                    ws,
                    parts[part],
                    |first, pair| {
                        let (a, b) = field[first..first + 2 * nx].split_at(nx);
                        for ((p, a), b) in pair.iter_mut().zip(a).zip(b) {
                            *p = Complex32::new(cut(*a, limit)[part], cut(*b, limit)[part]);
                        }
                    },
                    t,
                );
            }
            residual(&t, &w, to_unit, &mut e);
            c = std::array::from_fn(|part| born.solve(&e[part], RESTORE_STEPS).0);
            c.iter_mut().flatten().for_each(|c| *c *= -RELAXATION);
            if round + 1 < process.clip_steps {
                born.adjoint(ws, &c[0], c.get(1).map(|c| &c[..]), &mut field, |_, layers, out| {
                    for (i, out) in out.iter_mut().enumerate() {
                        let kept = cut(*out, limit);
                        *out = std::array::from_fn(|part| kept[part] + layers[part][i]);
                    }
                });
            }
        }
        let carrier = std::f64::consts::TAU * (2 * g.carrier) as f64 / nx as f64;
        let quantiser = Quantiser {
            step,
            mid: if P == 1 { f32::from(top) } else { 0.5 * f32::from(top) },
            top: if P == 1 { 2.0 * f32::from(top) } else { f32::from(top) },
            feedback: (-2.0 * carrier.cos()) as f32,
        };
        let mut state = vec![0u8; sites];
        let kept = &field;
        let stream = hash(seed, u32::MAX);
        born.adjoint(ws, &c[0], c.get(1).map(|c| &c[..]), &mut state, |z, layers, out| {
            let mut lines = [vec![0f32; nx], vec![0f32; nx]];
            for (y, out) in out.chunks_exact_mut(nx).enumerate() {
                let first = (z * ny + y) * nx;
                for x in 0..nx {
                    let before = kept.get(first + x).map_or([0f32; P], |f| cut(*f, limit));
                    let f: [f32; P] =
                        cut(std::array::from_fn(|part| before[part] + layers[part][y * nx + x]), limit);
                    match f.as_slice() {
                        [sum, difference] => {
                            lines[0][x] = 0.5 * (sum + difference);
                            lines[1][x] = 0.5 * (sum - difference);
                        }
                        rest => lines[0][x] = rest.first().copied().unwrap_or(0.0),
                    }
                }
                if P == 1 {
                    quantiser.diffuse(&lines[0], |x, level| {
                        let half = hash(stream, (first + x) as u32) as u8 & 1;
                        let deeper = (level + half) / 2;
                        out[x] = pair(deeper, level - deeper);
                    });
                } else {
                    quantiser.diffuse(&lines[0], |x, level| out[x] = level);
                    quantiser.diffuse(&lines[1], |x, level| out[x] |= level << 4);
                }
            }
        });
        drop((c, field, e));

        let none: Parts<P> = std::array::from_fn(|_| Vec::new());
        let mut choice =
            Choice { state, t, held: none, power, gain: 0.0, error: 0.0, history_db: Vec::new() };
        self.evaluate(ws, &w, &mut choice);
        self.flip(ws, &w, &mut choice, 0);
        let aim = choice.db().min(process.snr_target_db);
        let (mut propagated_db, mut best) = (Vec::new(), None::<((f64, f64, f64), Vec<u8>)>);
        let rounds = process.propagation_rounds;
        for round in 0..if rounds == 0 { 0 } else { rounds + 1 } {
            let whole = self.propagated(&choice.state);
            let figures = self.figures(&w, |part, at| f64::from(whole[part][at]));
            let (_, db, _) = figures;
            propagated_db.push(db);
            for ((held, t), whole) in choice.held.iter_mut().zip(&choice.t).zip(&whole) {
                let before = std::mem::take(held);
                let first = |at: usize| t[at] - before.get(at).copied().unwrap_or(0.0);
                *held = whole.iter().enumerate().map(|(at, v)| self.taken * (v - first(at))).collect();
            }
            if best.as_ref().is_none_or(|((_, most, _), _)| db > *most) {
                best = Some((figures, choice.state.clone()));
            }
            if db >= aim - CLOSE_DB || round == rounds {
                break;
            }
            self.evaluate(ws, &w, &mut choice);
            self.flip(ws, &w, &mut choice, (round + 1) * process.flip_steps);
        }

        let (state, (gain, snr_db, snr_complex_db)) = match best {
            Some((figures, state)) => (state, figures),
            None => {
                let mut other = vec![0f32; if P == 1 { born.weights() } else { 0 }];
                if P == 1 {
                    self.forward(ws, Part::Imaginary, &choice.state, &mut other);
                }
                let figures = self.figures(&w, |part, at| {
                    f64::from(choice.t.get(part).map_or_else(|| other[at], |t| t[at]))
                });
                (choice.state, figures)
            }
        };
        let effect = born.voxel_norm() * P as f64;
        let physical = process.dn_rms / (g.voxel_count() as f64).sqrt() / rms;
        let square: u64 = state
            .par_chunks(1 << 16)
            .map(|s| s.iter().map(|b| u64::from(b & 15).pow(2) + u64::from(b >> 4).pow(2)).sum::<u64>())
            .sum();
        Design {
            levels: unfold(&state, born.sites()),
            gain: gain * physical,
            snr_db,
            snr_complex_db,
            noise_gain: g.voxel_count() as f64 * effect / (gain * gain * power),
            written_square: square as f64 * f64::from(step).powi(2) / g.voxel_count() as f64,
            history_db: choice.history_db,
            propagated_db,
        }
    }

    /// One part of T of some levels, to first order.
    fn forward(&self, ws: &mut Workspace, part: Part, state: &[u8], t: &mut [f32]) {
        let (top, step) = (self.process.base.levels - 1, self.process.level_step() as f32);
        let nx = self.born.sites()[0];
        self.born.forward(
            ws,
            part,
            |first, pair| {
                Arch::new().dispatch(Load { state: &state[first..first + 2 * nx], part, top, step, pair })
            },
            t,
        );
    }

    /// What is read of some levels and what is held, the best gain and the squared error.
    fn read<const P: usize>(
        &self,
        ws: &mut Workspace,
        [w, held]: [&Parts<P>; 2],
        power: f64,
        state: &[u8],
        t: &mut Parts<P>,
    ) -> (f64, f64) {
        for ((t, held), part) in t.iter_mut().zip(held).zip([Part::Real, Part::Imaginary]) {
            self.forward(ws, part, state, t);
            t.iter_mut().zip(held).for_each(|(t, h)| *t += h);
        }
        real_fit(t, w, power)
    }

    fn evaluate<const P: usize>(&self, ws: &mut Workspace, w: &Parts<P>, c: &mut Choice<P>) {
        (c.gain, c.error) = self.read(ws, [w, &c.held], c.power, &c.state, &mut c.t);
        c.history_db.push(c.db());
    }

    /// Real and imaginary part of the propagated T of some levels, in line order and units of the hologram's root mean square.
    fn propagated(&self, state: &[u8]) -> [Vec<f32>; 2] {
        let written = Written::of(self.process, self.g);
        let vacuum = std::f64::consts::TAU / self.process.base.wavelength_um;
        let t = written.propagated(&unfold(state, self.born.sites()), self.weights.k, vacuum);
        let unit = ((self.g.voxel_count() as f64).sqrt() / self.process.dn_rms) as f32;
        let inputs = self.g.inputs();
        [&t.re, &t.im].map(|part| {
            let mut out = vec![0f32; self.born.weights()];
            for i in 0..self.weights.k {
                for o in 0..self.process.quadrature.ports(self.weights.n) {
                    out[line_order(self.g, i, o)] = part[o * inputs + i] * unit;
                }
            }
            out
        })
    }

    /// Figures over the weights in use of a T by part and place in line order.
    fn figures<const P: usize>(&self, w: &Parts<P>, t: impl Fn(usize, usize) -> f64) -> (f64, f64, f64) {
        figures([self.weights.k, self.weights.n], P, |i, o| {
            let at = line_order(self.g, i, o);
            let wanted = |part: usize| w.get(part).map_or(0.0, |w| f64::from(w[at]));
            [[t(0, at), t(1, at)], [wanted(0), wanted(1)]]
        })
    }

    /// Flips until the target is reached; steps count from `first`.
    fn flip<const P: usize>(&self, ws: &mut Workspace, w: &Parts<P>, c: &mut Choice<P>, first: usize) {
        let Task { process, born, seed, .. } = *self;
        let [nx, ny, _] = born.sites();
        let top = process.base.levels - 1;
        let step = process.level_step() as f32;
        let zero = || -> Parts<P> { std::array::from_fn(|_| vec![0f32; born.weights()]) };
        let (mut e, mut trial) = (zero(), zero());
        let mut next = vec![0u8; if process.flip_steps > 0 { c.state.len() } else { 0 }];
        // Squared length of one voxel's effect on everything that is read.
        let effect = born.voxel_norm() * P as f64;
        let penalty = (0.5 * f64::from(step) * f64::from(step) * effect) as f32;
        let mut share = 0.1f64;
        let mut idle = 0;
        for flip in first..first + process.flip_steps {
            if c.db() >= process.snr_target_db {
                break;
            }
            residual(&c.t, w, c.gain as f32, &mut e);
            // Root mean square of the gradient; it is nearly normal, so that the bar which `share` of the voxels
            // exceed follows from it.
            let slope = (effect * c.error / (P * born.weights()) as f64).sqrt() as f32;
            let least = penalty / step;
            let bar = (slope * normal_quantile(share) as f32).clamp(least, least + slope * BAR_ABOVE);
            let stream = hash(seed, 2 * flip as u32);
            let flips = Flip { bar, top, stream, single: P == 1 };
            let base = &c.state;
            let count = AtomicU64::new(0);
            let moving = |z: usize| z % LAYER_STEP == flip % LAYER_STEP;
            born.adjoint_of(ws, &e[0], e.get(1).map(|e| &e[..]), &mut next, moving, |z, layers, out| {
                let first = z * nx * ny;
                out.copy_from_slice(&base[first..first + nx * ny]);
                if moving(z) {
                    count.fetch_add(flips.layer(layers, z as u32, nx, out), Ordering::Relaxed);
                }
            });
            let count = count.into_inner();
            if count == 0 {
                idle += 1;
                if idle > IDLE_STEPS {
                    break;
                }
                share *= 4.0;
                continue;
            }
            idle = 0;
            let mut better = self.read(ws, [w, &c.held], c.power, &next, &mut trial);
            // |e + f D|^2 for a share f of these flips, of which `own` is what their single effects add.
            let (mut cross, mut square) = (0f64, 0f64);
            for ((w, trial), e) in w.iter().zip(&trial).zip(&e) {
                let portions = trial.par_chunks(8192).zip(e.par_chunks(8192)).zip(w.par_chunks(8192));
                let a = c.gain as f32;
                let sums: Vec<[f64; 2]> = portions
                    .map(|((n, e), w)| {
                        let mut s = [0f64; 2];
                        for ((n, e), w) in n.iter().zip(e).zip(w) {
                            let d = f64::from((n - a * w) - e);
                            s[0] += d * f64::from(*e);
                            s[1] += d * d;
                        }
                        s
                    })
                    .collect();
                for s in sums {
                    cross += s[0];
                    square += s[1];
                }
            }
            let own = count as f64 * f64::from(step) * f64::from(step) * effect;
            let curve = (square - own).max(1e-3 * square);
            let best = (-(2.0 * cross + own) / (2.0 * curve)).clamp(0.0, 3.0);
            if best < 0.6 {
                let keep = (best * 2f64.powi(32)) as u64;
                let stream = hash(seed, 2 * flip as u32 + 1);
                next.par_chunks_mut(1 << 16).zip(c.state.par_chunks(1 << 16)).enumerate().for_each(
                    |(part, (next, old))| {
                        for (i, (n, o)) in next.iter_mut().zip(old).enumerate() {
                            if n != o && u64::from(hash(stream, ((part << 16) + i) as u32)) >= keep {
                                *n = *o;
                            }
                        }
                    },
                );
                better = self.read(ws, [w, &c.held], c.power, &next, &mut trial);
            }
            share = (share * best.clamp(0.2, 2.0)).clamp(1e-7, 0.5);
            let improved = better.0 > 0.0 && better.0 * better.0 / better.1 > c.gain * c.gain / c.error;
            if improved {
                std::mem::swap(&mut c.state, &mut next);
                std::mem::swap(&mut c.t, &mut trial);
                (c.gain, c.error) = better;
            } else {
                share *= 0.5;
            }
            c.history_db.push(c.db());
        }
    }
}

/// The x that a share `p` of a normal distribution's absolute values exceeds, in units of its root mean square;
/// to 4.5e-4 (Abramowitz and Stegun 26.2.23).
fn normal_quantile(p: f64) -> f64 {
    let t = (-2.0 * (0.5 * p.clamp(1e-12, 1.0)).ln()).sqrt();
    let above = 2.515517 + t * (0.802853 + t * 0.010328);
    t - above / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
}

/// Levels of all voxels from those of the sites.
fn unfold(state: &[u8], [nx, ny, layers]: [usize; 3]) -> Vec<u8> {
    let mut levels = vec![0u8; 2 * state.len()];
    levels.par_chunks_mut(nx * ny).enumerate().for_each(|(layer, out)| {
        if layer >= layers {
            let from = &state[(layer - layers) * nx * ny..(layer - layers + 1) * nx * ny];
            out.iter_mut().zip(from).for_each(|(o, b)| *o = b & 15);
            return;
        }
        let z = layers - 1 - layer;
        for (y, out) in out.chunks_exact_mut(nx).enumerate() {
            let first = (z * ny + (ny - y) % ny) * nx;
            let from = &state[first..first + nx];
            out[0] = from[0] >> 4;
            out[1..].iter_mut().zip(from[1..].iter().rev()).for_each(|(o, b)| *o = b >> 4);
        }
    });
    levels
}

/// Two rows of sites as the real and imaginary parts of one: sums or differences of their voxels in units of
/// the hologram's root mean square.
struct Load<'a> {
    state: &'a [u8],
    part: Part,
    top: u8,
    step: f32,
    pair: &'a mut [Complex32],
}

impl WithSimd for Load<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Load { state, part, top, step, pair } = self;
        let (a, b) = state.split_at(pair.len());
        let top = i32::from(top);
        match part {
            Part::Real => {
                let value = |b: u8| (i32::from(b & 15) + i32::from(b >> 4) - top) as f32 * step;
                for ((p, a), b) in pair.iter_mut().zip(a).zip(b) {
                    *p = Complex32::new(value(*a), value(*b));
                }
            }
            Part::Imaginary => {
                let value = |b: u8| (i32::from(b & 15) - i32::from(b >> 4)) as f32 * step;
                for ((p, a), b) in pair.iter_mut().zip(a).zip(b) {
                    *p = Complex32::new(value(*a), value(*b));
                }
            }
        }
    }
}

/// The rule of one flip step.
struct Flip {
    /// Gradient above which a voxel may move.
    bar: f32,
    top: u8,
    stream: u32,
    /// Whether a site moves as a whole (its sum) or each voxel on its own.
    single: bool,
}

impl Flip {
    /// The site's levels with a move of its sum (`shift` none) or of one voxel, where there is room.
    fn moved(&self, site: u8, by: i8, shift: Option<u8>, tie: bool) -> Option<u8> {
        if let Some(shift) = shift {
            let level = (site >> shift & 15).wrapping_add_signed(by);
            return (level <= self.top).then_some((site & !(15 << shift)) | level << shift);
        }
        let (a, b) = (site & 15, site >> 4);
        // Of the two voxels the one that brings their levels together.
        let deeper = if a == b { tie } else { (a < b) == (by > 0) };
        let (a, b) = if deeper { (a.wrapping_add_signed(by), b) } else { (a, b.wrapping_add_signed(by)) };
        (a <= self.top && b <= self.top).then(|| pair(a, b))
    }

    /// Moves sites of layer `z`, whose gradients are `layers`. Returns the number of moves.
    fn layer(&self, [real, imaginary]: [&[f32]; 2], z: u32, nx: usize, out: &mut [u8]) -> u64 {
        let ny = out.len() / nx;
        let start = hash(self.stream, z) as usize;
        let (x0, y0) = (start % nx, start / nx % ny);
        let [cx, cy] = CELL;
        let mut count = 0;
        let voxels: &[(f32, Option<u8>)] =
            if self.single { &[(1.0, None)] } else { &[(1.0, Some(0)), (-1.0, Some(4))] };
        for yc in (0..ny).step_by(cy) {
            for xc in (0..nx).step_by(cx) {
                let (mut most, mut best) = (self.bar, None);
                for &(sign, shift) in voxels {
                    for y in yc..(yc + cy).min(ny) {
                        let row = (y + y0) % ny * nx;
                        for x in xc..(xc + cx).min(nx) {
                            let at = row + (x + x0) % nx;
                            let g = real[at] + imaginary.get(at).map_or(0.0, |h| sign * h);
                            if g.abs() > most {
                                let by = if g > 0.0 { -1 } else { 1 };
                                if let Some(new) = self.moved(out[at], by, shift, at.is_multiple_of(2)) {
                                    (most, best) = (g.abs(), Some((at, new)));
                                }
                            }
                        }
                    }
                }
                if let Some((at, new)) = best {
                    out[at] = new;
                    count += 1;
                }
            }
        }
        count
    }
}

/// Rounding to levels with band-pass error diffusion along a line.
struct Quantiser {
    /// Level step in units of the hologram's root mean square.
    step: f32,
    /// Level of value 0, between two levels for an even count.
    mid: f32,
    /// Highest level.
    top: f32,
    /// `-2 cos(w0)` with w0 the carrier in radians a voxel; noise is shaped by
    /// `1 + feedback z^-1 + z^-2`, whose zeros lie at the carrier.
    feedback: f32,
}

impl Quantiser {
    /// Voxels over which the periodic line is entered before its levels are kept.
    const RUN_IN: usize = 32;

    /// Hands the level of each place of a line to `put`.
    fn diffuse(&self, line: &[f32], mut put: impl FnMut(usize, u8)) {
        let (mut e1, mut e2) = (0f32, 0f32);
        let limit = 1.5 * self.step;
        let reciprocal = 1.0 / self.step;
        let mut level_of = |v: f32| {
            let wanted = v + self.feedback * e1 + e2;
            let level = (wanted * reciprocal + self.mid).round_ties_even().clamp(0.0, self.top);
            e2 = e1;
            e1 = ((level - self.mid) * self.step - wanted).clamp(-limit, limit);
            level as u8
        };
        for &v in &line[line.len().saturating_sub(Self::RUN_IN)..] {
            level_of(v);
        }
        for (x, &v) in line.iter().enumerate() {
            put(x, level_of(v));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::born::tests::{noise, process};
    use crate::geometry::Request;

    fn weights(k: usize, n: usize, seed: u32) -> RealBlock {
        // Sums of uniform values: nearly Gaussian.
        let parts: Vec<Vec<f32>> = (0..4).map(|i| noise(k * n, seed + i)).collect();
        RealBlock { k, n, values: (0..k * n).map(|i| parts.iter().map(|p| p[i]).sum()).collect() }
    }

    fn run(process: &Hologram, c: usize, ri: usize, ro: usize, k: usize, n: usize) -> Design {
        let g = Geometry::new(process, Request::new(c, ri, ro)).unwrap();
        let born = Born::new(&g, k, n);
        design(process, &g, &born, &mut Workspace::default(), &weights(k, n, 10), [&[], &[]], 7)
    }

    #[test]
    fn flips_never_lose_and_reach_the_target() {
        let process = Hologram { snr_target_db: 60.0, ..process() };
        let d = run(&process, 32, 2, 2, 64, 64);
        let flips = &d.history_db[1..];
        assert!(flips.windows(2).skip(1).all(|w| w[1] >= w[0]), "{:?}", d.history_db);
        assert!(d.snr_db > 36.0, "{:?}", d.history_db);
        assert!(d.levels.iter().all(|&l| l < 8));
        // A tile's signal against white noise follows from its voxels a weight.
        assert!((0.5..2.0).contains(&(d.noise_gain * 36.0)), "{}", d.noise_gain);
    }

    #[test]
    fn rounds_make_up_for_multiple_scattering_and_the_wrong_sign_adds_to_it() {
        // As strong as 2e-4 in a tile four times as long.
        let plain = Hologram { dn_rms: 8e-4, dn_max: 1e-2, snr_target_db: 42.0, ..process() };
        let rounds = Hologram { propagation_rounds: 4, ..plain.clone() };
        let g = Geometry::new(&plain, Request::new(16, 1, 1)).unwrap();
        let born = Born::new(&g, 16, 16);
        let taking = |taken: f32, process: &Hologram| {
            let ws = &mut Workspace::default();
            design_taking(taken, process, &g, &born, ws, &weights(16, 16, 10), [&[], &[]], 7)
        };
        let first_order = taking(1.0, &plain);
        let right = taking(1.0, &rounds);
        println!("first order {:.2} dB, propagated {:.2?}", first_order.snr_db, right.propagated_db);
        assert!(first_order.propagated_db.is_empty() && right.propagated_db[0] < first_order.snr_db - 3.0);
        assert!(right.snr_db >= first_order.snr_db - 1.0 && right.snr_db >= 40.0);
        let wrong = taking(-1.0, &rounds);
        println!("wrong sign {:.2?}", wrong.propagated_db);
        assert!(wrong.propagated_db[0] == right.propagated_db[0]);
        assert!(wrong.propagated_db[1..].iter().all(|db| *db < wrong.propagated_db[0]));
        // What is left in place of the rounds is the best of them.
        assert_eq!(wrong.snr_db, wrong.propagated_db[0]);
    }

    #[test]
    fn two_levels_do_in_a_well_conditioned_tile_of_as_many_voxels() {
        let file =
            crate::presets::processes().into_iter().find(|p| p.name == "borosilicate-two-levels").unwrap();
        let process = Hologram::parse(&file.name, &file.toml).unwrap();
        let d = run(&process, 32, 2, 2, 64, 64);
        assert!(d.snr_db > 35.0 && d.levels.iter().all(|&l| l < 2), "{:?}", d.history_db);
        assert!(d.levels.len() < 37 * 64 * 64);
        let wide = Hologram { width_per_column_um: 4.0, length_per_column_um: 14.84, ..process };
        let d = run(&wide, 32, 2, 2, 64, 64);
        assert!(d.snr_db < 34.5 && d.levels.len() > 35 * 64 * 64, "{:?}", d.history_db);
    }

    #[test]
    fn signs_of_ports_spread_a_common_component() {
        let process = process();
        let g = Geometry::new(&process, Request::new(32, 2, 2)).unwrap();
        let born = Born::new(&g, 64, 64);
        // As trained output layers are: nearly all of the power in one common component.
        let mut w = weights(64, 64, 3);
        w.values.iter_mut().for_each(|v| *v += 4.0);
        let (input, output) = (signs(1, 64), signs(2, 64));
        let reached = |ports| design(&process, &g, &born, &mut Workspace::default(), &w, ports, 7).snr_db;
        let (plain, signed) = (reached([&[], &[]]), reached([&input, &output]));
        assert!(signed > plain + 6.0 && signed > process.base.snr_min_db, "{plain} {signed}");
    }

    #[test]
    fn designs_repeat_and_zero_weights_make_a_tile_of_bias() {
        let process = process();
        let d = run(&process, 16, 1, 2, 16, 20);
        assert_eq!(d, run(&process, 16, 1, 2, 16, 20));
        let g = Geometry::new(&process, Request::new(16, 1, 1)).unwrap();
        let zero = RealBlock { k: 16, n: 16, values: vec![0.0; 256] };
        let d = design(&process, &g, &Born::new(&g, 16, 16), &mut Workspace::default(), &zero, [&[], &[]], 7);
        assert!(d.gain == 0.0 && d.levels.iter().all(|&l| l == process.base.fill_level()));
    }

    #[test]
    fn diffusion_moves_noise_off_the_carrier_and_the_wrong_sign_onto_it() {
        let step = 0.5f32;
        let n = 512;
        let carrier = 41;
        let w0 = std::f32::consts::TAU * carrier as f32 / n as f32;
        let line: Vec<f32> = noise(n, 5);
        // Error power at bins next to the carrier, of given levels.
        let power = |levels: &[f32]| {
            (carrier - 6..=carrier + 6)
                .map(|bin| {
                    let (mut re, mut im) = (0f64, 0f64);
                    for (x, (l, v)) in levels.iter().zip(&line).enumerate() {
                        let e = f64::from((l - 3.5) * step - v);
                        let (s, c) = (std::f64::consts::TAU * (bin * x) as f64 / n as f64).sin_cos();
                        re += e * c;
                        im -= e * s;
                    }
                    re * re + im * im
                })
                .sum::<f64>()
        };
        let diffused = |feedback: f32| {
            let mut out = vec![0f32; n];
            Quantiser { step, mid: 3.5, top: 7.0, feedback }
                .diffuse(&line, |x, level| out[x] = f32::from(level));
            power(&out)
        };
        let rounded: Vec<f32> = line.iter().map(|v| (v / step + 3.5).round().clamp(0.0, 7.0)).collect();
        let (right, rounded, wrong) = (diffused(-2.0 * w0.cos()), power(&rounded), diffused(2.0 * w0.cos()));
        assert!(right < 0.2 * rounded && wrong > 2.0 * rounded, "{right} {rounded} {wrong}");
    }
}
