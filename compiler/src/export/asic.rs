//! Scenes of the asic target: floorplans of dies, a macro, cells with their bits.

use std::collections::BTreeMap;

use pfmc_asic::encode;
use pfmc_asic::macros::views::colour;
use pfmc_asic::macros::{Macro, MacroShape};
use pfmc_asic::process::Process;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::tile::TileSource;

use super::{Layers, Scene};
use crate::handoff::Asic;

/// Word lines and bit lines of the picture of cells.
const CELLS: [u32; 2] = [8, 12];

/// `die<N>`, `macro` where the process describes macros, and `cells`.
///
/// # Errors
/// A damaged folder.
pub fn scenes(asic: &Asic) -> Result<Vec<(String, Scene)>, Diagnostics> {
    let mut scenes: Vec<(String, Scene)> =
        dies(asic).into_iter().map(|(d, s)| (format!("die{d}"), s)).collect();
    let shapes = if asic.process.periphery { asic.shapes()? } else { BTreeMap::new() };
    if let Some((shape, _)) = shapes.into_iter().next_back() {
        scenes.push(("macro".into(), rom(&asic.process, shape)?));
    }
    if let Some(scene) = cells(asic)? {
        scenes.push(("cells".into(), scene));
    }
    Ok(scenes)
}

/// Each die with its tiles in the colours of the model's layers, and a list of these.
fn dies(asic: &Asic) -> BTreeMap<u64, Scene> {
    let mut scenes: BTreeMap<u64, Scene> = BTreeMap::new();
    let mut layers = Layers::default();
    for tile in &asic.opened.manifest.tiles {
        let Some(region) = &tile.region else { continue };
        let die = tile.measures.get("die").map_or(0, |d| d.max(0.0) as u64);
        let shade = layers.colour(tile);
        let area = [region.min_nm[0], region.min_nm[1], region.max_nm[0], region.max_nm[1]];
        let scene = scenes.entry(die).or_default();
        scene.shapes.push((area, shade));
        // The outline of the tile's lanes lies below its macro, in a paler shade.
        if let Some(height) = tile.measures.get("lanes_height_nm") {
            let pale = shade.map(|c| c / 3 + 170);
            scene.shapes.push(([area[0], area[1] - height.max(0.0) as i64, area[2], area[1]], pale));
        }
        scene.area = [0, 0, scene.area[2].max(area[2]), scene.area[3].max(area[3])];
    }
    for scene in scenes.values_mut() {
        scene.shapes.insert(0, (scene.area, [0xf0, 0xf0, 0xf0]));
        layers.list(scene);
    }
    scenes
}

/// A macro: what its metals block, its power straps and its pins.
fn rom(process: &Process, shape: MacroShape) -> Result<Scene, Diagnostics> {
    let outline = Macro::new(process, shape)?.outline()?;
    let [width, height] = outline.size;
    let mut scene = Scene { area: [0, 0, width, height], ..Scene::default() };
    scene.shapes.push((scene.area, [0xf4, 0xf0, 0xe4]));
    let shades =
        [[0xd0, 0xdc, 0xf0], [0xe8, 0xe0, 0xc8], [0xf0, 0xd4, 0xd4], [0xd4, 0xec, 0xd4], [0xe4, 0xd4, 0xf0]];
    for ((name, area), shade) in Macro::new(process, shape)?.blocks()?.into_iter().zip(shades) {
        scene.shapes.push((area, shade));
        scene.texts.push(([(area[0] + area[2]) / 2, (area[1] + area[3]) / 2], height / 40, name.to_owned()));
    }
    let line = outline.obstructions.iter().filter(|(metal, _)| *metal == "met4");
    scene.shapes.extend(line.map(|(_, area)| (*area, colour("met4"))));
    for pin in &outline.pins {
        for (metal, area) in &pin.shapes {
            let power = pin.name.starts_with('V');
            let shade = match pin.name.as_str() {
                "VPWR" => [0xe0, 0x80, 0x80],
                "VGND" => [0x80, 0x80, 0xe0],
                _ => colour(metal),
            };
            scene.shapes.push((*area, shade));
            if !power {
                scene.texts.push(([(area[0] + area[2]) / 2, area[3] + 300], 250, pin.name.clone()));
            }
        }
    }
    Ok(scene)
}

/// The first cells of the first tile, with their bits; none where there is no tile with room for them.
fn cells(asic: &Asic) -> Result<Option<Scene>, Diagnostics> {
    let (p, c) = (&asic.process, &asic.process.cell);
    let [rows, columns] = CELLS;
    for (id, tile) in asic.opened.program.tiles() {
        let (contents, shape) = encode::contents(p, &asic.opened.program, id)?;
        if shape.word_lines < rows || shape.bit_lines < columns {
            continue;
        }
        let bits = encode::bits(contents, shape, &asic.reference.tile(id)?, tile)?;
        let group = shape.row_groups(p).next().unwrap_or(rows);
        let nodes = encode::nodes(&bits, 0, group as usize);
        let (width, height) = (i64::from(columns) * c.pitch_x_nm, i64::from(rows) * c.pitch_y_nm);
        let mut scene = Scene { area: [-200, -300, width + 200, height + 300], ..Scene::default() };
        scene.shapes.push((scene.area, [0xff, 0xff, 0xff]));
        let every = |f: &mut dyn FnMut(i64, usize)| {
            (0..columns as usize).for_each(|i| f(i as i64 * c.pitch_x_nm, i));
        };
        let [bottom, top] = [-c.diff_overhang_nm, height + c.diff_overhang_nm];
        every(&mut |x, _| {
            scene.shapes.push(([x + c.diff_x_nm[0], bottom, x + c.diff_x_nm[1], top], colour("diff")));
        });
        for row in 0..i64::from(rows) {
            let y = row * c.pitch_y_nm;
            scene.shapes.push(([-200, y + c.gate_y_nm[0], width + 200, y + c.gate_y_nm[1]], colour("poly")));
        }
        every(&mut |x, _| {
            for (span, shade) in [(c.bit_line_x_nm, [0x9c, 0xbc, 0xf0]), (c.ground_x_nm, [0xc8, 0xc8, 0xd0])]
            {
                scene.shapes.push(([x + span[0] + 60, bottom, x + span[1] - 60, top], shade));
            }
        });
        for node in 0..=rows as usize {
            every(&mut |x, i| {
                let tied = nodes.get(node, i);
                let span = if tied { c.cut_bit_line_x_nm } else { c.cut_ground_x_nm };
                let y = node as i64 * c.pitch_y_nm;
                scene.shapes.push((
                    [x + span[0], y + c.cut_y_nm[0], x + span[1], y + c.cut_y_nm[1]],
                    colour(p.levels().cut.name),
                ));
            });
        }
        for row in 0..rows as usize {
            every(&mut |x, i| {
                let y = row as i64 * c.pitch_y_nm + (c.gate_y_nm[0] + c.gate_y_nm[1]) / 2;
                let x = x + (c.diff_x_nm[0] + c.diff_x_nm[1]) / 2;
                let one = bits.get(row, i);
                let shade = if one { [0xff, 0xe0, 0x40] } else { [0xff, 0xff, 0xff] };
                scene.shapes.push(([x - 75, y - 70, x + 75, y + 70], shade));
                scene.texts.push(([x, y], 140, if one { "1" } else { "0" }.to_owned()));
            });
        }
        return Ok(Some(scene));
    }
    Ok(None)
}
