//! Scenes as PNG.

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
