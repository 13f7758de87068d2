//! Scenes as PNG. Letters are those of an 8 x 8 font, larger by whole numbers; texts too small for it are left out.

use font8x8::{BASIC_FONTS, UnicodeFonts};

use super::Scene;

/// Pixels of the longer side.
pub const LONGEST: u32 = 1200;

/// The scene, 8 bits a colour. A rectangle covers at least one pixel.
pub fn draw(scene: &Scene) -> Vec<u8> {
    let [x0, y0, x1, y1] = scene.area;
    let (width, height) = ((x1 - x0).max(1), (y1 - y0).max(1));
    let longer = width.max(height);
    // 64-bit products of nanometres and pixels stay far below 2^63.
    let pixel = |nm: i64| (nm * i64::from(LONGEST) / longer).clamp(0, i64::from(LONGEST)) as usize;
    let (w, h) = (pixel(width).max(1), pixel(height).max(1));
    let mut pixels = vec![255u8; w * h * 3];
    for &([a, b, c, d], colour) in &scene.shapes {
        let (left, top) = (pixel(a - x0), pixel(y1 - d));
        let (right, bottom) = (pixel(c - x0).max(left + 1).min(w), pixel(y1 - b).max(top + 1).min(h));
        for row in pixels.chunks_exact_mut(w * 3).take(bottom).skip(top) {
            for at in row.chunks_exact_mut(3).take(right).skip(left) {
                at.copy_from_slice(&colour);
            }
        }
    }
    for ([x, y], size, text) in &scene.texts {
        let larger = pixel(*size) / 7;
        let (left, top) = (pixel(x - x0), pixel(y1 - y));
        let letters = text.chars().filter_map(|c| BASIC_FONTS.get(c)).enumerate().filter(|_| larger > 0);
        let [half_width, half_height] = [text.chars().count() * 4 * larger, 4 * larger];
        for (i, letter) in letters {
            for (row, bits) in letter.into_iter().enumerate() {
                let dots = (0..8).filter(|b| bits >> b & 1 == 1);
                for (dx, dy) in dots.flat_map(|b| {
                    (0..larger * larger)
                        .map(move |n| ((8 * i + b) * larger + n % larger, row * larger + n / larger))
                }) {
                    let at = (left + dx).checked_sub(half_width).zip((top + dy).checked_sub(half_height));
                    if let Some((px, py)) = at.filter(|&(px, py)| px < w && py < h) {
                        pixels[(py * w + px) * 3..][..3].fill(0);
                    }
                }
            }
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, w as u32, h as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Writing into memory does not fail.
    if let Ok(mut writer) = encoder.write_header() {
        let _ = writer.write_image_data(&pixels);
    }
    bytes
}
