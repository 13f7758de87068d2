//! What a model costs in glass: sizes from the plan, or in closed form from some zones of tiles of each shape; times and energies from the
//! process file and `process/estimate.toml`.

use pfmc_ir::diag::Diagnostics;
use pfmc_ir::estimate::{Range, Sheet, TileClass, Workload, number};

use crate::ESTIMATE;
use crate::budget::PHOTON_J_UM;
use crate::lowering::Lowering;
use crate::size;
use crate::writer::GlassPlan;

/// Where constants come from.
const FILE: &str = "backends/glass/process/estimate.toml";
/// Tiles of a shape that are placed in the place of all.
const PLACED: u32 = 160;

/// Sums over tiles.
#[derive(Default)]
struct Sums {
    tiles: f64,
    zones: f64,
    plates: f64,
    tile_voxels: f64,
    written_voxels: f64,
    write_s: f64,
    bytes: f64,
    ports: [f64; 2],
    /// Largest memory of one tile's design.
    memory: f64,
    /// Longest tile, micrometres.
    length_um: f64,
}

/// Ports and memory of a plan's tiles, each standing for `times` tiles.
fn add_tiles(sums: &mut Sums, plan: &GlassPlan<'_>, times: f64) {
    sums.tiles += times * plan.members.len() as f64;
    sums.tile_voxels += times * plan.tile_voxels() as f64;
    sums.bytes += times * size::schedule_bytes(plan);
    let pitch = plan.process().voxel_um;
    for m in plan.members.values() {
        sums.ports[0] += times * m.inputs as f64;
        sums.ports[1] += times * plan.ports(m) as f64;
        sums.memory = sums.memory.max(plan.memory_bytes(m) as f64);
        sums.length_um = sums.length_um.max(m.space.voxels[2] as f64 * pitch[2]);
    }
}

/// The estimate of a plan.
pub(crate) fn planned(plan: &GlassPlan<'_>, work: &Workload, mut sheet: Sheet) -> Result<Sheet, Diagnostics> {
    let mut sums = Sums {
        zones: plan.layout.zones.len() as f64,
        plates: f64::from(plan.layout.plates),
        written_voxels: plan.written_voxels() as f64,
        write_s: plan.write_time().total(),
        ..Sums::default()
    };
    add_tiles(&mut sums, plan, 1.0);
    fill(&mut sheet, plan.lowering, work, &sums, "the plan: every tile placed");
    Ok(sheet)
}

/// The estimate of tiles by shape: of each shape some zones are placed, and all are taken to be like these.
///
/// # Errors
/// A shape that this process cannot realise.
pub(crate) fn closed_form(
    lowering: &Lowering,
    work: &Workload,
    mut sheet: Sheet,
) -> Result<Sheet, Diagnostics> {
    let (mut sums, process) = (Sums::default(), lowering.base());
    for class in &work.tiles {
        let one = Workload { tiles: vec![*class], ..Workload::default() };
        let (program, counts) = one.sample(|_| PLACED, None)?;
        let plan = GlassPlan::new(lowering, &program)?;
        let times = counts.first().copied().unwrap_or(0.0);
        add_tiles(&mut sums, &plan, times);
        // A zone that is not full is not like the others.
        let zones = &plan.layout.zones;
        let full = &zones[..if zones.len() > 1 { zones.len() - 1 } else { zones.len() }];
        let placed: usize = full.iter().map(|z| z.tiles.len()).sum();
        let times = class.count / placed.max(1) as f64;
        let of_zones = times * full.len() as f64;
        sums.zones += of_zones;
        sums.written_voxels += times * full.iter().map(|z| z.voxels as f64).sum::<f64>();
        sums.write_s += times * full.iter().map(|z| z.time.total()).sum::<f64>();
        if let Some(zone) = full.first() {
            let moat = process.zone_moat_um * 1e3;
            let edge = 2.0 * process.edge_mm * 1e6;
            let usable = [
                process.plate_mm[0] * 1e6 - edge,
                process.plate_mm[1] * 1e6 - edge - plan.layout.coupon.height_nm(process) as f64,
            ];
            let fit = [0, 1].map(|a| ((usable[a] + moat) / (zone.size_nm[a] as f64 + moat)).floor().max(1.0));
            sums.plates += of_zones / (fit[0] * fit[1]);
        }
    }
    sums.zones = sums.zones.ceil();
    sums.plates = sums.plates.ceil();
    fill(
        &mut sheet,
        lowering,
        work,
        &sums,
        "in closed form: some full zones of each shape planned, times how many there are",
    );
    Ok(sheet)
}

