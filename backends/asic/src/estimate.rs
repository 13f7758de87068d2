//! What a model costs as a chip: sizes from the plan, or in closed form from one tile of each shape; cycles from the RTL's own
//! formulas; energies from the measured reads of macros and `process/estimate.toml`.
//!
//! A read's energy is taken as linear in the macro's size, exact at the two sizes that were measured: what does not depend on falling
//! bit lines in their number, that of a bit line that falls in the number of word lines on it.

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::estimate::{Range, Sheet, TileClass, Workload, number};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Levels, TileId};

use crate::codes::{E0504, E0508};
use crate::die;
use crate::encode;
use crate::macros::timing::{Read, Timing};
use crate::plan::{RomPlan, Totals};
use crate::process::Process;
use crate::rtl::{MatrixUse, TileRtl};
use crate::{ESTIMATE, SKY130_TIMING};

/// Where constants come from.
const FILE: &str = "backends/asic/process/estimate.toml";

/// The estimate of a plan.
///
/// # Errors
/// What the formats cannot hold.
pub(crate) fn planned(plan: &RomPlan<'_>, work: &Workload, mut sheet: Sheet) -> Result<Sheet, Diagnostics> {
    let program = plan.program();
    let totals = plan.totals(&vec![1.0; program.tiles.len()]).map_err(unwritable)?;
    let [dies, area] = plan.dies();
    sheet.constants(FILE, ESTIMATE);
    sizes(&mut sheet, plan.process(), &totals, "the plan: every tile placed");
    sheet.counted("dies", "", "dies", dies, "the plan: every tile placed");
    sheet.counted("die_mm2", "mm2", "area of all dies", area, "the plan: every tile placed");
    costs(&mut sheet, plan.process(), program, work)?;
    Ok(sheet)
}

/// The estimate of tiles by shape, none of which is placed.
///
/// # Errors
/// A shape that no array of the process holds.
pub(crate) fn closed_form(
    process: &Process,
    work: &Workload,
    mut sheet: Sheet,
) -> Result<Sheet, Diagnostics> {
    let (program, counts) = work.sample(|_| 1, Some(encode::largest_data(process)))?;
    let plan = RomPlan::new(process, &program)?.with_counts(&counts);
    let totals = plan.totals(&counts).map_err(unwritable)?;
    sheet.constants(FILE, ESTIMATE);
    let source = "in closed form: one tile of each shape planned, times how many there are";
    sizes(&mut sheet, process, &totals, source);
    place(&mut sheet, process, &totals)?;
    costs(&mut sheet, process, &program, work)?;
    Ok(sheet)
}

fn unwritable(e: crate::stream::StreamError) -> Diagnostics {
    Diagnostic::error(&E0508, e.to_string()).into()
}

/// Tiles, bits, areas and bytes.
fn sizes(sheet: &mut Sheet, process: &Process, t: &Totals, source: &str) {
    let cell = Range::exact(process.bit_area_nm2() as f64);
    sheet.given("cell_nm2", "nm2", "area of a bit's cell", cell, "the process file: cell pitches");
    sheet.counted("tiles", "", "tiles: ROM macros", t.tiles, source);
    sheet.counted("macro_sizes", "", "sizes of macros", t.macros, source);
    sheet.counted("array_bits", "bit", "bits of contents", t.bits, source);
    sheet.given("array_cells", "", "cells of the macros that hold them", Range::exact(t.cells), source);
    sheet.figure("array_mm2", "mm2", "area of the arrays", "array_cells * cell_nm2 * 1e-12");
    if t.lanes_mm2 > 0.0 {
        sheet.counted("lanes_mm2", "mm2", "outlines of the lanes", t.lanes_mm2, source);
    }
    let bytes = "tiles of each shape written with random bits, bases and dies as they are, of random patterns as many as are expected";
    sheet.counted("gds_bytes", "B", "layout.gds", t.bytes[0], bytes);
    sheet.counted("oas_bytes", "B", "layout.oas", t.bytes[1], bytes);
    let cuts = Range::exact(t.cuts);
    sheet.given("cuts", "", "programmed cuts: one a node", cuts, source);
}

