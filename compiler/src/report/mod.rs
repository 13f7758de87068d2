//! `report.html`: an output folder as one page that needs no network and no other file.
//!
//! The page is drawn by `page.js` from one JSON object; [`Data`] is its schema. Everything comes from the folder, so the bytes
//! depend on the folder alone.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::{Figure, Progress};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::tile::{MatrixId, TileContent, TileId, TileKind, TileSource};
use rayon::prelude::*;
use serde::Serialize;

use crate::blocks::{self, Group};
use crate::contents::Reference;
use crate::files::{io_error, replace};
use crate::manifest::{FileRecord, Manifest, ModelRecord, TileEntry};
use crate::verify::{self, Opened};

/// File name in the output folder.
pub const FILE: &str = "report.html";
/// Bins of the histogram of weights a root mean square: a quarter wide, from -6 to 6, the outer ones for all beyond.
const BINS: usize = 48;

/// What the page shows.
#[derive(Debug, Serialize)]
struct Data<'a> {
    version: &'a str,
    model: &'a ModelRecord,
    target: &'a str,
    process: &'a str,
    manifest: &'a str,
    blocks: Vec<Group>,
    figures: &'a [Figure],
    passes: Vec<Pass<'a>>,
    files: &'a [FileRecord],
    checks: Vec<[String; 2]>,
    commands: Vec<String>,
    layers: Vec<Layer>,
    sheets: Vec<Sheet>,
    tiles: Vec<Tile<'a>>,
    histograms: Histograms,
}

#[derive(Debug, Serialize)]
struct Pass<'a> {
    name: &'a str,
    exactness: &'a str,
    stats: &'a BTreeMap<String, u64>,
}

/// A fixed matrix, or what is no matrix.
#[derive(Debug, Serialize)]
struct Layer {
    name: String,
    /// Number of the layer of the model, where there is one.
    layer: Option<u64>,
    /// The block.
    part: String,
    /// Rows and columns; none for data.
    shape: Option<[u32; 2]>,
    bits: u64,
    /// Nodes that use it.
    nodes: Vec<String>,
}

/// A die or a plate.
#[derive(Debug, Serialize)]
struct Sheet {
    name: String,
    /// In nanometres, `[x0, y0, x1, y1]`, around all of its tiles.
    area: [i64; 4],
}

#[derive(Debug, Serialize)]
struct Tile<'a> {
    name: &'a str,
    /// Index into the layers.
    layer: usize,
    /// Rows and columns of the matrix, or bytes of the data: the half-open ranges that the tile holds.
    range: Vec<u64>,
    scheme: String,
    bits: u64,
    /// Index into the sheets; none for what is not in the artefact.
    sheet: Option<usize>,
    /// As [`Sheet::area`].
    area: [i64; 4],
    rounding_db: Option<f64>,
    measures: &'a BTreeMap<String, f64>,
}

/// Counts over all fixed matrices.
#[derive(Debug, Default, Serialize)]
struct Histograms {
    /// Of weights over the root mean square of their tile; see [`BINS`].
    weights: Vec<u64>,
    /// Of integer levels, by scheme: level and count.
    levels: BTreeMap<String, BTreeMap<i8, u64>>,
}

impl Histograms {
    fn add(mut self, other: &Histograms) -> Histograms {
        self.weights.resize(BINS, 0);
        self.weights.iter_mut().zip(&other.weights).for_each(|(a, b)| *a += b);
        for (scheme, counts) in &other.levels {
            let own = self.levels.entry(scheme.clone()).or_default();
            counts.iter().for_each(|(level, n)| *own.entry(*level).or_default() += n);
        }
        self
    }

