//! The levels of tiles as files of other programs: TIFF stacks, Zarr arrays, OVF fields, grey maps and GWL points. Layer 0 is
//! at the surface's side.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use pfmc_glass::reader::Schedule;
use pfmc_glass::schedule::{Header, Level, Tile};
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tile::TileId;
use serde_json::{Value, json};
use tiff::TiffError;
use tiff::encoder::{Compression, TiffEncoder, colortype};
use tiff::tags::Tag;

use super::glass::Glass;
use crate::codes::{E0001, E0005};
use crate::files::io_error;

/// Effort of zstd.
const ZSTD_LEVEL: i32 = 3;
/// Largest GWL file, bytes.
const GWL_MAX: u64 = 256 << 20;

/// What the numbers of a tile mean.
fn meaning(schedule: &Schedule<'_>, id: TileId) -> Result<Value, Diagnostics> {
    let (header, tile) = (schedule.header(), schedule.record(id)?);
    let layers = tile.voxels.get(2).map_or(0, |n| *n as usize);
    Ok(json!({
        "name": tile.name,
        "values": "level numbers",
        "method": header.method,
        "index_change_of_level": header.levels.iter().map(|l| l.dn).collect::<Vec<f64>>(),
        "azimuth_deg_of_level": header.levels.iter().map(|l| l.azimuth_deg).collect::<Vec<Option<f64>>>(),
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

/// A file to be filled; `fill` writes it.
fn file(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), Diagnostics> {
    let done = File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        fill(&mut file)?;
        file.flush()
    });
    done.map_err(|e| io_error("write", path, &e).into())
}

/// Pitch along x, y and depth of a schedule in metres.
fn pitch_m(schedule: &Schedule<'_>) -> [f64; 3] {
    let pitch = &schedule.header().pitch_nm;
    [0, 1, 2].map(|a| pitch.get(a).map_or(0.0, |nm| f64::from(*nm) * 1e-9))
}

/// What a level is as a number, with its name and unit: the index change, or of a mask the azimuth (NaN where nothing is written).
fn numbers(header: &Header) -> (&'static str, &'static str, Vec<f32>) {
    match header.levels.iter().any(|l| l.azimuth_deg.is_some()) {
        false => ("index_change", "1", header.levels.iter().map(|l| l.dn as f32).collect()),
        true => {
            let azimuth = |l: &Level| l.azimuth_deg.map_or(f32::NAN, |deg| deg as f32);
            ("azimuth", "degree", header.levels.iter().map(azimuth).collect())
        }
    }
}

/// Header of an OVF segment of one number a node; z is depth in glass, the corner of the tile at 0.
fn ovf_header(tile: &Tile, pitch: [f64; 3], label: &str, unit: &str) -> String {
    let mut text = format!(
        "# OOMMF OVF 2.0\n# Segment count: 1\n# Begin: Segment\n# Begin: Header\n# Title: {}\n# Desc: {}; z is depth in glass\n\
         # meshtype: rectangular\n# meshunit: m\n# valuedim: 1\n# valuelabels: {label}\n# valueunits: {unit}\n",
        tile.name,
        label.replace('_', " ")
    );
    for ((axis, pitch), count) in ["x", "y", "z"].iter().zip(pitch).zip(&tile.voxels) {
        text += &format!(
            "# {axis}min: 0\n# {axis}max: {:e}\n# {axis}base: {:e}\n# {axis}nodes: {count}\n# {axis}stepsize: {pitch:e}\n",
            pitch * f64::from(*count),
            0.5 * pitch
        );
    }
    text + "# End: Header\n# Begin: Data Binary 4\n"
}

/// The number that begins the data of an OVF file in single precision.
const OVF_CHECK: f32 = 1_234_567.0;

/// `<tile>.ovf` for each tile: the index change of each voxel, or the azimuth of a mask's, in single precision, x fastest, then y, then layers.
///
/// # Errors
/// A damaged schedule, and input/output.
pub fn ovf(glass: &Glass, tiles: &[TileId], out: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    let schedule = glass.schedule(&NoProgress)?;
    let (label, unit, table) = numbers(schedule.header());
    let mut written = Vec::new();
    for &id in tiles {
        let (levels, record) = (schedule.levels(id)?, schedule.record(id)?);
        let path = out.join(format!("{}.ovf", record.name));
        file(&path, |to| {
            to.write_all(ovf_header(record, pitch_m(&schedule), label, unit).as_bytes())?;
            to.write_all(&OVF_CHECK.to_le_bytes())?;
            for level in &levels {
                let dn = table.get(usize::from(*level)).copied().unwrap_or(f32::NAN);
                to.write_all(&dn.to_le_bytes())?;
            }
            to.write_all(b"\n# End: Data Binary 4\n# End: Segment\n")
        })?;
        written.push(path);
    }
    Ok(written)
}

/// A folder `<tile>` each with a grey map `layer<NNNN>.pgm` a layer, bytes of level numbers.
///
/// # Errors
/// A damaged schedule, and input/output.
pub fn pgm(glass: &Glass, tiles: &[TileId], out: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    let schedule = glass.schedule(&NoProgress)?;
    let mut written = Vec::new();
    for &id in tiles {
        let (levels, record) = (schedule.levels(id)?, schedule.record(id)?);
        let &[nx, ny, _] = &record.voxels[..] else { continue };
        let folder = out.join(&record.name);
        std::fs::create_dir_all(&folder).map_err(|e| Diagnostics::from(io_error("create", &folder, &e)))?;
        for (layer, values) in levels.chunks_exact((nx * ny) as usize).enumerate() {
            file(&folder.join(format!("layer{layer:04}.pgm")), |to| {
                // Readers scale numbers to the largest, 255 leaves them as they are.
                write!(to, "P5\n{nx} {ny}\n255\n")?;
                to.write_all(values)
            })?;
        }
        written.push(folder);
    }
    Ok(written)
}

/// `<tile>.gwl` of one tile: a point a voxel that is written, `x y z power`, from the deepest layer up; x and y from the
/// tile's corner and z as the stage travels, micrometres; power in percent of the highest level's index change.
///
/// # Errors
/// More than one tile, a mask and a file above [`GWL_MAX`], before the folder is made; a damaged schedule, and input/output.
pub fn gwl(glass: &Glass, tiles: &[TileId], out: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    let refuse = |text: String| Diagnostics::from(Diagnostic::error(&E0005, text));
    let &[id] = tiles else {
        let text = format!("{} tiles; GWL takes one", tiles.len());
        return Err(Diagnostic::error(&E0005, text).help("name one with --tile").into());
    };
    let schedule = glass.schedule(&NoProgress)?;
    let (levels, record, header) = (schedule.levels(id)?, schedule.record(id)?, schedule.header());
    if header.levels.iter().any(|l| l.azimuth_deg.is_some()) {
        return Err(refuse(format!("tile {} is a mask; GWL has powers and no azimuths", record.name)));
    }
    let &[nx, ny, _] = &record.voxels[..] else { return Ok(Vec::new()) };
    let table: Vec<f64> = header.levels.iter().map(|l| l.dn).collect();
    let top = table.iter().fold(f64::MIN_POSITIVE, |a, b| a.max(*b));
    let pitch = pitch_m(&schedule).map(|m| m * 1e6);
    let point = |at: usize, level: u8| {
        let dn = table.get(usize::from(level)).copied().unwrap_or(0.0);
        let (x, y, layer) = (at % nx as usize, at / nx as usize % ny as usize, at / (nx * ny) as usize);
        let z = header.stage_z_nm.get(layer).map_or(f64::NAN, |nm| *nm as f64 * 1e-3);
        let [x, y] = [(x as f64 + 0.5) * pitch[0], (y as f64 + 0.5) * pitch[1]];
        (dn > 0.0).then(|| format!("{x:.3} {y:.3} {z:.3} {:.3}\n", 100.0 * dn / top))
    };
    // No point takes more than the last voxel at full power.
    let longest = format!(
        "{:.3} {:.3} {:.3} 100.000\n",
        pitch[0] * f64::from(nx),
        pitch[1] * f64::from(ny),
        header.stage_z_nm.iter().max().map_or(0.0, |nm| *nm as f64 * 1e-3)
    );
    let points = levels.iter().filter(|l| table.get(usize::from(**l)).is_some_and(|dn| *dn > 0.0)).count();
    let bytes = points as u64 * longest.len() as u64;
    if bytes > GWL_MAX {
        return Err(refuse(format!(
            "tile {} would take {:.0} MB as text, more than {} MB",
            record.name,
            bytes as f64 / 1e6,
            GWL_MAX / 1_000_000
        )));
    }
    std::fs::create_dir_all(out).map_err(|e| Diagnostics::from(io_error("create", out, &e)))?;
    let path = out.join(format!("{}.gwl", record.name));
    file(&path, |to| {
        writeln!(
            to,
            "% {}: x and y from its corner, z as the stage travels, um; power in percent",
            record.name
        )?;
        writeln!(to, "PulsedMode")?;
        let layer = (nx * ny) as usize;
        for (z, values) in levels.chunks_exact(layer).enumerate().rev() {
            for (i, level) in values.iter().enumerate() {
                if let Some(text) = point(z * layer + i, *level) {
                    to.write_all(text.as_bytes())?;
                }
            }
            writeln!(to, "Write")?;
        }
        Ok(())
    })?;
    Ok(vec![path])
}
