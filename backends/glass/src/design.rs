//! From weights to voxel levels: minimum-norm hologram, rounding or band-pass error diffusion, and
//! greedy flips of single levels inside the band that is read.
//!
//! What is read is one quadrature: with one calibrated phase and one gain a for the tile,
//! `snr = |a W|^2 / |Re T - a W|^2`. The complex figure takes `|T - a W|^2` instead.
//!
//! A flip step computes the error `e = Re T - a W`, the gradient `g = A^T e` at every voxel and moves
//! voxels one level against it. A voxel's predicted gain is `|g| q - q^2 |a_v|^2 / 2`, with q the level
//! step; a random share of the voxels with positive gain moves, in proportion to the gain. Since T
//! is linear in the voxels, the error as a function of the share is a parabola known after one
//! evaluation; its minimum steers the share.

use pfmc_ir::tile::RealBlock;
use rayon::prelude::*;
use rustfft::num_complex::Complex32;

use crate::born::{Born, Workspace};
use crate::geometry::Geometry;
use crate::process::Process;
use crate::schedule::{SNR_MAX_DB, sign, sign_bytes};

/// A designed tile.
#[derive(Debug, Clone, PartialEq)]
pub struct Design {
    /// Level of each voxel, x fastest, then y, then depth.
    pub levels: Vec<u8>,
    /// Gain: `Re T = gain * W` with `T = s(K)/V sum (dn - bias) exp(-i K r)`; 0 when all weights are 0.
    pub gain: f64,
    /// Signal-to-noise ratio of the real part, dB.
    pub snr_db: f64,
    /// Signal-to-noise ratio of the complex transfer matrix, dB.
    pub snr_complex_db: f64,
    /// Error power on what is read, relative to the signal, for white noise of `dn_rms` a voxel.
    pub noise_gain: f64,
    /// The history of `snr_db`: after rounding, after diffusion, then after each flip step.
    pub history_db: Vec<f64>,
}

