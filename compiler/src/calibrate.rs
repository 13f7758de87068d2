//! `pfmc calibrate`: what measured transfer matrices say about the light of a glass folder, written beside its schedule.

use std::path::Path;

use pfmc_glass::calibrate::{Complex64, FORMAT, File, TileCalibration, write};
use pfmc_glass::codes::E0622;
use pfmc_ir::backend::Progress;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::TileSource;

use crate::export::glass::Glass;
use crate::npz;

/// Real numbers of a tensor of f32 or f64.
fn reals(t: &Tensor) -> Option<Vec<f64>> {
    match (t.as_slice::<f32>(), t.as_slice::<f64>()) {
        (Ok(v), _) => Some(v.iter().map(|&v| f64::from(v)).collect()),
        (_, Ok(v)) => Some(v.to_vec()),
        _ => None,
    }
}

/// Fits the matrices of a file, one a tile and named by it: complex `[output ports, inputs]`, or two real ones whose names end in
/// `.re` and `.im`. Tiles without one keep the process's light. An earlier calibration of the folder is replaced.
///
/// # Errors
/// A folder of another target, a file that cannot be read, matrices that are no tile's or do not fit theirs.
pub fn calibrate(
    folder: &Path,
    measured: &Path,
    progress: &dyn Progress,
) -> Result<Vec<TileCalibration>, Diagnostics> {
    let glass = Glass::open(folder)?;
    let schedule = glass.schedule(progress)?;
    let mut arrays = npz::read_complex(measured)?;
    let mut bad = Diagnostics::new();
    let mut tiles = Vec::new();
    progress.begin("calibrating", arrays.len() as u64);
    for (id, tile) in glass.opened.program.tiles() {
        let refuse = |what: &str| {
            Diagnostic::error(&E0622, format!("tile {id} ({}): {what}", tile.name)).at(&tile.origin)
        };
        let whole = arrays.remove(&tile.name);
        let parts = ["re", "im"].map(|p| arrays.remove(&format!("{}.{p}", tile.name)));
        let (shape, values) = match (whole, parts) {
            (None, [None, None]) => continue,
            (Some(t), [None, None]) => {
                let pairs = reals(&t).filter(|_| t.shape().len() == 3 && t.shape()[2] == 2);
                let complex = |v: Vec<f64>| v.chunks_exact(2).map(|c| Complex64::new(c[0], c[1])).collect();
                (t.shape().iter().take(2).copied().collect(), pairs.map(complex))
            }
            (None, [Some(re), Some(im)]) if re.shape() == im.shape() => {
                let complex = |(re, im): (Vec<f64>, Vec<f64>)| -> Vec<Complex64> {
                    re.into_iter().zip(im).map(|(re, im)| Complex64::new(re, im)).collect()
                };
                (re.shape().to_vec(), reals(&re).zip(reals(&im)).map(complex))
            }
            _ => {
                bad.push(refuse("needs one complex matrix, or two real ones of one shape"));
                continue;
            }
        };
        let Some(values) = values else {
            bad.push(refuse("its matrix is not of complex numbers"));
            continue;
        };
        let found = schedule.ports(id).and_then(|ports: [usize; 2]| {
            let shape: Vec<usize> = shape;
            if shape != ports {
                let text =
                    format!("the measured matrix is {shape:?}, the tile's [output ports, inputs] {ports:?}");
                return Err(refuse(&text).into());
            }
            schedule.calibrate(id, &values, &glass.reference.tile(id)?)
        });
        match found {
            Ok(t) => tiles.push(t),
            Err(e) => bad.extend(e),
        }
        progress.advance(1);
    }
    for name in arrays.keys() {
        bad.push(Diagnostic::error(&E0622, format!("{}: no tile is called {name:?}", measured.display())));
    }
    if tiles.is_empty() && !bad.has_errors() {
        bad.push(Diagnostic::error(&E0622, format!("{} holds no matrix", measured.display())));
    }
    bad.check()?;
    write(folder, &File { format: FORMAT, tiles: tiles.clone() })?;
    Ok(tiles)
}
