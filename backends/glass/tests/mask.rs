//! Masks of half-wave pixels: emit, read back and check, and faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::parts::Parts;
use common::{Model, folder, mask, open};
use pfmc_glass::schedule;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::tile::{Scheme, TileContent, TileId};

const SHAPES: [(u32, u32); 6] = [(64, 64), (1, 1), (40, 3), (2, 41), (130, 97), (64, 64)];

fn codes(e: &Diagnostics) -> Vec<&'static str> {
    e.0.iter().map(|d| d.code.id).collect()
}

#[test]
fn what_is_written_is_read_back_and_is_the_weights() {
    // Two levels a byte where they are few, lines of an odd number of pixels too.
    for (levels, bits, least_db) in [("count = 65", 8, 26.0), ("count = 15", 4, 12.0)] {
        let p = mask(&[("count = 65", levels), ("snr_min_db = 15.0", "snr_min_db = 10.0")]);
        let target = open(&p);
        let mut model = Model::new(&SHAPES);
        model.content.get_mut(&5).unwrap().values.fill(0.0);
        let dir = folder(&format!("mask-{bits}"));
        let emission = model.emit(target.as_ref(), &dir).unwrap_or_else(|e| panic!("{e}"));
        let back = target.read_back(&model.program, &dir, &NoProgress).unwrap_or_else(|e| panic!("{e}"));
        for (id, record) in emission.tiles.iter().enumerate() {
            let (id, reference) = (TileId(id as u32), model.reference(id as u32));
            let measures = back.check(id, &reference).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(measures.keys().collect::<Vec<_>>(), record.measures.keys().collect::<Vec<_>>());
            for (name, value) in &measures {
                assert!((value - record.measures[name]).abs() < 1e-3, "{id} {name}: {value}");
            }
            assert_eq!(measures["voxels_per_weight"], 5.0);
            assert_eq!(back.region(id).unwrap(), record.region);
            let (TileContent::Real(got), TileContent::Real(want)) = (back.tile(id).unwrap(), reference)
            else {
                panic!("not real")
            };
            let db = pfmc_ir::numerics::snr_db(&want.values, &got.values);
            assert!(
                if id.0 == 5 { got.values.iter().all(|v| *v == 0.0) } else { db > least_db },
                "{id}: {db}"
            );
        }
        let parts = Parts::read(&dir);
        assert_eq!((parts.header.method.as_str(), parts.header.level_bits), ("mask", bits));
        // A pixel is five layers of one azimuth.
        let layers = parts.layers_of(4);
        assert_eq!(layers.len(), 5);
        if bits == 8 {
            let stack: Vec<Vec<u8>> = layers.iter().map(|l| parts.levels(*l, 4)).collect();
            assert!(stack.iter().all(|l| l == &stack[0] && l.len() == 130 * 97));
        }
        let figure = |name: &str| emission.figures.iter().find(|f| f.name == name).map(|f| f.value);
        assert!(figure("all tiles, with noise").unwrap() < figure("all tiles, levels").unwrap());
        assert!(figure("  of it azimuth").is_some() && figure("1 dB: turn about the light").is_some());
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let (target, model) = (open(&mask(&[])), Model::new(&SHAPES));
    model.same_on_any_threads(target.as_ref(), "mask-threads");
}

#[test]
fn a_draw_of_the_nominal_noise_is_what_the_budget_says() {
    let (target, model) = (open(&mask(&[])), Model::new(&[(96, 80)]));
    let dir = folder("mask-noise");
    let emission = model.emit(target.as_ref(), &dir).unwrap();
    let back = target.read_back(&model.program, &dir, &NoProgress).unwrap();
    let TileContent::Real(want) = model.reference(0) else { panic!("not real") };
    let ratios = (1..5).map(|seed| {
        let drawn = back.disturbed(TileId(0), seed).unwrap().unwrap();
        let TileContent::Real(got) = drawn.content else { panic!("not real") };
        let error = 10f64.powf(-pfmc_ir::numerics::snr_db(&want.values, &got.values) / 10.0);
        error + drawn.reading
    });
    let ratios: Vec<f64> = ratios.collect();
    let drawn = -10.0 * (ratios.iter().sum::<f64>() / ratios.len() as f64).log10();
    let said = emission.reached.unwrap();
    println!("drawn {drawn:.2} dB, budget {:.2} dB, most by {}", said.db, said.limit);
    assert!((drawn - said.db).abs() < 0.5 && said.limit == "azimuth", "{drawn} {said:?}");
}

#[test]
fn damage_and_what_a_mask_cannot_hold_are_named() {
    let (target, model) = (open(&mask(&[])), Model::new(&[(48, 40), (64, 64)]));
    let dir = folder("mask-damage");
    model.emit(target.as_ref(), &dir).unwrap();
    let sound = std::fs::read(dir.join(schedule::FILE)).unwrap();
    let check = |f: &dyn Fn(&mut Parts)| {
        let mut p = Parts::of(&sound);
        f(&mut p);
        p.write(&dir);
        let back = target.read_back(&model.program, &dir, &NoProgress)?;
        back.check(TileId(1), &model.reference(1)).map(|_| ())
    };
    check(&|_| {}).unwrap();
    let e = check(&|p| {
        for layer in p.layers_of(1) {
            let l = p.levels(layer, 1);
            let mirrored: Vec<u8> = l.chunks(64).flat_map(|l| l.iter().rev().copied()).collect();
            p.set_levels(layer, 1, &mirrored);
        }
    });
    assert_eq!(codes(&e.unwrap_err()), ["E0616", "E0617"]);
    let e = check(&|p| p.tiles[1].column_scales[3] *= 1.2);
    assert_eq!(codes(&e.unwrap_err()), ["E0617"]);
    let e = check(&|p| p.header.levels[7].azimuth_deg = Some(1.0));
    assert_eq!(codes(&e.unwrap_err()), ["E0615"]);
    std::fs::write(dir.join(schedule::FILE), &sound).unwrap();
    // The schedule of a mask is none of a hologram.
    let hologram = open(&common::process(&[]));
    let e = hologram.read_back(&model.program, &dir, &NoProgress).err().unwrap();
    assert!(codes(&e).iter().all(|c| *c == "E0615") && e.to_string().contains("method"), "{e}");

    let limit = target.tile_limit(Scheme::Real).unwrap();
    assert_eq!((limit.k, limit.n), (512, 512));
    let e = target.plan(&Model::new(&[(513, 3), (8, 8), (3, 600)]).program).err().unwrap();
    assert_eq!(codes(&e), ["E0602", "E0602"]);
    let strict = open(&mask(&[("snr_min_db = 15.0", "snr_min_db = 50.0")]));
    assert_eq!(codes(&model.emit(strict.as_ref(), &folder("mask-strict")).unwrap_err()), ["E0608"; 2]);
}

#[test]
fn only_tiles_are_written_and_every_spot_counts() {
    let (target, model) = (open(&mask(&[])), Model::new(&[(100, 100)]));
    let plan = target.plan(&model.program).unwrap();
    let get = |name: &str| plan.figures().iter().find(|f| f.name == name).map(|f| f.value).unwrap();
    assert_eq!((get("tile voxels"), get("voxels a used weight")), (5e4, 5.0));
    // Marks are four squares of 2 x 2 voxels, 66 patches of 10 x 10 in 5 layers.
    assert_eq!(get("written voxels"), 5e4 + 16.0 + 66.0 * 500.0);
    // A hundred spots a voxel, a million a second; lines go on over the glass beside the tile.
    assert!(
        get("  of it exposure") > get("written voxels") / 1e4
            && get("  of it exposure") < 2.0 * get("written voxels") / 1e4
    );
}