/// Adds everything to a sheet.
fn fill(sheet: &mut Sheet, lowering: &Lowering, work: &Workload, s: &Sums, source: &str) {
    sheet.constants(FILE, ESTIMATE);
    facts(sheet, lowering);
    let tiles = match lowering {
        Lowering::Hologram(_) => "tiles: holograms",
        Lowering::Mask(_) => "tiles: masks",
    };
    sheet.counted("tiles", "", tiles, s.tiles, source);
    sheet.counted("plates", "", "plates", s.plates, source);
    sheet.counted("zones", "", "zones", s.zones, source);
    sheet.counted("tile_voxels", "", "voxels of tiles", s.tile_voxels, source);
    sheet.counted(
        "written_voxels",
        "",
        "voxels that are written, fill around tiles included",
        s.written_voxels,
        source,
    );
    sheet.figure("tile_mm3", "mm3", "volume of tiles", "tile_voxels * voxel_um3 * 1e-9");
    sheet.figure("written_mm3", "mm3", "volume that is written", "written_voxels * voxel_um3 * 1e-9");
    sheet.figure("plate_litres", "l", "volume of the plates", "plates * plate_mm3 * 1e-6");
    let weights = Range::exact(work.weights);
    sheet.given("weights", "", "fixed weights", weights, "the model's shapes");
    sheet.figure("weight_um3", "um3", "written volume a weight", "written_mm3 * 1e9 / weights");
    sheet.counted("write_s", "s", "time to write, one beam", s.write_s, source);
    sheet.figure("write_days", "d", "days to write, one beam", "write_s / 86400");
    let bytes = "a random layer with the frequencies of levels of a designed sample, packed for each shape";
    sheet.counted("schedule_bytes", "B", "schedule.pfmg", s.bytes, bytes);
    sheet.counted("inputs", "", "modulators: an input of each tile", s.ports[0], source);
    sheet.counted("outputs", "", "receivers: an output of each tile", s.ports[1], source);
    compiling(sheet, s);
    work_of(sheet, lowering, work, s);
    times_and_energies(sheet, lowering);
    limits(sheet);
    sheet.plot(&["token_uj", "latency_us", "plate_litres", "write_days"]);
}

/// What the process file says.
fn facts(sheet: &mut Sheet, lowering: &Lowering) {
    let p = lowering.base();
    let mut fact = |name: &str, unit: &str, about: &str, value: f64, key: &str| {
        sheet.given(name, unit, about, Range::exact(value), &format!("process {}: {key}", p.name));
    };
    fact("voxel_um3", "um3", "volume of a voxel", p.voxel_um.iter().product(), "[voxel]");
    fact("plate_mm3", "mm3", "volume of a plate", p.plate_mm.iter().product(), "[plate]");
    fact("plate_face_mm2", "mm2", "face of a plate", p.plate_mm[0] * p.plate_mm[1], "[plate]");
    fact("power_mw", "mW", "light on a tile", p.power_mw, "light.power_mw");
    fact("integration_us", "us", "integration of an output", p.integration_us, "light.integration_us");
    fact("dac_steps", "", "steps of an input's converter", 2f64.powi(p.dac_bits as i32), "light.dac_bits");
    fact("adc_steps", "", "steps of an output's converter", 2f64.powi(p.adc_bits as i32), "light.adc_bits");
    let quadratures = match lowering {
        Lowering::Hologram(h) => h.quadrature.weights_a_grating() as f64,
        Lowering::Mask(_) => 1.0,
    };
    fact("readings_output", "", "quadratures that are read", quadratures, "optics.quadrature, optics.method");
    let passes = match lowering {
        Lowering::Hologram(_) => 1.0,
        Lowering::Mask(_) => 2.0,
    };
    fact("passes", "", "passes of a vector: two where light has no sign", passes, "optics.method");
    fact("detected_share", "", "electrons a photon", p.detector_efficiency, "light.detector_efficiency");
    fact("photon_j", "J", "energy of a photon", PHOTON_J_UM / p.wavelength_um, "optics.wavelength_um");
    match lowering {
        Lowering::Hologram(h) => {
            let about = "index change of a hologram, root mean square";
            fact("dn_rms", "", about, h.dn_rms, "levels.dn_rms");
            let (about, cosine) = ("wavelength times the cosine of theta0", h.theta0_deg.to_radians().cos());
            fact("wavelength_cos_um", "um", about, p.wavelength_um * cosine, "[optics]");
            let key = "design.cg_steps, and twice design.clip_steps";
            let steps = h.cg_steps + 2 * h.clip_steps;
            fact("design_steps", "", "steps of the designer", steps as f64, key);
        }
        Lowering::Mask(_) => {
            fact("design_steps", "", "steps of the designer: one look-up", 1.0, "optics.method")
        }
    }
}