/// A hash of a counter: the named generator of the design, `lowbias32` after mixing in the seed.
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
fn sum<const N: usize>(
    t: &[Complex32],
    w: &[f32],
    f: impl Fn(Complex32, f32) -> [f64; N] + Sync,
) -> [f64; N] {
    let parts: Vec<[f64; N]> = t
        .par_chunks(8192)
        .zip(w.par_chunks(8192))
        .map(|(t, w)| {
            let mut s = [0f64; N];
            for (&t, &w) in t.iter().zip(w) {
                for (s, v) in s.iter_mut().zip(f(t, w)) {
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

/// Best real gain, and squared error of the real part with it.
fn real_fit(t: &[Complex32], w: &[f32], power: f64) -> (f64, f64) {
    let [tw, tt] = sum(t, w, |t, w| {
        let re = f64::from(t.re);
        [re * f64::from(w), re * re]
    });
    let a = tw / power;
    (a, (tt - a * tw).max(1e-30 * tt))
}

fn db(signal: f64, error: f64) -> f64 {
    10.0 * (signal / error).log10()
}

/// Pseudo-random signs of ports, one bit a port; `stream` names them.
pub fn signs(stream: u32, ports: usize) -> Vec<u8> {
    (0..sign_bytes(ports) as u32).map(|i| hash(stream, i) as u8).collect()
}

/// Designs the tile that holds `weights` behind the signs of its input and output ports. `seed` names
/// the generator's stream.
pub fn design(
    process: &Process,
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
            levels: vec![process.bias_level(); g.voxel_count()],
            gain: 0.0,
            snr_db: 0.0,
            snr_complex_db: 0.0,
            noise_gain: 0.0,
            history_db: Vec::new(),
        };
    }
    let mut w = vec![0f32; born.weights()];
    for (i, row) in weights.values.chunks_exact(weights.n.max(1)).enumerate() {
        for (o, v) in row.iter().enumerate() {
            w[line_order(g, i, o)] = sign(input_signs, i) * sign(output_signs, o) * v / rms;
        }
    }
    let [nx, ny, _] = g.voxels;
    let power: f64 = w.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
    let top = process.levels - 1;
    let step = (2.0 * process.clip_sigma / f64::from(top)) as f32;
    let mid = 0.5 * f32::from(top);
    let table: [f32; 16] = std::array::from_fn(|l| (l as f32 - mid) * step);
    let forward = |ws: &mut Workspace, levels: &[u8], shift: u32, t: &mut [Complex32]| {
        let rows = |first: usize, pair: &mut [Complex32]| {
            let (a, b) = levels[first..first + 2 * nx].split_at(nx);
            for ((p, a), b) in pair.iter_mut().zip(a).zip(b) {
                let at = |l: &u8| table[usize::from((l >> shift) & 15)];
                *p = Complex32::new(at(a), at(b));
            }
        };
        born.forward(ws, rows, t);
    };

    // Hologram in units of its own root mean square, rounded (low half) and diffused (high half).
    let (mut c, norm) = born.solve(&w, process.cg_steps);
    let to_unit = (g.voxel_count() as f64 / norm).sqrt() as f32;
    c.iter_mut().for_each(|c| *c *= to_unit);
    let carrier = std::f64::consts::TAU * (2 * g.carrier) as f64 / nx as f64;
    let quantiser = Quantiser { step, mid, top: f32::from(top), feedback: (-2.0 * carrier.cos()) as f32 };
    let mut levels = vec![0u8; g.voxel_count()];
    born.adjoint(ws, &c, &mut levels, |_, layer, out| {
        for (row, out) in layer.chunks_exact(nx).zip(out.chunks_exact_mut(nx)) {
            quantiser.both(row, out);
        }
    });
    drop(c);
    let mut t = vec![Complex32::ZERO; born.weights()];
    let mut trial = t.clone();
    let mut history = Vec::new();
    forward(ws, &levels, 0, &mut t);
    let (mut gain, mut error) = real_fit(&t, &w, power);
    history.push(db(gain * gain * power, error));
    forward(ws, &levels, 4, &mut trial);
    let (gain2, error2) = real_fit(&trial, &w, power);
    let diffused = gain2 * gain2 / error2 > gain * gain / error;
    history.push(db(gain2 * gain2 * power, error2));
    if diffused {
        std::mem::swap(&mut t, &mut trial);
        (gain, error) = (gain2, error2);
    }
    let shift = if diffused { 4 } else { 0 };
    levels.par_chunks_mut(1 << 16).for_each(|part| part.iter_mut().for_each(|l| *l = (*l >> shift) & 15));

    let mut next = levels.clone();
    let mut e = trial.clone();
    let voxel_norm = born.voxel_norm();
    let (q, penalty) = (step, (0.5 * f64::from(step) * f64::from(step) * voxel_norm) as f32);
    let mut share = 0.3f64;
    for flip in 0..process.flip_steps {
        let snr = db(gain * gain * power, error);
        if snr >= process.snr_target_db {
            break;
        }
        let a = gain as f32;
        e.par_chunks_mut(8192).zip(t.par_chunks(8192)).zip(w.par_chunks(8192)).for_each(|((e, t), w)| {
            for ((e, t), w) in e.iter_mut().zip(t).zip(w) {
                *e = Complex32::new(t.re - a * w, 0.0);
            }
        });
        let Some(scale) = gain_scale(g, born, ws, &e, q, penalty) else { break };
        let stream = hash(seed, 2 * flip as u32);
        let chance = (share / f64::from(scale) * 2f64.powi(32)) as f32;
        let cap = (share.min(1.0) * 2f64.powi(32)) as f32;
        let base = &levels;
        born.adjoint(ws, &e, &mut next, |z, layer, out| {
            let first = z * nx * ny;
            let from = &base[first..first + nx * ny];
            for (i, ((&grad, out), &level)) in layer.iter().zip(out.iter_mut()).zip(from).enumerate() {
                let gain = grad.abs() * q - penalty;
                let down = grad > 0.0;
                let free = if down { level > 0 } else { level < top };
                let moves = free && (hash(stream, (first + i) as u32) as f32) < (gain * chance).min(cap);
                *out = if moves { if down { level - 1 } else { level + 1 } } else { level };
            }
        });
        let flips = count_changes(&levels, &next);
        if flips == 0 {
            break;
        }
        forward(ws, &next, 0, &mut trial);
        // |e + f D|^2 for a share f of these flips, of which `own` is what their single effects add.
        let [cross, square] = dot(&t, &trial, &e);
        let own = flips as f64 * f64::from(q) * f64::from(q) * voxel_norm;
        let curve = (square - own).max(1e-3 * square);
        let best = (-(2.0 * cross + own) / (2.0 * curve)).clamp(0.0, 3.0);
        let (gain2, error2) = real_fit(&trial, &w, power);
        let mut better = (gain2, error2);
        if best < 0.6 {
            let keep = (best * 2f64.powi(32)) as u64;
            let stream = hash(seed, 2 * flip as u32 + 1);
            next.par_chunks_mut(1 << 16).zip(levels.par_chunks(1 << 16)).enumerate().for_each(
                |(part, (next, old))| {
                    for (i, (n, o)) in next.iter_mut().zip(old).enumerate() {
                        if u64::from(hash(stream, ((part << 16) + i) as u32)) >= keep {
                            *n = *o;
                        }
                    }
                },
            );
            forward(ws, &next, 0, &mut trial);
            better = real_fit(&trial, &w, power);
        }
        share = (share * best.max(0.05)).clamp(1e-6, 8.0);
        let improved = better.0 > 0.0 && better.0 * better.0 / better.1 > gain * gain / error;
        if improved {
            std::mem::swap(&mut levels, &mut next);
            std::mem::swap(&mut t, &mut trial);
            (gain, error) = better;
        } else {
            share *= 0.5;
        }
        history.push(db(gain * gain * power, error));
    }

    let [re, im, tt] = sum(&t, &w, |t, w| {
        let (re, im, w) = (f64::from(t.re), f64::from(t.im), f64::from(w));
        [re * w, im * w, re * re + im * im]
    });
    let signal = (re * re + im * im) / power;
    let physical = process.dn_rms / (g.voxel_count() as f64).sqrt() / f64::from(rms);
    Design {
        levels,
        gain: gain * physical,
        snr_db: db(gain * gain * power, error).min(SNR_MAX_DB),
        snr_complex_db: db(signal, (tt - signal).max(1e-30 * tt)).min(SNR_MAX_DB),
        noise_gain: g.voxel_count() as f64 * voxel_norm / (gain * gain * power),
        history_db: history,
    }
}

/// The gain that four fifths of the voxels with positive gain stay below, from a few layers.
fn gain_scale(
    g: &Geometry,
    born: &Born,
    ws: &mut Workspace,
    e: &[Complex32],
    q: f32,
    penalty: f32,
) -> Option<f32> {
    let nz = g.voxels[2];
    let mut layers: Vec<usize> = (0..4).map(|i| (2 * i + 1) * nz / 8).collect();
    layers.dedup();
    let mut gains: Vec<f32> = born
        .adjoint_layers(ws, e, &layers)
        .iter()
        .flatten()
        .step_by(5)
        .map(|grad| grad.abs() * q - penalty)
        .filter(|&g| g > 0.0)
        .collect();
    if gains.is_empty() {
        return None;
    }
    let at = gains.len() * 4 / 5;
    let (_, &mut scale, _) = gains.select_nth_unstable_by(at, f32::total_cmp);
    Some(scale)
}

fn count_changes(a: &[u8], b: &[u8]) -> usize {
    a.par_chunks(1 << 16)
        .zip(b.par_chunks(1 << 16))
        .map(|(a, b)| a.iter().zip(b).filter(|(a, b)| a != b).count())
        .sum()
}

/// `sum e D` and `sum D^2` with `D = Re(after - before)`, in fixed portions.
fn dot(before: &[Complex32], after: &[Complex32], e: &[Complex32]) -> [f64; 2] {
    let parts: Vec<[f64; 2]> = before
        .par_chunks(8192)
        .zip(after.par_chunks(8192))
        .zip(e.par_chunks(8192))
        .map(|((b, a), e)| {
            let mut s = [0f64; 2];
            for ((b, a), e) in b.iter().zip(a).zip(e) {
                let d = f64::from(a.re - b.re);
                s[0] += d * f64::from(e.re);
                s[1] += d * d;
            }
            s
        })
        .collect();
    parts.iter().fold([0.0; 2], |a, p| [a[0] + p[0], a[1] + p[1]])
}

/// Rounding to levels, plain and with band-pass error diffusion along a line.
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

    fn level(&self, v: f32) -> f32 {
        (v / self.step + self.mid).round_ties_even().clamp(0.0, self.top)
    }

    /// Plain level in the low half, diffused level in the high half of each byte.
    fn both(&self, line: &[f32], out: &mut [u8]) {
        let (mut e1, mut e2) = (0f32, 0f32);
        let limit = 1.5 * self.step;
        let mut diffuse = |v: f32| {
            let wanted = v + self.feedback * e1 + e2;
            let level = self.level(wanted);
            e2 = e1;
            e1 = ((level - self.mid) * self.step - wanted).clamp(-limit, limit);
            level
        };
        for &v in &line[line.len().saturating_sub(Self::RUN_IN)..] {
            diffuse(v);
        }
        for (&v, out) in line.iter().zip(out) {
            *out = self.level(v) as u8 | ((diffuse(v) as u8) << 4);
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

    fn run(process: &Process, c: usize, ri: usize, ro: usize, k: usize, n: usize) -> Design {
        let g = Geometry::new(process, Request::new(c, ri, ro)).unwrap();
        let born = Born::new(&g, k, n);
        design(process, &g, &born, &mut Workspace::default(), &weights(k, n, 10), [&[], &[]], 7)
    }

    #[test]
    fn flips_never_lose_and_reach_the_target() {
        let process = Process { snr_target_db: 60.0, ..process() };
        let d = run(&process, 32, 2, 2, 64, 64);
        eprintln!("{:?}", d.history_db);
        let flips = &d.history_db[1..];
        assert!(flips.windows(2).skip(1).all(|w| w[1] >= w[0]), "{:?}", d.history_db);
        assert!(d.snr_db > 36.0, "{:?}", d.history_db);
        assert!(d.levels.iter().all(|&l| l < 8));
        // A tile's signal against white noise follows from its voxels a weight.
        assert!((0.5..2.0).contains(&(d.noise_gain * 36.0)), "{}", d.noise_gain);
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
        assert!(signed > plain + 6.0 && signed > process.snr_min_db, "{plain} {signed}");
    }

    #[test]
    fn designs_repeat_and_zero_weights_make_a_tile_of_bias() {
        let process = process();
        let d = run(&process, 16, 1, 2, 16, 20);
        assert_eq!(d, run(&process, 16, 1, 2, 16, 20));
        let g = Geometry::new(&process, Request::new(16, 1, 1)).unwrap();
        let zero = RealBlock { k: 16, n: 16, values: vec![0.0; 256] };
        let d = design(&process, &g, &Born::new(&g, 16, 16), &mut Workspace::default(), &zero, [&[], &[]], 7);
        assert!(d.gain == 0.0 && d.levels.iter().all(|&l| l == process.bias_level()));
    }

    #[test]
    fn diffusion_moves_noise_off_the_carrier_and_the_wrong_sign_onto_it() {
        let step = 0.5f32;
        let n = 512;
        let carrier = 41;
        let w0 = std::f32::consts::TAU * carrier as f32 / n as f32;
        let line: Vec<f32> = noise(n, 5);
        // Error power at bins next to the carrier.
        let power = |feedback: f32, shift: u32| {
            let quantiser = Quantiser { step, mid: 3.5, top: 7.0, feedback };
            let mut out = vec![0u8; n];
            quantiser.both(&line, &mut out);
            (carrier - 6..=carrier + 6)
                .map(|bin| {
                    let (mut re, mut im) = (0f64, 0f64);
                    for (x, (&l, v)) in out.iter().zip(&line).enumerate() {
                        let e = f64::from((f32::from((l >> shift) & 15) - 3.5) * step - v);
                        let (s, c) = (std::f64::consts::TAU * (bin * x) as f64 / n as f64).sin_cos();
                        re += e * c;
                        im -= e * s;
                    }
                    re * re + im * im
                })
                .sum::<f64>()
        };
        let right = power(-2.0 * w0.cos(), 4);
        let rounded = power(0.0, 0);
        let wrong = power(2.0 * w0.cos(), 4);
        assert!(right < 0.2 * rounded && wrong > 2.0 * rounded, "{right} {rounded} {wrong}");
    }
}
