//! `pfmc calibrate` on a folder whose measured matrices are its own behind hidden gains of ports.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{expect, fixture};
use pfmc::{npz, verify};
use pfmc_glass::calibrate::Complex64;
use pfmc_glass::lowering::Lowering;
use pfmc_glass::reader::Schedule;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::TileId;

#[test]
fn measured_matrices_calibrate_a_folder_and_foreign_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    fs::write(d.join("writer.toml"), "[calibration.line]\nblur = [0.03]\nhistory = [0.05]\n").unwrap();
    let writer = ["--calibration", "writer.toml", "-o", "out"];
    expect(d, &[&[model, "--target", "glass"][..], &writer].concat(), 0, &["verified"]);
    expect(d, &[&[model, "--target", "asic"][..], &writer[..2]].concat(), 2, &["E0004"]);
    fs::write(d.join("bad.toml"), "[calibration.line]\nblur = [7.0]\nhistory = []\n").unwrap();
    expect(
        d,
        &[model, "--target", "glass", "--calibration", "bad.toml"],
        1,
        &["E0621", "calibration.line.blur"],
    );

    let opened = verify::open(&d.join("out")).unwrap();
    let process = Lowering::parse(&opened.process.name, &opened.process.toml).unwrap();
    let schedule = Schedule::open(&process, &opened.program, &d.join("out"), &NoProgress).unwrap();
    let ids: Vec<TileId> = (0..opened.program.tiles.len() as u32)
        .map(TileId)
        .filter(|id| schedule.ports(*id).is_ok_and(|p| p[0].min(p[1]) >= 16))
        .collect();
    let (one, two) = (
        ids[0],
        *ids[1..].iter().find(|t| schedule.ports(**t).unwrap() == schedule.ports(ids[0]).unwrap()).unwrap(),
    );
    let name = |id: TileId| opened.program.tiles[id.index()].name.clone();
    let measure = |of: TileId, named: TileId| -> BTreeMap<String, Tensor> {
        let [outputs, inputs] = schedule.ports(of).unwrap();
        let gain = |n: usize| Complex64::from_polar(2.0 + (n as f64).sin(), n as f64 * 1.7);
        let t: Vec<Complex64> = schedule.matrix(of).unwrap();
        let t: Vec<Complex64> =
            t.iter().enumerate().map(|(n, t)| t * gain(n / inputs) * gain(1000 + n % inputs)).collect();
        [("re", t.iter().map(|v| v.re).collect::<Vec<f64>>()), ("im", t.iter().map(|v| v.im).collect())]
            .into_iter()
            .map(|(part, v)| {
                (format!("{}.{part}", name(named)), Tensor::new(vec![outputs, inputs], v).unwrap())
            })
            .collect()
    };
    npz::write(&d.join("good.npz"), &measure(one, one)).unwrap();
    expect(d, &["calibrate", "out", "good.npz"], 0, &[&name(one), "calibration.json"]);
    let text = fs::read_to_string(d.join("out/calibration.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tile = &json["tiles"][0];
    assert!(
        tile["ports_db"].as_f64().unwrap() > 40.0 && tile["before_db"].as_f64().unwrap() < 20.0,
        "{tile}"
    );
    assert!(tile["match_db"].as_f64().unwrap() > 60.0 && tile["wavelength"].as_f64().unwrap().abs() < 1e-6);
    expect(d, &["verify", "out"], 0, &["verified"]);

    // Another tile's matrix, one of no tile, one part alone, and numbers out of range leave what was there.
    npz::write(&d.join("other.npz"), &measure(two, one)).unwrap();
    expect(d, &["calibrate", "out", "other.npz"], 1, &["E0622", "is not this tile's"]);
    npz::write(&d.join("none.npz"), &BTreeMap::from([("x".into(), Tensor::scalar(0.5f32))])).unwrap();
    expect(d, &["calibrate", "out", "none.npz"], 1, &["E0622", "no tile is called"]);
    let mut half = measure(one, one);
    half.remove(&format!("{}.im", name(one)));
    npz::write(&d.join("half.npz"), &half).unwrap();
    expect(d, &["calibrate", "out", "half.npz"], 1, &["E0622", "two real ones"]);
    let far = |t: &Tensor| {
        let values = t.as_slice::<f64>().unwrap().iter().map(|v| v * 1e60).collect::<Vec<f64>>();
        Tensor::new(t.shape().to_vec(), values).unwrap()
    };
    let far = measure(one, one).iter().map(|(name, t)| (name.clone(), far(t))).collect();
    npz::write(&d.join("far.npz"), &far).unwrap();
    expect(d, &["calibrate", "out", "far.npz"], 1, &["E0622", "gains of ports of 1e30"]);
    assert_eq!(fs::read_to_string(d.join("out/calibration.json")).unwrap(), text);

    // A file of other levels is refused; a folder with a calibration is still a result that may be replaced.
    let digest = tile["levels_sha256"].as_str().unwrap();
    fs::write(d.join("out/calibration.json"), text.replace(digest, &digest.replace('a', "b"))).unwrap();
    expect(d, &["verify", "out"], 1, &["E0622", "is not the schedule's"]);
    drop(schedule);
    expect(d, &[model, "--target", "glass", "-o", "out"], 0, &["verified"]);
    assert!(!d.join("out/calibration.json").exists());
}