    fn of(content: TileContent) -> Histograms {
        let mut found = Histograms { weights: vec![0; BINS], levels: BTreeMap::new() };
        let values = match content {
            TileContent::Data(_) => return found,
            TileContent::Real(b) => b.values,
            TileContent::Codes(b) => {
                let mut counts = [0u64; 256];
                b.levels.iter().for_each(|l| counts[usize::from(l.cast_unsigned())] += 1);
                let present = (0..=255u8).zip(counts).filter(|(_, n)| *n > 0);
                let counts = present.map(|(level, n)| (level.cast_signed(), n)).collect();
                found.levels.insert(b.scheme().to_string(), counts);
                b.dequantize()
            }
        };
        let square: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        let rms = (square / values.len().max(1) as f64).sqrt() as f32;
        if rms > 0.0 {
            let half = BINS as f32 / 2.0;
            for v in &values {
                let bin = (v / rms * 4.0 + half).clamp(0.0, BINS as f32 - 1.0) as usize;
                found.weights[bin] += 1;
            }
        }
        found
    }
}

/// The die or plate that an entry is on: what its measure `die` says, or the first two words of its region's name.
fn sheet(entry: &TileEntry) -> Option<String> {
    let region = entry.region.as_ref()?;
    Some(match entry.measures.get("die") {
        Some(die) => format!("die {die}"),
        None => region.name.split(' ').take(2).collect::<Vec<_>>().join(" "),
    })
}

/// Command lines that make the folder again and check it.
fn commands(m: &Manifest) -> Vec<String> {
    let calibrated = match m.quantisation.calibration.as_deref() {
        None => String::new(),
        Some(crate::manifest::SYNTHETIC) => " --calib synthetic".into(),
        Some(digest) => format!(" --calib SAMPLES  # the file with SHA-256 {digest}"),
    };
    let bind: Vec<String> = m.bindings.iter().map(|(name, n)| format!("{name}={n}")).collect();
    let bind = if bind.is_empty() { String::new() } else { format!(" --bind {}", bind.join(",")) };
    vec![
        format!(
            "pfmc {} --target {} --process process.toml --plan plan.json{bind}{calibrated}",
            m.model.name, m.target
        ),
        format!("pfmc verify . --model {}{calibrated}", m.model.name),
    ]
}

/// What verification has found right, by check.
fn checks(m: &Manifest, found: &verify::Report) -> Vec<[String; 2]> {
    let mut all = vec![
        ["manifest's own digest".into(), m.digest.clone()],
        ["files against their SHA-256".into(), format!("{} files", found.files)],
        ["invariants of the program".into(), "every element in one tile, accumulators of 32 bits".into()],
        [
            "tiles read back from the artefact".into(),
            format!("{} tiles, {} weights", found.tiles, found.elements),
        ],
    ];
    all.extend(
        found.worst.iter().map(|(name, v)| [format!("worst {name} as read back"), format!("{v:.3} dB")]),
    );
    if found.model {
        all.push(["the model quantised afresh".into(), "every tile is the same".into()]);
    }
    all
}

