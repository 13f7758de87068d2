//! Times the design of one tile of normal weights and the operator behind it: `design COLUMNS ROWS_IN ROWS_OUT
//! [preset=NAME] [TABLE.KEY=VALUE...]`, keys of the built-in process file. Prints one line of figures; `.ci/bench-glass` puts
//! them beside numpy's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement fails by panicking"
)]

use std::time::Instant;

use pfmc_glass::born::{Born, Part, Workspace};
use pfmc_glass::design::design;
use pfmc_glass::geometry::{Geometry, Request};
use pfmc_glass::hologram::Hologram;
use pfmc_glass::{Glass, presets};
use pfmc_ir::backend::{Backend as _, Wishes};
use pfmc_ir::tile::RealBlock;
use rayon::prelude::*;
use rustfft::num_complex::Complex32;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args[i].parse::<usize>().expect("a number");
    let (columns, rows_in, rows_out) = (number(0), number(1), number(2));
    let mut file = Glass.processes().remove(0);
    for pair in &args[3..] {
        let (key, value) = pair.split_once('=').expect("KEY=VALUE");
        if key == "preset" {
            let wishes = Wishes { preset: Some(value.to_owned()), ..Wishes::default() };
            file = presets::adapt(file, &wishes).expect("a preset");
        } else {
            let (table, key) = key.split_once('.').expect("TABLE.KEY");
            file.toml = presets::set(&file.toml, table, key, value).expect("a key of the process");
        }
    }
    let process = Hologram::parse("bench", &file.toml).unwrap_or_else(|e| panic!("{e}"));
    let g =
        Geometry::new(&process, Request::new(columns, rows_in, rows_out)).unwrap_or_else(|e| panic!("{e}"));
    let (k, n) = (g.inputs(), g.outputs() * process.quadrature.weights_a_grating());
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 2f32.powi(24) - 0.5
    };
    let values = (0..k * n).map(|_| (0..12).map(|_| next()).sum::<f32>()).collect();
    let weights = RealBlock { k, n, values };
    let start = Instant::now();
    let born = Born::new(&g, k, g.outputs());
    let prepare = start.elapsed().as_secs_f64();
    let mut ws = Workspace::default();

    let [nx, ny, layers] = born.sites();
    let sites = vec![0.5f32; nx * ny * layers];
    let mut t = vec![0f32; born.weights()];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        let rows = |first: usize, pair: &mut [Complex32]| {
            for (x, p) in pair.iter_mut().enumerate() {
                *p = Complex32::new(sites[first + x], sites[first + nx + x]);
            }
        };
        born.forward(&mut ws, Part::Real, rows, &mut t);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let mut back = f64::INFINITY;
    let mut out = vec![0f32; sites.len()];
    for _ in 0..3 {
        let start = Instant::now();
        born.adjoint(&mut ws, &t, None, &mut out, |_, l, out| out.copy_from_slice(l[0]));
        back = back.min(start.elapsed().as_secs_f64());
    }
    // The FFT crate's own time for the transforms of one application, all on hot buffers: rows in pairs, the bins in use
    // along y, two lines in one along the depth; on as many threads.
    let mut planner = rustfft::FftPlanner::<f32>::new();
    let grid = (3 * layers..)
        .find(|n| {
            [2, 3, 5].iter().fold(*n, |mut n, p| {
                while n % p == 0 {
                    n /= p
                }
                n
            }) == 1
        })
        .expect("one");
    let work =
        [(nx, ny / 2 * layers), (ny, (2 * columns - 1) * layers), (grid, rows_in * rows_out * columns)];
    let mut transforms = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        for (n, count) in work {
            let fft = planner.plan_fft_forward(n);
            let batch = (4096 / n).max(1);
            (0..count.div_ceil(batch)).into_par_iter().with_min_len(64).for_each_init(
                || (vec![Complex32::ZERO; n * batch], vec![Complex32::ZERO; fft.get_inplace_scratch_len()]),
                |(data, scratch), _| fft.process_with_scratch(data, scratch),
            );
        }
        transforms = transforms.min(start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    let d = design(&process, &g, &born, &mut ws, &weights, [&[], &[]], 7);
    let wall = start.elapsed().as_secs_f64();
    let list = |all: &[f64]| all.iter().map(|v| format!("{v:.2}")).collect::<Vec<_>>().join(", ");
    println!(
        "{{\"weights\": {}, \"voxels\": {}, \"prepare_s\": {prepare:.3}, \"forward_s\": {best:.4}, \"adjoint_s\": {back:.4}, \"ffts_alone_s\": {transforms:.4}, \
         \"design_s\": {wall:.3}, \"weights_a_second\": {:.0}, \"snr_db\": {:.2}, \"snr_complex_db\": {:.2}, \
         \"written_square\": {:.3}, \"history_db\": [{}], \"propagated_db\": [{}]}}",
        k * n,
        g.voxel_count(),
        (k * n) as f64 / wall,
        d.snr_db,
        d.snr_complex_db,
        d.written_square,
        list(&d.history_db),
        list(&d.propagated_db)
    );
}
