//! Emit, read back and check small programs; and every kind of fault a schedule can have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::parts::Parts;
use common::{Model, folder, open, process};
use pfmc_glass::schedule::{self, Frame};
use pfmc_ir::backend::{NoProgress, Target};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::tile::{TileContent, TileId};
use prost::Message;

const SHAPES: [(u32, u32); 7] = [(64, 64), (1, 1), (40, 2), (2, 40), (33, 47), (16, 100), (64, 64)];

fn fast() -> Box<dyn Target> {
    open(&process(&[("flip_steps = 60", "flip_steps = 8"), ("snr_min_db = 30.0", "snr_min_db = 20.0")]))
}

/// The new levels of a layer, from its number and all old layers.
type Change<'a> = &'a dyn Fn(usize, &[Vec<u8>]) -> Vec<u8>;

fn codes(e: &Diagnostics) -> Vec<&'static str> {
    e.0.iter().map(|d| d.code.id).collect()
}

fn check(target: &dyn Target, model: &Model, dir: &Path, id: u32) -> Result<f64, Diagnostics> {
    let back = target.read_back(&model.program, dir, &NoProgress)?;
    Ok(back.check(TileId(id), &model.reference(id))?.get("snr_db").copied().unwrap_or(f64::INFINITY))
}

#[test]
fn what_is_written_is_read_back_and_computes_the_weights() {
    let target = fast();
    let mut model = Model::new(&SHAPES);
    model.content.get_mut(&6).unwrap().values.fill(0.0);
    let dir = folder("roundtrip");
    let emission = model.emit(target.as_ref(), &dir).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (emission.files.as_slice(), emission.tiles.len()),
        (&["schedule.pfmg".to_owned()][..], SHAPES.len())
    );
    let back = target.read_back(&model.program, &dir, &NoProgress).unwrap_or_else(|e| panic!("{e}"));
    for (id, record) in emission.tiles.iter().enumerate() {
        let reference = model.reference(id as u32);
        let measures = back.check(TileId(id as u32), &reference).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(measures.keys().collect::<Vec<_>>(), record.measures.keys().collect::<Vec<_>>());
        for (name, value) in &measures {
            assert!(
                (value - record.measures[name]).abs() < 0.01,
                "tile {id} {name}: {value} {}",
                record.measures[name]
            );
        }
        let (TileContent::Real(got), TileContent::Real(want)) =
            (back.tile(TileId(id as u32)).unwrap(), reference)
        else {
            panic!("not real")
        };
        if id == 6 {
            assert!(got.values.iter().all(|&v| v == 0.0) && !measures.contains_key("snr_db"));
        } else {
            assert!(pfmc_ir::numerics::snr_db(&want.values, &got.values) > 24.0, "tile {id}");
        }
    }
    // Layers go deepest first; within a layer shelves by y, their tiles by x.
    let parts = Parts::read(&dir);
    let place = |tile: u32| {
        let t = parts.tiles.iter().find(|t| t.tile == tile).unwrap();
        (t.origin_nm[1], t.origin_nm[0])
    };
    let mut together = 0;
    for zone in &parts.zones {
        let chunks = || parts.chunks.iter().filter(|c| c.zone == zone.zone);
        let order: Vec<(i64, i64, i64)> = chunks()
            .flat_map(|c| c.parts.iter().map(|p| (-i64::from(c.layer), place(p.tile).0, place(p.tile).1)))
            .collect();
        assert!(order.is_sorted() && !order.is_empty());
        together += chunks().filter(|c| c.parts.len() > 1).count();
        assert_eq!(zone.marks_nm.len(), 8);
    }
    assert!(together > 0);
    // The coupon has a patch for each of nine levels; the stage travels less than light is deep.
    assert_eq!((parts.coupons.len(), parts.coupons[0].corners_nm.len()), (1, 18));
    // sqrt(1.4525^2 - 0.25) / sqrt(0.75), and the centre of the first layer of 6.6 um 43.3 um deep.
    assert!((parts.header.depth_ratio - 1.5747).abs() < 1e-4, "{}", parts.header.depth_ratio);
    assert_eq!(parts.header.stage_z_nm[0], 27_497);
    assert!(back.tile(TileId(99)).unwrap_err().to_string().contains("E0619"));
    // Written again they verify; in another order, which a writer would follow, they do not.
    drop(back);
    parts.write(&dir);
    assert!(check(target.as_ref(), &model, &dir, 0).is_ok());
    let mut shallow_first = parts;
    shallow_first.chunks.reverse();
    shallow_first.write(&dir);
    assert_eq!(codes(&check(target.as_ref(), &model, &dir, 0).unwrap_err()), ["E0620"]);
}