/// Dies of the largest size in closed form: tiles of the shape that takes most area fill a die on shelves, the others as well.
fn place(sheet: &mut Sheet, process: &Process, t: &Totals) -> Result<(), Diagnostics> {
    let mm = |nm: i64| nm as f64 * 1e-6;
    let (gap, edge) = (mm(process.tile.spacing_nm), mm(die::edge(process)));
    let with_gap = |[w, h]: [f64; 2]| (w + gap) * (h + gap);
    let all: f64 = t.boxes.iter().map(|(n, size)| n * with_gap(*size)).sum();
    let main = t.boxes.iter().max_by(|a, b| (a.0 * with_gap(a.1)).total_cmp(&(b.0 * with_gap(b.1))));
    let Some(&(_, [w, h])) = main else {
        return Err(Diagnostic::error(&E0504, "there is no tile").into());
    };
    let room = [mm(process.reticle.width_nm), mm(process.reticle.height_nm)].map(|v| v - 2.0 * edge + gap);
    let fit = [(room[0] / (w + gap)).floor().max(1.0), (room[1] / (h + gap)).floor().max(1.0)];
    let shelf = Range::exact(fit[0] * fit[1] * with_gap([w, h]));
    let full =
        Range::exact((fit[0] * (w + gap) - gap + 2.0 * edge) * (fit[1] * (h + gap) - gap + 2.0 * edge));
    let source = "in closed form: columns and rows of the tile that takes most area, on the largest die";
    sheet.given("tiles_mm2", "mm2", "tiles with their lanes and gaps", Range::exact(all), source);
    sheet.given("full_die_tiles_mm2", "mm2", "of it on a full die", shelf, source);
    sheet.given("full_die_mm2", "mm2", "area of a full die", full, source);
    sheet.given("edge_mm", "mm", "rim of a die", Range::exact(edge), "the process file: die.edge_nm");
    sheet.figure("dies", "", "dies", "ceil(tiles_mm2 / full_die_tiles_mm2)");
    let area = if all > shelf.nominal {
        "tiles_mm2 / full_die_tiles_mm2 * full_die_mm2"
    } else {
        "(sqrt(tiles_mm2) + 2 * edge_mm) ^ 2"
    };
    sheet.figure("die_mm2", "mm2", "area of all dies", area);
    Ok(())
}

/// Sums over the tiles' reads of a token.
#[derive(Default)]
struct Reads {
    reads: f64,
    bit_lines: f64,
    cells: f64,
    cycles: f64,
    lanes: f64,
    products: f64,
    bytes: f64,
    /// Most cycles a token takes of one tile.
    busiest: f64,
}

/// The logic of the tiles of a class.
fn logic(
    process: &Process,
    program: &TileProgram,
    mux: u32,
    class: &TileClass,
) -> Result<TileRtl, Diagnostics> {
    let is =
        |id: &TileId| program.matrix_tile(*id) == Some((class.k as usize, class.n as usize, class.scheme));
    let Some(id) = program.tiles().map(|(id, _)| id).find(is) else {
        let text = format!("no tile is {} x {} of scheme {}", class.k, class.n, class.scheme);
        return Err(Diagnostic::error(&E0504, text).into());
    };
    TileRtl::new(process, program, id, mux, MatrixUse::broadcast(class.n))
}

/// Cycles, times, energies, heat, masks and the compiler's own costs.
fn costs(
    sheet: &mut Sheet,
    process: &Process,
    program: &TileProgram,
    work: &Workload,
) -> Result<(), Diagnostics> {
    drivers(sheet);
    compiling(sheet);
    let Some(mux) = process.mux() else {
        sheet.limit(format!(
            "process {} describes arrays alone, no macros: no cycles, times or energies follow from it",
            process.name
        ));
        return Ok(());
    };
    let mut sums = Reads::default();
    let mut path = 0.0;
    let tiles = work.tiles.iter().map(|c| logic(process, program, mux, c)).collect::<Result<Vec<_>, _>>()?;
    for (class, rtl) in work.tiles.iter().zip(&tiles) {
        let rom = rtl.rom();
        let reads = rtl.reads() as f64;
        let all = class.products * f64::from(rtl.sweeps()) * reads + class.lookups * reads;
        let cycles = class.products * rtl.cycles() as f64 + class.lookups * rtl.lookup_cycles() as f64;
        sums.reads += all;
        sums.bit_lines += all * f64::from(rom.bit_lines);
        sums.cells += all * f64::from(rom.bit_lines) * f64::from(rom.word_lines);
        sums.cycles += cycles;
        sums.lanes += class.products * rtl.cycles() as f64 * f64::from(rtl.lanes());
        if rtl.levels() == Levels::Codebook {
            let entries = (1u64 << rtl.bits()) as f64;
            sums.products += class.products * f64::from(rtl.sweeps()) * f64::from(class.k) * entries;
        }
        sums.bytes += class.products * (f64::from(class.k) + 4.0 * f64::from(class.n));
        sums.busiest = sums.busiest.max(cycles / class.count.max(1.0));
    }
    for stage in &work.stages {
        let Some(rtl) = tiles.get(stage.class) else { continue };
        path += stage.times * if stage.lookup { rtl.lookup_cycles() } else { rtl.cycles() } as f64;
    }
    reading(sheet, process)?;
    let source = "docs/rtl.md, cycles: sweeps x (reads + 4 + lanes) for each vector, over all tiles";
    let mut exact = |name: &str, unit: &str, about: &str, value: f64| {
        sheet.given(name, unit, about, Range::exact(value), source);
    };
    exact("macs_token", "", "multiply-adds with fixed weights a token", work.macs());
    exact("reads_token", "", "reads of macros a token", sums.reads);
    exact("read_bit_lines_token", "", "bit lines of these reads", sums.bit_lines);
    exact("read_cells_token", "", "cells on these bit lines", sums.cells);
    exact("tile_cycles_token", "", "cycles of tiles a token", sums.cycles);
    exact("lane_cycles_token", "", "cycles of lanes a token", sums.lanes);
    exact("products_token", "", "products with entries of codebooks a token", sums.products);
    exact("stream_bytes_token", "B", "bytes of activations and sums at tiles a token", sums.bytes);
    exact("busiest_cycles_token", "", "most cycles that a token takes of one tile", sums.busiest);
    exact("host_ops_token", "", "operations of the host a token", work.host_ops);
    exact("host_bytes_token", "B", "bytes of state that the host reads a token", work.host_bytes);
    let path_about = "cycles of a token: the longest chain of products that wait for each other";
    sheet.counted("cycles_token", "", path_about, path, source);
    times_and_energies(sheet);
    limits(sheet);
    sheet.plot(&["token_uj", "latency_us", "die_mm2", "weight_masks"]);
    Ok(())
}

