//! Estimates beside what compiling gives.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc::compile::Options;
use pfmc::estimate::{Estimate, Request, Subject, estimate};
use pfmc::manifest::Manifest;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::Diagnostics;

use super::build;

/// The request that goes with options for compiling.
pub fn request(o: &Options) -> Request {
    Request {
        subject: Subject::Model(o.model.clone()),
        target: o.target.clone(),
        process: o.process.clone(),
        wishes: o.wishes.clone(),
        bind: o.bind.clone(),
        quantisation: o.quantisation.clone(),
        context: 1024.0,
        closed_form: false,
        assumed: BTreeMap::new(),
    }
}

/// An estimate without progress.
pub fn made(request: &Request) -> Result<Estimate, Diagnostics> {
    estimate(request, &NoProgress)
}

/// What a folder holds, by the names that estimates use: counted in the manifest's records of tiles, whose read-back
/// agreed, and in the files; areas as the manifest has them.
pub fn compiled(folder: &Path) -> BTreeMap<&'static str, f64> {
    let m = Manifest::read(folder).unwrap();
    let figure = |name: &str| m.figures.iter().find(|f| f.name == name).map(|f| f.value);
    let held = || m.tiles.iter().filter_map(|t| Some((t.region.as_ref()?, &t.measures)));
    let bytes = |name: &str| std::fs::metadata(folder.join(name)).map(|f| f.len() as f64).ok();
    let box_um3 = |r: &pfmc_ir::backend::Region| {
        (0..3).map(|a| (r.max_nm[a] - r.min_nm[a]) as f64 * 1e-3).product::<f64>()
    };
    let mut found = BTreeMap::from([("tiles", held().count() as f64)]);
    let mut put = |name, value: Option<f64>| {
        if let Some(v) = value {
            found.insert(name, v);
        }
    };
    put("array_bits", figure("array bits"));
    put("die_mm2", figure("die area"));
    put("dies", held().filter_map(|(_, m)| m.get("die").copied()).reduce(f64::max).map(|d| d + 1.0));
    put("cuts", held().map(|(_, m)| m.get("cuts").copied()).sum());
    put("gds_bytes", bytes("layout.gds"));
    put("oas_bytes", bytes("layout.oas"));
    let glass = bytes("schedule.pfmg").is_some();
    put("tile_mm3", glass.then(|| held().map(|(r, _)| box_um3(r) * 1e-9).sum()));
    put("written_voxels", figure("written voxels"));
    put("write_s", figure("write time"));
    put("plates", figure("plates"));
    put("schedule_bytes", bytes("schedule.pfmg"));
    found
}

/// Names of figures that differ by more than a share, with both values.
pub fn differences(e: &Estimate, compiled: &BTreeMap<&str, f64>, most: f64) -> Vec<String> {
    let off = |(name, want): (&&str, &f64)| {
        let got = e.sheet.get(name).map(|q| q.range.nominal)?;
        let share = got / want - 1.0;
        println!("{name}: {got} estimated, {want} compiled, {:+.2} %", 100.0 * share);
        (share.abs() > most).then(|| format!("{name}: {got} {want}"))
    };
    compiled.iter().filter_map(off).collect()
}

/// Compiles and demands agreement within 2 %.
pub fn agree(o: &Options) {
    build(o).unwrap();
    let found = compiled(o.output.as_deref().unwrap());
    assert!(found.len() >= 6, "{found:?}");
    let e = made(&request(o)).unwrap();
    assert_eq!(differences(&e, &found, 0.02), [""; 0]);
    assert!(found.keys().all(|name| e.sheet.get(name).is_some()), "{found:?}");
    println!("compile: {:?} s, {:?} B", e.sheet.get("compile_s"), e.sheet.get("compile_bytes"));
}
