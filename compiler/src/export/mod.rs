//! Pictures of an output folder of the asic target: floorplans of dies, a macro, cells with their bits.
//!
//! Bytes depend on the folder alone. Rectangles are drawn in order, later ones over earlier ones; texts are in SVG only.

mod png;
mod svg;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pfmc_asic::encode;
use pfmc_asic::macros::views::colour;
use pfmc_asic::macros::{Macro, MacroShape};
use pfmc_asic::process::Process;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::tile::TileSource;

use crate::files::io_error;
use crate::handoff::Asic;

/// A format of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Pixels, no texts.
    Png,
    /// Vectors.
    Svg,
}

/// Rectangle `[x0, y0, x1, y1]` in nanometres, y upwards.
type Area = [i64; 4];

/// What a picture shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scene {
    /// Lower left and upper right corner.
    pub area: Area,
    /// Rectangles with their colours.
    pub shapes: Vec<(Area, [u8; 3])>,
    /// Texts with the centre and the height of their letters.
    pub texts: Vec<([i64; 2], i64, String)>,
}

/// Word lines and bit lines of the picture of cells.
const CELLS: [u32; 2] = [8, 12];

/// Writes `die<N>`, `macro` (where the process describes macros) and `cells` into folder `out`; the files.
///
/// # Errors
/// A folder that is not of the asic target or is damaged, and input/output.
pub fn export(folder: &Path, format: Format, out: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    let asic = Asic::open(folder)?;
    let mut scenes: Vec<(String, Scene)> =
        dies(&asic).into_iter().map(|(d, s)| (format!("die{d}"), s)).collect();
    let shapes = if asic.process.periphery { asic.shapes()? } else { BTreeMap::new() };
    if let Some((shape, _)) = shapes.into_iter().next_back() {
        scenes.push(("macro".into(), rom(&asic.process, shape)?));
    }
    if let Some(scene) = cells(&asic)? {
        scenes.push(("cells".into(), scene));
    }
    std::fs::create_dir_all(out).map_err(|e| io_error("create", out, &e))?;
    let mut written = Vec::new();
    for (name, scene) in scenes {
        let (bytes, ending) = match format {
            Format::Png => (png::draw(&scene), "png"),
            Format::Svg => (svg::draw(&scene).into_bytes(), "svg"),
        };
        let path = out.join(format!("{name}.{ending}"));
        std::fs::write(&path, bytes).map_err(|e| io_error("write", &path, &e))?;
        written.push(path);
    }
    Ok(written)
}

/// The layer of a model that a tensor's name tells: the name up to its first number.
fn layer_of(tensor: &str) -> &str {
    let start = tensor.find(|c: char| c.is_ascii_digit()).unwrap_or(tensor.len());
    let end = tensor[start..].find(|c: char| !c.is_ascii_digit()).map_or(tensor.len(), |n| start + n);
    &tensor[..end]
}

/// Colour `i` of a sequence whose neighbours differ: hues a golden ratio of the circle apart.
fn hue(i: usize) -> [u8; 3] {
    let h = (i * 989) % 1600;
    let part = |shift: usize| {
        let x = (h + shift) % 1600;
        // 0 to 1 to 0 over the circle, cut at a third.
        let d = (x as i64 - 800).unsigned_abs();
        (70 + (d.clamp(270, 530) - 270) * 150 / 260) as u8
    };
    [part(0), part(533), part(1066)]
}

/// Each die with its tiles in the colours of the model's layers, and a list of these.
fn dies(asic: &Asic) -> BTreeMap<u64, Scene> {
    let mut scenes: BTreeMap<u64, Scene> = BTreeMap::new();
    let mut layers: Vec<String> = Vec::new();
    for tile in &asic.opened.manifest.tiles {
        let Some(region) = &tile.region else { continue };
        let die = tile.measures.get("die").map_or(0, |d| d.max(0.0) as u64);
        let name = tile.origin.tensor.as_deref().or(tile.origin.nodes.first().map(String::as_str));
        let layer = layer_of(name.unwrap_or("data"));
        let index = layers.iter().position(|l| l == layer).unwrap_or_else(|| {
            layers.push(layer.to_owned());
            layers.len() - 1
        });
        let area = [region.min_nm[0], region.min_nm[1], region.max_nm[0], region.max_nm[1]];
        let scene = scenes.entry(die).or_default();
        scene.shapes.push((area, hue(index)));
        // The outline of the tile's lanes lies below its macro, in a paler shade.
        if let Some(height) = tile.measures.get("lanes_height_nm") {
            let pale = hue(index).map(|c| c / 3 + 170);
            scene.shapes.push(([area[0], area[1] - height.max(0.0) as i64, area[2], area[1]], pale));
        }
        scene.area = [0, 0, scene.area[2].max(area[2]), scene.area[3].max(area[3])];
    }
    for scene in scenes.values_mut() {
        let [_, _, width, height] = scene.area;
        scene.shapes.insert(0, ([0, 0, width, height], [0xf0, 0xf0, 0xf0]));
        // A list at the right.
        let line = (height / 40).max(width / 60).max(1);
        let rows = (height / line).max(1);
        for (i, layer) in layers.iter().enumerate() {
            let (column, row) = (i as i64 / rows, i as i64 % rows);
            let (x, y) = (width + line + column * 12 * line, height - row * line);
            scene.shapes.push(([x, y - line * 4 / 5, x + line, y - line / 5], hue(i)));
            scene.texts.push(([x + line * 13 / 2, y - line / 2], line * 3 / 5, layer.clone()));
        }
        let columns = (layers.len() as i64 + rows - 1) / rows;
        scene.area[2] += line * (1 + 12 * columns);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Scene {
        Scene {
            area: [0, 0, 4000, 2000],
            shapes: vec![([0, 0, 4000, 2000], [255, 255, 255]), ([0, 0, 2000, 1000], [255, 0, 0])],
            texts: vec![([1000, 500], 200, "a<b".into())],
        }
    }

    #[test]
    fn pixels_are_those_of_the_rectangles_with_y_upwards() {
        let bytes = png::draw(&scene());
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let (w, h) = (info.width as usize, info.height as usize);
        assert_eq!((w, h), (png::LONGEST as usize, png::LONGEST as usize / 2));
        let at = |x: usize, y: usize| &pixels[(y * w + x) * 3..][..3];
        assert_eq!(
            (at(1, h - 2), at(w - 2, h - 2), at(1, 1)),
            (&[255, 0, 0][..], &[255; 3][..], &[255; 3][..])
        );
        assert_eq!(bytes, png::draw(&scene()));
    }

    #[test]
    fn vectors_escape_texts_and_turn_y() {
        let text = svg::draw(&scene());
        assert!(text.contains("a&lt;b") && text.contains("viewBox=\"0 0 4000 2000\""), "{text}");
        assert!(
            text.contains("<rect x=\"0\" y=\"1000\" width=\"2000\" height=\"1000\" fill=\"#ff0000\"/>"),
            "{text}"
        );
    }

    #[test]
    fn a_layer_is_a_name_up_to_its_number() {
        assert_eq!(layer_of("model.layers.12.mlp.3.weight"), "model.layers.12");
        assert_eq!((layer_of("lm_head"), layer_of("")), ("lm_head", ""));
        let all: Vec<_> = (0..12).map(hue).collect();
        assert!((0..12).all(|i| !all[..i].contains(&all[i])));
    }
}