/// Energies of reads and the shortest cycle, from the measured macros.
fn reading(sheet: &mut Sheet, process: &Process) -> Result<(), Diagnostics> {
    let (text, note) = match crate::timing(&process.name) {
        Some(text) => (text, ""),
        None => (SKY130_TIMING, "; of this process none were measured"),
    };
    let timing = Timing::parse(text)?;
    let nominal = |r: &&Read| timing.corners.iter().any(|c| c.name == r.corner && c.models == "tt");
    let (mut small, mut large): (Vec<&Read>, Vec<&Read>) = (Vec::new(), Vec::new());
    let most = timing.reads.iter().map(|r| r.shape.bit_lines).max().unwrap_or(0);
    timing.reads.iter().for_each(|r| if r.shape.bit_lines == most { &mut large } else { &mut small }.push(r));
    let both: Vec<(&Read, &Read)> =
        large.iter().filter_map(|l| Some((*small.iter().find(|s| s.corner == l.corner)?, *l))).collect();
    let mut range = |name: &str, unit: &str, about: &str, f: &dyn Fn(&Read, &Read) -> f64| {
        let all = both.iter().map(|(s, l)| f(s, l));
        let (low, high) = all.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        let nominal = both.iter().find(|(s, _)| nominal(s)).map_or(f64::NAN, |(s, l)| f(s, l));
        let source = format!(
            "backends/asic/process/{}-timing.toml: 64 x 64 and 512 x 1024 at every corner, nominal tt{note}",
            timing.process
        );
        sheet.given(name, unit, about, Range { low, nominal, high }, &source);
    };
    let lines = |r: &Read| f64::from(r.shape.bit_lines);
    let words = |r: &Read| f64::from(r.shape.word_lines);
    let quiet = |s: &Read, l: &Read| (l.quiet_fj - s.quiet_fj) / (lines(l) - lines(s));
    let falls = |s: &Read, l: &Read| (l.bit_line_fj - s.bit_line_fj) / (words(l) - words(s));
    range(
        "read_line_fj",
        "fJ",
        "energy of a read a bit line of the macro, none falling: word line, clock, sense circuits",
        &quiet,
    );
    range("read_fj", "fJ", "energy of a read beside that", &|s, l| s.quiet_fj - quiet(s, l) * lines(s));
    range("fall_cell_fj", "fJ", "energy of a bit line that falls, a cell on it", &falls);
    range("fall_fj", "fJ", "energy of a bit line that falls beside that", &|s, l| {
        s.bit_line_fj - falls(s, l) * words(s)
    });
    range("clock_ns", "ns", "shortest cycle of the largest macro", &|_, l| l.cycle_ps() * 1e-3);
    Ok(())
}