/// What a token uses.
fn work_of(sheet: &mut Sheet, lowering: &Lowering, work: &Workload, s: &Sums) {
    let sum = |f: &dyn Fn(&TileClass) -> f64| work.tiles.iter().map(f).sum::<f64>();
    let ports = |t: &TileClass| lowering.ports(t.n as usize) as f64;
    let readings = sum(&|t| t.products + t.lookups);
    // A look-up lights one output's direction and reads all inputs.
    let inputs = sum(&|t| t.products * f64::from(t.k) + t.lookups);
    let outputs = sum(&|t| t.products * ports(t) + t.lookups * f64::from(t.k));
    let path: f64 = work.stages.iter().map(|stage| stage.times).sum();
    let busiest = work.tiles.iter().map(|t| (t.products + t.lookups) / t.count.max(1.0)).fold(0.0, f64::max);
    let source = "the model's shapes: each tile of a product is lit once for a vector";
    let mut exact = |name: &str, unit: &str, about: &str, value: f64| {
        sheet.given(name, unit, about, Range::exact(value), source);
    };
    exact("macs_token", "", "multiply-adds with fixed weights a token", work.macs());
    exact("readings_token", "", "tiles lit a token", readings);
    exact("inputs_token", "", "inputs set a token", inputs);
    exact("outputs_token", "", "outputs read a token", outputs);
    exact("busiest_token", "", "most readings that a token takes of one tile", busiest);
    exact("host_ops_token", "", "operations of the host a token", work.host_ops);
    exact("host_bytes_token", "B", "bytes of state that the host reads a token", work.host_bytes);
    exact("tile_inputs", "", "inputs of a tile, mean", s.ports[0] / s.tiles.max(1.0));
    exact("tile_outputs", "", "outputs of a tile, mean", s.ports[1] / s.tiles.max(1.0));
    exact("tile_um", "um", "length of the longest tile", s.length_um);
    sheet.counted("cycles_token", "", "readings of a token that wait for each other", path, source);
}

