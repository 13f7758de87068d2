//! Pictures of an output folder, and the voxels of a glass folder's tiles for other programs.
//!
//! Bytes depend on the folder alone. Rectangles are drawn in order, later ones over earlier ones.

mod asic;
pub mod glass;
mod png;
mod svg;
mod voxels;

use std::path::{Path, PathBuf};

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::codes::E0005;
use crate::files::io_error;
use crate::handoff::Asic;
use crate::manifest::{Manifest, TileEntry};
use glass::Glass;

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Pictures in pixels.
    Png,
    /// Pictures in vectors.
    Svg,
    /// Glass: a stack of 16-bit pages a tile, one a layer, of level numbers.
    Tiff,
    /// Glass: a Zarr (version 2) group with an array of level numbers a tile.
    Zarr,
    /// Glass: OOMMF's vector field format 2.0, a file a tile, of index changes.
    Ovf,
    /// Glass: a folder a tile of grey maps, one a layer, of level numbers.
    Pgm,
    /// Glass: points of one tile for a two-photon printer (GWL), text.
    Gwl,
}

impl Format {
    /// Whether it is one of voxels, not a picture.
    fn is_voxels(self) -> bool {
        !matches!(self, Format::Png | Format::Svg)
    }
}

/// Rectangle `[x0, y0, x1, y1]`, y upwards.
type Area = [i64; 4];

/// What a picture shows. Lengths are in nanometres, or another unit that suits it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scene {
    /// Lower left and upper right corner.
    pub area: Area,
    /// Rectangles with their colours.
    pub shapes: Vec<(Area, [u8; 3])>,
    /// Texts with the centre and the height of their letters.
    pub texts: Vec<([i64; 2], i64, String)>,
}

/// Writes an output folder in a format into folder `out`, which is made; the files or folders written.
///
/// Pictures of target asic: `die<N>`, `macro` (where the process describes macros) and `cells`; of target glass: `plate<N>`, and
/// of one tile `slice`, `ports`, `weights`. `tile` names the only tile that is shown or written; without it pictures show the
/// one with the lowest signal-to-noise ratio, and the voxels of all are written.
///
/// # Errors
/// A damaged folder, a format or tile that its target has not, and input/output.
pub fn export(
    folder: &Path,
    format: Format,
    tile: Option<&str>,
    out: &Path,
) -> Result<Vec<PathBuf>, Diagnostics> {
    let target = Manifest::read(folder)?.target;
    let glass = target == "glass";
    let voxels = format.is_voxels();
    if !glass && (voxels || tile.is_some()) {
        let text = format!("voxels and single tiles are of target glass, the folder is of target {target}");
        return Err(Diagnostic::error(&E0005, text).help("give --format svg or png, and no --tile").into());
    }
    let make = || std::fs::create_dir_all(out).map_err(|e| Diagnostics::from(io_error("create", out, &e)));
    if voxels {
        let glass = Glass::open(folder)?;
        let tiles = glass.tiles(tile)?;
        if format != Format::Gwl {
            make()?;
        }
        return match format {
            Format::Tiff => voxels::tiff(&glass, &tiles, out),
            Format::Ovf => voxels::ovf(&glass, &tiles, out),
            Format::Pgm => voxels::pgm(&glass, &tiles, out),
            Format::Gwl => voxels::gwl(&glass, &tiles, out),
            _ => voxels::zarr(&glass, &tiles, out),
        };
    }
    let scenes =
        if glass { glass::scenes(&Glass::open(folder)?, tile)? } else { asic::scenes(&Asic::open(folder)?)? };
    make()?;
    let mut written = Vec::new();
    for (name, scene) in scenes {
        let (bytes, ending) = match format {
            Format::Png => (png::draw(&scene), "png"),
            _ => (svg::draw(&scene).into_bytes(), "svg"),
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

/// The layers of a model in the order in which their tiles come.
#[derive(Debug, Clone, Default)]
struct Layers(Vec<String>);

impl Layers {
    /// The colour of a tile's layer.
    fn colour(&mut self, tile: &TileEntry) -> [u8; 3] {
        let name = tile.origin.tensor.as_deref().or(tile.origin.nodes.first().map(String::as_str));
        let layer = layer_of(name.unwrap_or("data"));
        hue(self.0.iter().position(|l| l == layer).unwrap_or_else(|| {
            self.0.push(layer.to_owned());
            self.0.len() - 1
        }))
    }

    /// Adds a list of the layers with their colours at the right of a scene, which gets room for it where it is flat.
    fn list(&self, scene: &mut Scene) {
        let [left, bottom, right, top] = scene.area;
        let width = right - left;
        let height = (top - bottom).max(width / 3);
        scene.area[1] = top - height;
        let line = (height / 40).max(width / 60).max(1);
        let rows = (height / line).max(1);
        for (i, layer) in self.0.iter().enumerate() {
            let (column, row) = (i as i64 / rows, i as i64 % rows);
            let (x, y) = (right + line + column * 12 * line, top - row * line);
            scene.shapes.push(([x, y - line * 4 / 5, x + line, y - line / 5], hue(i)));
            scene.texts.push(([x + line * 13 / 2, y - line / 2], line * 3 / 5, layer.clone()));
        }
        let columns = (self.0.len() as i64 + rows - 1) / rows;
        scene.area[2] += line * (1 + 12 * columns);
    }
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
        // The text at (1000, 500) is black on the red; without it nothing is.
        let black = |pixels: &[u8]| pixels.chunks_exact(3).filter(|p| *p == [0; 3]).count();
        assert!(black(&pixels) > 200, "{}", black(&pixels));
        let bytes = png::draw(&Scene { texts: Vec::new(), ..scene() });
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(black(&pixels), 0);
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