#[test]
fn a_scanner_writes_tile_by_tile_and_a_stage_line_by_line() {
    let model = Model::new(&[(16, 16), (16, 16), (16, 16)]);
    let (mut lines, mut times) = (Vec::new(), Vec::new());
    for name in ["borosilicate-phase", "borosilicate-scanner-200khz", "borosilicate-stage-100mm-s"] {
        let process = pfmc_ir::backend::Backend::processes(&pfmc_glass::Glass);
        let target = open(process.iter().find(|p| p.name == name).unwrap());
        let dir = folder(name);
        model.emit(target.as_ref(), &dir).unwrap_or_else(|e| panic!("{name}: {e}"));
        for id in 0..3 {
            check(target.as_ref(), &model, &dir, id).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let parts = Parts::read(&dir);
        lines.push(parts.chunks[0].parts.len());
        let plan = target.plan(&model.program).unwrap();
        let get = |what: &str| plan.figures().iter().find(|f| f.name == what).map_or(0.0, |f| f.value);
        let causes: f64 =
            plan.figures().iter().filter(|f| f.name.starts_with("  of it")).map(|f| f.value).sum();
        assert!((causes - get("write time")).abs() < 1e-6 * causes, "{name}");
        times.push((get("write time"), get("  duty"), get("  of it further passes")));
    }
    assert_eq!(lines, [3, 1, 3]);
    // The shutter passes lines that cross tiles eight times; only the scanner has one.
    assert!(times[1].2 > 0.0 && times[0].2 == 0.0 && times[2].2 == 0.0, "{times:?}");
    assert!(times[0].0 < times[1].0 && times.iter().all(|t| t.1 > 0.0 && t.1 < 1.0), "{times:?}");
}

#[test]
fn a_calibration_is_written_and_read_back() {
    let mut p = process(&[("interleave = 1 ", "interleave = 3 ")]);
    p.toml.push_str(
        "\n[calibration.levels]\ndn = [0.0, 2.6e-5, 5.2e-5, 7.8e-5, 1.04e-4, 1.3e-4, 1.56e-4, 1.82e-4, 9.1e-5]\n\
         energy_nj = [0.0, 21.0, 24.0, 26.5, 29.0, 31.0, 33.0, 35.0, 27.5]\n\
         [calibration.depth]\ndepth_um = [0.0, 1000.0]\nenergy = [1.0, 1.1]\ngain = [1.0, 0.99]\n\
         [calibration.voxel]\nform_factor = \"gaussian\"\nfwhm_um = [0.5, 0.6, 6.0]\n\
         [calibration.line]\nblur = [0.05]\nhistory = [0.1, 0.02]\n",
    );
    let target = open(&p);
    let model = Model::new(&[(32, 24)]);
    let dir = folder("calibrated");
    let emission = model.emit(target.as_ref(), &dir).unwrap_or_else(|e| panic!("{e}"));
    let db = check(target.as_ref(), &model, &dir, 0).unwrap_or_else(|e| panic!("{e}"));
    assert!((db - emission.tiles[0].measures["snr_db"]).abs() < 0.05 && db > 40.0, "{db}");
    let mut parts = Parts::read(&dir);
    // Layer 0 lies 43.3 um deep, a tenth of energy more a millimetre.
    assert!((parts.header.layer_energy[0] - 1.00433).abs() < 1e-9);
    assert_eq!(parts.header.levels[7].pulse_energy_nj, Some(35.0));
    assert!((parts.header.levels[7].dn - 1.82e-4).abs() < 1e-12 && parts.header.history.len() == 4);
    parts.header.history[0] = 0.0;
    parts.write(&dir);
    assert_eq!(codes(&check(target.as_ref(), &model, &dir, 0).unwrap_err()), ["E0615"]);
    // Without the response of lines the recomputed matrix is not the weights.
    let plain = p.toml.split("[calibration.line]").next().unwrap().to_owned();
    let plain = open(&pfmc_ir::backend::ProcessText { name: p.name.clone(), toml: plain });
    let zero = vec![0.0; 4];
    (parts.header.blur, parts.header.history) = (zero.clone(), zero);
    parts.write(&dir);
    assert_eq!(codes(&check(plain.as_ref(), &model, &dir, 0).unwrap_err()), ["E0617"]);
    // A table that ends above the layers.
    p.toml = p.toml.replace("depth_um = [0.0, 1000.0]", "depth_um = [0.0, 100.0]");
    let target = open(&p);
    let e = target.plan(&model.program).err().unwrap();
    assert!(codes(&e) == ["E0621"] && e.to_string().contains("100 um"), "{e}");
}

#[test]
fn a_plate_too_small_for_its_coupon_or_a_tile_too_wide_for_the_scanner_is_refused() {
    let model = Model::new(&[(16, 16)]);
    let refuse = |edits: &[(&str, &str)]| {
        let e = open(&process(edits)).plan(&model.program).err().unwrap();
        (codes(&e), e.to_string())
    };
    let small = refuse(&[("x_mm = 120.0", "x_mm = 5.0"), ("y_mm = 120.0", "y_mm = 4.1")]);
    assert!(small.0 == ["E0607"] && small.1.contains("coupon"), "{}", small.1);
    let wide = refuse(&[("\"plate_line\"", "\"field\""), ("field_um = 2000.0", "field_um = 50.0")]);
    assert!(wide.0 == ["E0607"] && wide.1.contains("scanner"), "{}", wide.1);
    let near = pfmc_ir::backend::Backend::open(
        &pfmc_glass::Glass,
        &process(&[("offset_um = 100.0", "offset_um = 5.0")]),
    );
    assert!(near.err().unwrap().to_string().contains("marks.offset_um"));
}

#[test]
fn two_quadratures_hold_two_weights_a_grating() {
    let target = open(&process(&[("quadrature = \"single\"", "quadrature = \"dual\"")]));
    let limit = target.tile_limit(pfmc_ir::tile::Scheme::Real).unwrap();
    assert_eq!((limit.k, limit.n), (1024, 2048));
    // An even and an odd number of columns; the last port of the odd one has a weight to spare.
    let model = Model::new(&[(64, 128), (32, 65)]);
    let dir = folder("dual");
    let emission = model.emit(target.as_ref(), &dir).unwrap_or_else(|e| panic!("{e}"));
    let back = target.read_back(&model.program, &dir, &NoProgress).unwrap_or_else(|e| panic!("{e}"));
    for id in 0..2 {
        let measures = back.check(TileId(id), &model.reference(id)).unwrap_or_else(|e| panic!("{e}"));
        let recorded = emission.tiles[id as usize].measures["snr_db"];
        assert!((measures["snr_db"] - recorded).abs() < 0.05 && recorded > 38.0, "{id}: {recorded}");
    }
    assert!(emission.tiles[0].measures["voxels_per_weight"] < 20.0);
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let target = fast();
    let model = Model::new(&SHAPES[..4]);
    model.same_on_any_threads(target.as_ref(), "threads");
}

#[test]
fn a_stopped_run_goes_on_with_the_tiles_it_has() {
    let target = fast();
    let good = Model::new(&[(16, 16), (24, 16), (72, 24)]);
    let whole = folder("whole");
    good.emit(target.as_ref(), &whole).unwrap();
    let bytes = std::fs::read(whole.join(schedule::FILE)).unwrap();
    assert!(!whole.with_file_name("glass-whole.spool").exists());

    let dir = folder("stopped");
    let spool = dir.with_file_name("glass-stopped.spool");
    let _ = std::fs::remove_dir_all(&spool);
    let stop = || {
        let mut stopped = Model::new(&[(16, 16), (24, 16), (72, 24)]);
        stopped.content.remove(&1);
        assert!(stopped.emit(target.as_ref(), &dir).is_err());
        let mut files: Vec<_> = std::fs::read_dir(&spool).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort_by_key(|f| std::fs::metadata(f).unwrap().len());
        assert!(!files.is_empty() && files.iter().all(|f| f.extension().is_none()));
        files
    };
    stop();
    good.emit(target.as_ref(), &dir).unwrap();
    assert_eq!(std::fs::read(dir.join(schedule::FILE)).unwrap(), bytes);
    assert!(!spool.exists());

    // A damaged file is designed again.
    let files = stop();
    let largest = files.last().unwrap();
    let mut damaged = std::fs::read(largest).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(largest, &damaged).unwrap();
    good.emit(target.as_ref(), &dir).unwrap();
    assert_eq!(std::fs::read(dir.join(schedule::FILE)).unwrap(), bytes);

    // What is spooled is what is written: a record with another recorded ratio shows in the schedule, and read-back finds it.
    let files = stop();
    let largest = files.last().unwrap();
    let frame = Frame::decode_length_delimited(&std::fs::read(largest).unwrap()[..]).unwrap();
    let mut body = frame.body.to_vec();
    let recorded = Parts::read(&whole).tiles[2].snr_db.to_le_bytes();
    let at = body.windows(8).rposition(|w| w == recorded).unwrap();
    body[at..at + 8].copy_from_slice(&33.0f64.to_le_bytes());
    let frame = Frame { crc32: crc32fast::hash(&body), body: body.into(), ..frame };
    std::fs::write(largest, frame.encode_length_delimited_to_vec()).unwrap();
    good.emit(target.as_ref(), &dir).unwrap();
    assert_eq!(Parts::read(&dir).tiles[2].snr_db, 33.0);
    assert_eq!(codes(&check(target.as_ref(), &good, &dir, 2).unwrap_err()), ["E0617"]);
}

#[test]
fn processes_whose_tiles_degenerate_are_refused_by_name() {
    for (from, to, code) in [
        ("wavelength_um = 0.85 ", "wavelength_um = 3.0 ", "E0603"),
        ("theta0_deg = 11.0", "theta0_deg = 1.0", "E0603"),
        ("length_per_column_um = 14.84", "length_per_column_um = 10.0", "E0605"),
        ("z_um = 6.6  ", "z_um = 14.0  ", "E0605"),
        ("width_per_column_um = 4.0", "width_per_column_um = 1.0", "E0603"),
    ] {
        let e = pfmc_ir::backend::Backend::open(&pfmc_glass::Glass, &process(&[(from, to)])).err();
        let e = e.unwrap_or_else(|| panic!("{to} is accepted"));
        println!("{to}: {e}");
        assert!(codes(&e).contains(&code), "{to}: {e}");
    }
}

#[test]
fn damage_is_found_and_named() {
    let target = fast();
    let target = target.as_ref();
    let model = Model::new(&[(48, 40), (64, 64), (72, 8)]);
    let dir = folder("damage");
    model.emit(target, &dir).unwrap();
    let path = dir.join(schedule::FILE);
    let sound = std::fs::read(&path).unwrap();
    let recorded = check(target, &model, &dir, 1).unwrap();
    let fail = |bytes: &[u8], id: u32| {
        std::fs::write(&path, bytes).unwrap();
        check(target, &model, &dir, id).unwrap_err()
    };

    // Truncation, foreign and future files.
    for len in [0, 5, 11, 40, sound.len() / 2, sound.len() - 1] {
        let e = fail(&sound[..len], 1);
        assert!(["E0001", "E0611", "E0612"].contains(&codes(&e)[0]), "{len}: {e}");
    }
    for version in [3, 9] {
        let mut other = sound.clone();
        other[8] = version;
        assert_eq!(codes(&fail(&other, 1)), ["E0611"]);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(codes(&check(target, &model, &dir, 1).unwrap_err()), ["E0001"]);

    // Any changed byte is found by opening or by checking the tiles.
    for at in (0..sound.len()).step_by(sound.len() / 60) {
        let mut bad = sound.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let found = (0..3).any(|id| check(target, &model, &dir, id).is_err());
        assert!(found, "byte {at} of {}", sound.len());
    }

    // A changed byte in a chunk names tile, layer and tensor.
    std::fs::write(&path, &sound).unwrap();
    let parts = Parts::read(&dir);
    let (nx, chunk) = (parts.tiles[1].voxels[0] as usize, parts.layers_of(1)[3]);
    let stored = &parts.part(chunk, 1).levels;
    let at = sound.windows(stored.len()).position(|w| w == &stored[..]).unwrap();
    let mut bad = sound.clone();
    bad[at + stored.len() / 2] ^= 1;
    let e = fail(&bad, 1);
    assert!(
        codes(&e) == ["E0614"]
            && e.to_string().contains("tile 1 (t1), layer 3")
            && e.to_string().contains("layer1.weight"),
        "{e}"
    );

    // A level changed without its line's checksum names the line.
    let edit = |f: &dyn Fn(&mut Parts)| {
        std::fs::write(&path, &sound).unwrap();
        let mut p = Parts::read(&dir);
        f(&mut p);
        p.write(&dir);
        check(target, &model, &dir, 1)
    };
    assert_eq!(edit(&|_| {}).unwrap(), recorded);
    let e = edit(&|p| {
        let crc = p.part(chunk, 1).line_crc32.clone();
        let mut l = p.levels(chunk, 1);
        l[nx + 7] ^= 1;
        p.set_levels(chunk, 1, &l);
        p.chunks[chunk].parts.iter_mut().find(|p| p.tile == 1).unwrap().line_crc32 = crc;
    })
    .unwrap_err();
    assert!(codes(&e) == ["E0614"] && e.to_string().contains("y = 1"), "{e}");

    // One level changed with all checksums right: found by digest only.
    let e = edit(&|p| {
        let mut l = p.levels(chunk, 1);
        l[nx + 7] ^= 1;
        p.set_levels(chunk, 1, &l);
    })
    .unwrap_err();
    assert_eq!(codes(&e), ["E0616"]);

    // Whole-tile faults, checksums right: found by digest and by what the tile computes.
    let every = |p: &mut Parts, f: Change| {
        let at = p.layers_of(1);
        let old: Vec<Vec<u8>> = at.iter().map(|&i| p.levels(i, 1)).collect();
        for (z, &i) in at.iter().enumerate() {
            let new = f(z, &old);
            p.set_levels(i, 1, &new);
        }
    };
    let faults: [(&str, Change); 4] = [
        ("two layers swapped", &|z, old| {
            old[match z {
                2 => 5,
                5 => 2,
                z => z,
            }]
            .clone()
        }),
        ("one layer shifted by a voxel", &|z, old| {
            let mut l = old[z].clone();
            if z == 4 {
                l.chunks_mut(nx).for_each(|line| line.rotate_right(1));
            }
            l
        }),
        ("depth reversed", &|z, old| old[old.len() - 1 - z].clone()),
        ("x mirrored", &|z, old| old[z].chunks(nx).flat_map(|line| line.iter().rev().copied()).collect()),
    ];
    for (name, fault) in faults {
        let e = edit(&|p| every(p, fault)).unwrap_err();
        assert_eq!(codes(&e), ["E0616", "E0617"], "{name}: {e}");
    }

    // Records changed with their checksums right.
    let e = edit(&|p| p.tiles[1].gain *= 1.05).unwrap_err();
    assert_eq!(codes(&e), ["E0617"], "{e}");
    for (name, code, f) in [
        ("carrier", "E0613", &(|p: &mut Parts| p.tiles[1].carrier += 1) as &dyn Fn(&mut Parts)),
        ("row step", "E0604", &|p| p.tiles[1].output_row_step = 1),
        ("columns", "E0613", &|p| p.tiles[1].columns = 4_000_000_000),
        ("voxels", "E0613", &|p| p.tiles[1].voxels = vec![u32::MAX - 1, u32::MAX - 1, u32::MAX]),
        ("few layers", "E0613", &|p| p.tiles[1].voxels[2] += 1),
        ("no rows", "E0613", &|p| p.tiles[1].rows_in = 0),
        ("gain", "E0613", &|p| p.tiles[1].gain = f64::NAN),
        ("place", "E0613", &|p| p.tiles[1].origin_nm[0] = i64::MAX),
        ("shape", "E0615", &|p| p.tiles[1].inputs = 63),
        ("name", "E0615", &|p| p.tiles[1].name = "other".into()),
        ("wavelength", "E0615", &|p| p.header.wavelength_um = 0.86),
        ("bias", "E0615", &|p| p.header.bias_dn = 0.0),
        ("level table", "E0615", &|p| p.header.levels[2].dn *= 1.1),
        ("pitch", "E0615", &|p| p.header.pitch_nm[2] += 1),
        ("recorded ratio too low", "E0617", &|p| p.tiles[1].snr_db -= 3.0),
        ("recorded ratio too high", "E0617", &|p| p.tiles[1].snr_db += 0.2),
        ("complex ratio", "E0617", &|p| p.tiles[1].snr_complex_db += 3.0),
        ("sign of an input", "E0617", &|p| p.tiles[1].input_signs[0] ^= 1),
        ("too few signs", "E0613", &|p| p.tiles[1].output_signs.truncate(1)),
        ("kappa_min", "E0615", &|p| p.header.kappa_min = 0.0),
        ("order", "E0615", &|p| p.header.order = "surface first".into()),
        ("plate", "E0615", &|p| p.header.plate_nm[2] = 1),
        ("raster", "E0615", &|p| p.header.raster = "field".into()),
        ("stage travel", "E0615", &|p| p.header.stage_z_nm[3] += 1),
        ("a short table of stage travel", "E0613", &|p| p.header.stage_z_nm.truncate(9)),
        ("depth by travel", "E0615", &|p| p.header.depth_ratio = 1.4525),
        ("mark level", "E0615", &|p| p.header.mark_level = 1),
        ("marks at the corners alone", "E0613", &|p| {
            let m = &mut p.zones[0].marks_nm;
            (m[6], m[7]) = (m[2], m[5]);
        }),
        ("no marks", "E0613", &|p| p.zones[0].marks_nm.clear()),
        ("a mark in a zone", "E0613", &|p| p.zones[1].marks_nm[6] += 130_000),
        ("a mark off the plate", "E0613", &|p| p.zones[0].marks_nm[0] = -20_000),
        ("no coupon", "E0613", &|p| p.coupons.clear()),
        ("a patch missing", "E0613", &|p| p.coupons[0].corners_nm.truncate(16)),
        ("patches over each other", "E0613", &|p| p.coupons[0].corners_nm[2] -= 100_000),
        ("a coupon under a zone", "E0613", &|p| {
            let [x, y] = [0, 1].map(|a| p.zones[0].rect_nm[a] + 1_000);
            p.coupons[0].corners_nm.chunks_mut(2).for_each(|c| c.copy_from_slice(&[c[0] - c[0] + x, y]));
        }),
        ("zones without a moat", "E0613", &|p| {
            let shift = p.zones[1].rect_nm[0] - p.zones[0].rect_nm[2] - 700_000;
            p.zones[1].rect_nm[0] -= shift;
        }),
        ("fill", "E0613", &|p| p.zones[0].fill_level = 0),
        ("a zone without margins", "E0613", &|p| p.zones[0].rect_nm[0] += 100_000),
        ("layers of a zone", "E0613", &|p| p.zones[0].layers += 1),
        ("a foreign tile in a zone", "E0613", &|p| p.zones[0].tiles.push(77)),
        ("off the raster", "E0613", &|p| p.tiles[1].origin_nm[0] += 1),
        ("two tiles in one place", "E0613", &|p| p.tiles[1].origin_nm = p.tiles[0].origin_nm.clone()),
        ("tiles of a line in another order", "E0620", &|p| p.chunks.last_mut().unwrap().parts.reverse()),
        ("lines of two tiles in two chunks", "E0620", &|p| {
            let mut second = p.chunks.last().unwrap().clone();
            second.parts.remove(0);
            p.chunks.last_mut().unwrap().parts.truncate(1);
            p.chunks.push(second);
        }),
        ("no tile", "E0615", &|p| {
            p.tiles.remove(1);
            p.chunks.iter_mut().for_each(|c| c.parts.retain(|t| t.tile != 1));
        }),
    ] {
        let result = edit(&|p| {
            f(p);
        });
        match result {
            Err(e) => assert!(codes(&e).contains(&code), "{name}: {e}"),
            Ok(db) => panic!("{name}: accepted at {db} dB"),
        }
    }

    // Other weights than those the schedule was made for.
    std::fs::write(&path, &sound).unwrap();
    let back = target.read_back(&model.program, &dir, &NoProgress).unwrap();
    let TileContent::Real(mut w) = model.reference(1) else { panic!("not real") };
    w.values[5] += 0.05;
    let e = back.check(TileId(1), &TileContent::Real(w)).unwrap_err();
    assert!(codes(&e).contains(&"E0618"), "{e}");
}

#[test]
fn programs_glass_cannot_hold_are_refused_with_their_tensors() {
    let target = fast();
    let e = target.plan(&Model::new(&[(2000, 3), (8, 8), (3, 1025)]).program).err().unwrap();
    assert_eq!(codes(&e), ["E0602", "E0602"]);
    assert!(e.to_string().contains("layer0.weight") && e.to_string().contains("layer2.weight"), "{e}");
    let mut model = Model::new(&[(8, 8)]);
    model.content.get_mut(&0).unwrap().values[3] = f32::NAN;
    let e = model.emit(target.as_ref(), &folder("nan")).unwrap_err();
    assert_eq!(codes(&e), ["E0609"]);
    let strict =
        open(&process(&[("flip_steps = 60", "flip_steps = 0"), ("snr_min_db = 30.0", "snr_min_db = 40.0")]));
    let e = Model::new(&[(32, 32)]).emit(strict.as_ref(), &folder("strict")).unwrap_err();
    assert_eq!(codes(&e), ["E0608"]);
}

#[test]
fn tiles_against_multiple_scattering_are_read_back_with_it() {
    let strong = [
        ("rows_max = 8 ", "rows_max = 1 "),
        ("dn_rms = 4.0e-5", "dn_rms = 8.0e-4"),
        ("dn_max = 1.0e-3", "dn_max = 1.0e-2"),
        ("snr_target_db = 46.5", "snr_target_db = 42.0"),
        ("propagation_rounds = 0", "propagation_rounds = 4"),
    ];
    let (target, plain) = (open(&process(&strong)), open(&process(&strong[..4])));
    let model = Model::new(&[(16, 16)]);
    let dir = folder("propagated");
    let emission = model.emit(target.as_ref(), &dir).unwrap_or_else(|e| panic!("{e}"));
    let snr = check(target.as_ref(), &model, &dir, 0).unwrap_or_else(|e| panic!("{e}"));
    assert!(snr > 40.0 && (snr - emission.tiles[0].measures["snr_db"]).abs() < 0.01, "{snr}");
    assert!(emission.figures.iter().all(|f| !f.name.contains("multiple scattering")));
    // A process without rounds reads the same levels to first order: that is refused, and what it would compute fails.
    assert_eq!(codes(&check(plain.as_ref(), &model, &dir, 0).unwrap_err()), ["E0615"]);
    let mut parts = Parts::read(&dir);
    parts.header.propagated = false;
    parts.write(&dir);
    let e = check(plain.as_ref(), &model, &dir, 0).unwrap_err();
    assert_eq!(codes(&e), ["E0617"], "{e}");
    // A draw of the writer's noise has it too.
    model.emit(target.as_ref(), &dir).unwrap_or_else(|e| panic!("{e}"));
    let back = target.read_back(&model.program, &dir, &NoProgress).unwrap();
    let TileContent::Real(drawn) = back.disturbed(TileId(0), 1).unwrap().unwrap().content else {
        panic!("not real")
    };
    let db = pfmc_ir::numerics::snr_db(&model.content[&0].values, &drawn.values);
    assert!(db > 26.0, "{db}");
    // Tiles that are too large are refused before anything is designed.
    let large = open(&process(&strong[4..]));
    let e = large.plan(&Model::new(&[(16, 16), (512, 512)]).program).err().unwrap();
    assert_eq!(codes(&e), ["E0624"], "{e}");
}

#[test]
fn the_plan_has_its_figures_before_anything_is_written() {
    let target = fast();
    let model = Model::new(&[(384, 384), (384, 1024)]);
    let plan = target.plan(&model.program).unwrap();
    let get = |name: &str| plan.figures().iter().find(|f| f.name == name).map(|f| f.value).unwrap();
    assert_eq!((get("tiles"), get("plates")), (2.0, 1.0));
    let a_weight = get("voxels a used weight");
    assert!((36.0..40.0).contains(&a_weight), "{a_weight}");
    assert!(get("written voxels") > get("tile voxels") && get("write time") > get("written voxels") / 1e7);
}