fn times_and_energies(sheet: &mut Sheet) {
    sheet.times("clock_ns", "busiest_cycles_token");
    let lines = "(reads_token * read_fj + read_bit_lines_token * read_line_fj) * 1e-9";
    sheet.figure(
        "word_lines_uj",
        "uJ",
        "energy of a token: word lines, clocks and sense circuits of macros",
        lines,
    );
    let falls = "ones_share * (read_bit_lines_token * fall_fj + read_cells_token * fall_cell_fj) * 1e-9";
    sheet.figure("bit_lines_uj", "uJ", "energy of a token: bit lines", falls);
    let macs = "(lane_cycles_token * lane_cycle_fj + products_token * product_fj) * 1e-9";
    sheet.figure("macs_uj", "uJ", "energy of a token: multiply-adds in lanes", macs);
    let buffers = "(tile_cycles_token * buffer_cycle_fj + stream_bytes_token * stream_byte_fj) * 1e-9";
    sheet.figure("buffers_uj", "uJ", "energy of a token: buffers of activations and streams", buffers);
    sheet.host_energy();
    let leak = "array_cells * cell_leak_pa * 1e-12 * supply_v";
    sheet.figure("leakage_w", "W", "leakage of the arrays, always", leak);
    let fixed = "word_lines_uj + bit_lines_uj + macs_uj + buffers_uj";
    sheet.step("fixed_uj", "uJ", "energy of a token on the dies", fixed);
    sheet.figure(
        "token_uj",
        "uJ",
        "energy of a token: all causes, leakage not counted",
        "fixed_uj + host_uj",
    );
    sheet.figure(
        "mac_pj",
        "pJ",
        "energy on the dies a multiply-add with a fixed weight",
        "fixed_uj * 1e6 / macs_token",
    );
    sheet.figure(
        "stream_w",
        "W",
        "power of the dies, one stream",
        "leakage_w + fixed_uj * 1e-6 * stream_tokens_s",
    );
    sheet.figure(
        "busy_w",
        "W",
        "power of the dies, every tile busy",
        "leakage_w + fixed_uj * 1e-6 * busy_tokens_s",
    );
    sheet.figure("heat_w_mm2", "W/mm2", "thermal density of the dies, every tile busy", "busy_w / die_mm2");
    let cooled = "max(0, cooling_w_mm2 * die_mm2 - leakage_w) / (fixed_uj * 1e-6)";
    sheet.figure("cooled_tokens_s", "1/s", "tokens a second that cooling allows", cooled);
}

/// What masks and wafers cost depends on.
fn drivers(sheet: &mut Sheet) {
    sheet.figure(
        "weight_masks",
        "",
        "masks that depend on weights: one a die, for no two dies are equal",
        "dies",
    );
    sheet.figure("cuts_mask", "", "programmed cuts on one of them", "cuts / dies");
    let about = "all masks: one set of those that do not depend on weights beside them";
    sheet.figure("masks", "", about, "weight_masks + shared_masks");
    sheet.figure(
        "yield",
        "",
        "share of dies without a defect (Poisson)",
        "exp((0 - defects_cm2) * die_mm2 / dies / 100)",
    );
    let dies = "3.141592653589793 * (wafer_mm / 2) ^ 2 / (die_mm2 / dies)";
    sheet.step("wafer_dies", "", "dies on a wafer, the rim not counted", dies);
    sheet.figure(
        "wafers_copy",
        "",
        "wafers a copy of the model, dies with defects thrown away",
        "dies / (wafer_dies * yield)",
    );
}

fn compiling(sheet: &mut Sheet) {
    let time = "compile_start_s + macro_sizes * compile_macro_s + array_bits * 1e-6 * compile_mbit_s";
    sheet.figure("compile_s", "s", "time to compile on two cores", time);
    let memory = "compile_memory_bytes + gds_bytes + oas_bytes";
    sheet.figure("compile_bytes", "B", "memory to compile, the mapped layout included", memory);
}

fn limits(sheet: &mut Sheet) {
    sheet.limit_energy(&["word_lines_uj", "bit_lines_uj", "macs_uj", "buffers_uj", "host_uj"]);
    let (busy, cooled) = (sheet.nominal("busy_tokens_s"), sheet.nominal("cooled_tokens_s"));
    sheet.limit(if cooled < busy {
        format!(
            "throughput: cooling; busy tiles would make {} times the heat that leaves the dies",
            number(busy / cooled.max(1e-300))
        )
    } else {
        format!(
            "throughput: the clock; cooling would allow {} times as many tokens",
            number(cooled / busy.max(1e-300))
        )
    });
    sheet.limit_latency("the chain of fixed products");
    let dies = sheet.nominal("dies");
    sheet.limit(format!(
        "making: {} {} of a mask of its own, {} of them good, {} wafers a copy",
        number(dies),
        if dies == 1.0 { "die" } else { "dies, each" },
        number(sheet.nominal("yield")),
        number(sheet.nominal("wafers_copy"))
    ));
}