fn times_and_energies(sheet: &mut Sheet, lowering: &Lowering) {
    let time = "passes * (integration_us * 1000 + conversion_ns)";
    sheet.step("reading_ns", "ns", "time of a reading", time);
    sheet.times("reading_ns", "busiest_token");
    let laser = match lowering {
        Lowering::Hologram(_) => {
            "(readings_token * power_mw * 1e-3 + outputs_token * local_light_uw * 1e-6) * integration_us / laser_share"
        }
        Lowering::Mask(_) => "passes * readings_token * power_mw * 1e-3 * integration_us / laser_share",
    };
    sheet.figure("laser_uj", "uJ", "energy of a token: laser and local oscillator", laser);
    let detection = "passes * outputs_token * readings_output * receiver_pj * 1e-6";
    sheet.figure("detection_uj", "uJ", "energy of a token: receivers", detection);
    let converters = "passes * (inputs_token * (modulator_pj + dac_steps * converter_step_fj * 1e-3) + outputs_token * readings_output * adc_steps * converter_step_fj * 1e-3) * 1e-6";
    sheet.figure("converters_uj", "uJ", "energy of a token: converters and modulators", converters);
    sheet.host_energy();
    sheet.step("fixed_uj", "uJ", "energy of a token at the tiles", "laser_uj + detection_uj + converters_uj");
    sheet.figure("token_uj", "uJ", "energy of a token: all causes", "fixed_uj + host_uj");
    sheet.figure(
        "mac_pj",
        "pJ",
        "energy at the tiles a multiply-add with a fixed weight",
        "fixed_uj * 1e6 / macs_token",
    );
    sheet.figure("stream_w", "W", "power at the tiles, one stream", "fixed_uj * 1e-6 * stream_tokens_s");
    sheet.figure("busy_w", "W", "power at the tiles, every tile busy", "fixed_uj * 1e-6 * busy_tokens_s");
    let heat =
        "passes * readings_token * power_mw * 1e-3 * integration_us * 1e-6 * busy_tokens_s * absorbed_share";
    sheet.step("absorbed_w", "W", "light that the plates absorb, every tile busy", heat);
    let density = "absorbed_w / (plates * plate_face_mm2)";
    sheet.figure("heat_w_mm2", "W/mm2", "thermal density of a plate's face, every tile busy", density);
    let cooled = "busy_tokens_s * cooling_w_mm2 / heat_w_mm2";
    sheet.figure("cooled_tokens_s", "1/s", "tokens a second that cooling of the plates allows", cooled);
    let (about, db) = match lowering {
        Lowering::Hologram(_) => {
            let diffracted = "2 * form_square * (3.141592653589793 * dn_rms * tile_um / wavelength_cos_um) ^ 2 / tile_inputs";
            sheet.step(
                "diffracted_share",
                "",
                "share of an input's light that reaches all outputs",
                diffracted,
            );
            let photons =
                "diffracted_share * power_mw * 1e-3 * integration_us * 1e-6 / photon_j / tile_outputs";
            sheet.step("photons_output", "", "photons of signal at an output in a reading", photons);
            let about = "signal over shot noise of a reading of the longest tile";
            (about, "10 * log10(4 * detected_share * photons_output)")
        }
        Lowering::Mask(_) => {
            let photons = "power_mw * 1e-3 * integration_us * 1e-6 / photon_j / (tile_inputs * tile_outputs)";
            sheet.step("photons_pixel", "", "photons at a pixel of an input at full drive", photons);
            let about = "signal over shot noise of both passes, inputs normal with a full range of 4 rms";
            (about, "10 * log10(detected_share * photons_pixel * pixel_square / 3.191538243211461)")
        }
    };
    sheet.figure("photon_db", "dB", about, db);
}

fn compiling(sheet: &mut Sheet, s: &Sums) {
    let memory = Range::exact(s.memory);
    sheet.given(
        "design_bytes",
        "B",
        "memory to design the largest tile",
        memory,
        "the geometry's transforms",
    );
    let time = "compile_start_s + tile_voxels * design_steps * compile_voxel_step_ns * 1e-9";
    sheet.figure("compile_s", "s", "time to compile on two cores", time);
    sheet.figure(
        "compile_bytes",
        "B",
        "memory to compile: two tiles, a zone, the mapped schedule",
        "2 * design_bytes + schedule_bytes * (1 + 1 / zones)",
    );
}

fn limits(sheet: &mut Sheet) {
    sheet.limit_energy(&["laser_uj", "detection_uj", "converters_uj", "host_uj"]);
    let (busy, cooled) = (sheet.nominal("busy_tokens_s"), sheet.nominal("cooled_tokens_s"));
    sheet.limit(if cooled < busy {
        format!("throughput: cooling of the plates, to {} tokens a second", number(cooled))
    } else {
        "throughput: the time of a reading; the plates stay cool".to_owned()
    });
    sheet.limit_latency("the chain of readings");
    sheet.limit(format!(
        "making: {} days of one beam, {} modulators and {} receivers",
        number(sheet.nominal("write_days")),
        number(sheet.nominal("inputs")),
        number(sheet.nominal("outputs"))
    ));
}
