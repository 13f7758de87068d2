//! Exported voxels, read by the programs they are for.

use std::path::Path;

use pfmc::export::{Format, export};
use pfmc::verify::open;
use pfmc_ir::tile::TileId;

use crate::common::referee::{script_of, tool};
use crate::common::{build, options};

#[test]
fn stacks_and_arrays_hold_the_voxels_of_the_schedule() {
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
    let differs = |(id, name): &(TileId, String), stack: &Path| {
        let [schedule, group] = [folder.join("schedule.pfmg"), out.join("tiles.zarr")];
        let text = |path: &Path| path.display().to_string();
        let args = [text(&schedule), name.clone(), id.0.to_string(), text(stack), text(&group)];
        script_of(&tool("waves/bin/python"), "glass/exports.py", &args)
    };
    let stack = |name: &str| out.join(format!("{name}.tif"));
    for tile in [&held[0], &held[held.len() - 1]] {
        assert_eq!(differs(tile, &stack(&tile.1)), "");
    }
    // Another tile's stack is told apart.
    assert!(differs(&held[0], &stack(&held[1].1)).contains("stack"));
}
