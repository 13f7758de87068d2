//! The levels of tiles as files of other programs: TIFF stacks and Zarr arrays. Layer 0 is at the surface's side.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use pfmc_glass::reader::Schedule;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tile::TileId;
use serde_json::{Value, json};
use tiff::TiffError;
use tiff::encoder::{Compression, TiffEncoder, colortype};
use tiff::tags::Tag;

use super::glass::Glass;
use crate::codes::E0001;
use crate::files::io_error;

/// Effort of zstd.
const ZSTD_LEVEL: i32 = 3;

/// What the numbers of a tile mean.
fn meaning(schedule: &Schedule<'_>, id: TileId) -> Result<Value, Diagnostics> {
    let (header, tile) = (schedule.header(), schedule.record(id)?);
    let layers = tile.voxels.get(2).map_or(0, |n| *n as usize);
    Ok(json!({
        "name": tile.name,
        "values": "level numbers",
        "index_change_of_level": header.levels.iter().map(|l| l.dn).collect::<Vec<f64>>(),
        "pitch_nm": {"x": header.pitch_nm.first(), "y": header.pitch_nm.get(1), "depth": header.pitch_nm.get(2)},
        "corner_nm": {"x": tile.origin_nm.first(), "y": tile.origin_nm.get(1), "depth": tile.origin_nm.get(2)},
        "stage_z_nm": header.stage_z_nm.iter().take(layers).collect::<Vec<_>>(),
        "axes": "layer, y, x; layer 0 at the surface's side",
    }))
}

fn failed(path: &Path) -> impl Fn(TiffError) -> Diagnostics + use<> {
    let path = path.to_owned();
    move |e| Diagnostic::error(&E0001, format!("cannot write {}: {e}", path.display())).into()
}

/// `<tile>.tif` for each tile: a page a layer, 16 bits a voxel; what the numbers mean is JSON in the first page's description.
///
/// # Errors
/// A damaged schedule, and input/output.
pub fn tiff(glass: &Glass, tiles: &[TileId], out: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    let schedule = glass.schedule(&NoProgress)?;
    let mut written = Vec::new();
    for &id in tiles {
        let (levels, record) = (schedule.levels(id)?, schedule.record(id)?);
        let path = out.join(format!("{}.tif", record.name));
        let failed = failed(&path);
        let file = File::create(&path).map_err(|e| Diagnostics::from(io_error("create", &path, &e)))?;
        let mut file = BufWriter::new(file);
        let mut encoder = TiffEncoder::new(&mut file)
            .map_err(&failed)?
            .with_compression(Compression::Deflate(Default::default()));
        let &[nx, ny, _] = &record.voxels[..] else { continue };
        let mut first = Some(meaning(&schedule, id)?.to_string());
        for layer in levels.chunks_exact((nx * ny) as usize) {
            let mut page = encoder.new_image::<colortype::Gray16>(nx, ny).map_err(&failed)?;
            if let Some(text) = first.take() {
                page.encoder().write_tag(Tag::ImageDescription, text.as_str()).map_err(&failed)?;
            }
            let values: Vec<u16> = layer.iter().map(|l| u16::from(*l)).collect();
            page.write_data(&values).map_err(&failed)?;
        }
        file.flush().map_err(|e| Diagnostics::from(io_error("write", &path, &e)))?;
        written.push(path);
    }
    Ok(written)
}

/// `tiles.zarr`: a group of version 2 with an array `<tile>` each, bytes [layer, y, x], a chunk a layer, packed with zstd.
///
/// # Errors
/// A damaged schedule, and input/output.
pub fn zarr(glass: &Glass, tiles: &[TileId], out: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    let schedule = glass.schedule(&NoProgress)?;
    let group = out.join("tiles.zarr");
    let put = |path: PathBuf, bytes: &[u8]| {
        std::fs::write(&path, bytes).map_err(|e| Diagnostics::from(io_error("write", &path, &e)))
    };
    let make = |path: &Path| {
        std::fs::create_dir_all(path).map_err(|e| Diagnostics::from(io_error("create", path, &e)))
    };
    make(&group)?;
    put(group.join(".zgroup"), json!({"zarr_format": 2}).to_string().as_bytes())?;
    for &id in tiles {
        let (levels, record) = (schedule.levels(id)?, schedule.record(id)?);
        let &[nx, ny, nz] = &record.voxels[..] else { continue };
        let array = group.join(&record.name);
        make(&array)?;
        let about = json!({
            "zarr_format": 2, "shape": [nz, ny, nx], "chunks": [1, ny, nx], "dtype": "|u1", "order": "C", "fill_value": 0,
            "filters": null, "compressor": {"id": "zstd", "level": ZSTD_LEVEL},
        });
        put(array.join(".zarray"), about.to_string().as_bytes())?;
        put(array.join(".zattrs"), meaning(&schedule, id)?.to_string().as_bytes())?;
        for (layer, values) in levels.chunks_exact((nx * ny) as usize).enumerate() {
            let path = array.join(format!("{layer}.0.0"));
            let packed = zstd::bulk::compress(values, ZSTD_LEVEL)
                .map_err(|e| Diagnostics::from(io_error("write", &path, &e)))?;
            put(path, &packed)?;
        }
    }
    Ok(vec![group])
}