fn data<'a>(
    folder: &Path,
    opened: &'a Opened,
    found: &verify::Report,
    progress: &dyn Progress,
) -> Result<Data<'a>, Diagnostics> {
    let (m, program) = (&opened.manifest, &opened.program);
    let places = blocks::places(&program.graph);
    let mut layers: Vec<Layer> = (program.matrices.iter().enumerate())
        .map(|(i, matrix)| {
            let place = places.get(&MatrixId(i as u32));
            Layer {
                name: matrix.origin.tensor.clone().unwrap_or_default(),
                layer: place.and_then(|p| p.layer),
                part: place.map(|p| p.part.clone()).unwrap_or_default(),
                shape: Some([matrix.k, matrix.n]),
                bits: 0,
                nodes: matrix.origin.nodes.clone(),
            }
        })
        .collect();
    let fixed = layers.len();
    layers.push(Layer {
        name: "data".into(),
        layer: None,
        part: "biases, gains, tables".into(),
        shape: None,
        bits: 0,
        nodes: Vec::new(),
    });
    let mut sheets: Vec<Sheet> = Vec::new();
    let mut tiles = Vec::with_capacity(m.tiles.len());
    for ((id, tile), entry) in program.tiles().zip(&m.tiles) {
        let (layer, range, scheme, bits) = match (&tile.kind, program.matrix_tile(id)) {
            (TileKind::Matrix { matrix, k, n, scheme }, Some((rows, columns, _))) => {
                let range = [k.start, k.end, n.start, n.end].map(u64::from).to_vec();
                (matrix.index(), range, scheme.to_string(), scheme.bits(rows, columns))
            }
            (TileKind::Data { offset, len }, _) => {
                (fixed, vec![*offset, offset + len], "bytes".into(), len.saturating_mul(8))
            }
            (TileKind::Matrix { matrix, .. }, None) => (matrix.index(), Vec::new(), String::new(), 0),
        };
        if let Some(layer) = layers.get_mut(layer) {
            layer.bits += bits;
        }
        let area =
            entry.region.as_ref().map_or([0; 4], |r| [r.min_nm[0], r.min_nm[1], r.max_nm[0], r.max_nm[1]]);
        let sheet = sheet(entry).map(|name| {
            let at = sheets.iter().position(|s| s.name == name).unwrap_or(sheets.len());
            match sheets.get_mut(at) {
                None => sheets.push(Sheet { name, area }),
                Some(Sheet { area: all, .. }) => {
                    let [a, b] = [[all[0], area[0]], [all[1], area[1]]].map(|[a, b]| a.min(b));
                    let [c, d] = [[all[2], area[2]], [all[3], area[3]]].map(|[a, b]| a.max(b));
                    *all = [a, b, c, d];
                }
            }
            at
        });
        tiles.push(Tile {
            name: &tile.name,
            layer,
            range,
            scheme,
            bits,
            sheet,
            area,
            rounding_db: entry.rounding_db,
            measures: &entry.measures,
        });
    }
    let reference = Reference::open(program, folder)?;
    progress.begin("report", program.tiles.len() as u64);
    let histograms = (0..program.tiles.len())
        .into_par_iter()
        .map(|i| {
            let counted = Histograms::of(reference.tile(TileId(i as u32))?);
            progress.advance(1);
            Ok(counted)
        })
        .try_reduce(Histograms::default, |a, b| Ok::<_, Diagnostics>(a.add(&b)))?;
    Ok(Data {
        version: &m.version,
        model: &m.model,
        target: &m.target,
        process: &m.process,
        manifest: &m.digest,
        blocks: blocks::blocks(&program.graph),
        figures: &m.figures,
        passes: (m.passes.iter())
            .map(|p| Pass { name: &p.name, exactness: p.exactness.name(), stats: &p.stats })
            .collect(),
        files: &m.files,
        checks: checks(m, found),
        commands: commands(m),
        layers,
        sheets,
        tiles,
        histograms,
    })
}

/// The page of a verified output folder: `found` is what verification of it found.
///
/// # Errors
/// Damaged contents.
fn page(
    folder: &Path,
    opened: &Opened,
    found: &verify::Report,
    progress: &dyn Progress,
) -> Result<String, Diagnostics> {
    let data = data(folder, opened, found, progress)?;
    // Within a script element only `</` and `<!--` end or change what is read.
    let json = serde_json::to_string(&data).unwrap_or_default().replace('<', "\\u003c");
    let mut page = String::with_capacity(json.len() + 65_536);
    for (i, part) in include_str!("page.html").split("@@").enumerate() {
        page.push_str(match (i % 2, part) {
            (1, "style") => include_str!("page.css"),
            (1, "script") => include_str!("page.js"),
            (1, _) => &json,
            _ => part,
        });
    }
    Ok(page)
}

/// Writes [`FILE`] of an output folder: `found` is what its verification found.
///
/// # Errors
/// Damaged contents, and input/output.
pub fn write(
    folder: &Path,
    opened: &Opened,
    found: &verify::Report,
    progress: &dyn Progress,
) -> Result<(), Diagnostics> {
    let page = page(folder, opened, found, progress)?;
    let path = folder.join(FILE);
    replace(&path, [page.as_bytes()]).map_err(|e| io_error("write", &path, &e).into())
}
