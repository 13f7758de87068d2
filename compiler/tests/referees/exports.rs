//! Exported voxels, read by the programs they are for.

use std::path::Path;

use pfmc::export::{Format, export};
use pfmc::verify::open;
use pfmc_ir::tile::TileId;

use crate::common::referee::{script_of, tool};
use crate::common::{build, options};

#[test]
fn exports_hold_the_voxels_of_the_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let [folder, out] = ["folder", "out"].map(|name| dir.path().join(name));
    build(&options("bert.onnx", "glass", &folder)).unwrap();
    let opened = open(&folder).unwrap();
    let held: Vec<(TileId, String)> = (opened.program.tiles())
        .filter(|(id, _)| opened.program.matrix_tile(*id).is_some())
        .map(|(id, tile)| (id, tile.name.clone()))
        .collect();
    assert_eq!(export(&folder, Format::Tiff, None, &out).unwrap().len(), held.len());
    assert_eq!(export(&folder, Format::Zarr, None, &out).unwrap(), [out.join("tiles.zarr")]);
    let shown = [&held[0], &held[held.len() - 1]];
    for format in [Format::Ovf, Format::Pgm, Format::Gwl] {
        for (_, name) in shown {
            assert_eq!(export(&folder, format, Some(name), &out).unwrap().len(), 1);
        }
    }
    let differs = |(id, name): &(TileId, String), shown: &str| {
        let text = |path: &Path| path.display().to_string();
        let args = [
            text(&folder.join("schedule.pfmg")),
            id.0.to_string(),
            name.clone(),
            text(&out),
            shown.to_owned(),
        ];
        script_of(&tool("waves/bin/python"), "glass/exports.py", &args)
    };
    for tile in shown {
        assert_eq!(differs(tile, &tile.1), "");
    }
    // Another tile's voxels are told apart in every format.
    let other = differs(shown[0], &shown[1].1);
    for what in ["stack", "array", "field", "maps", "points"] {
        assert!(other.lines().any(|l| l.starts_with(what)), "{what}: {other}");
    }
}
