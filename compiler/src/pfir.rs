//! Program text in files of its own. Constants of more than [`INLINE_MAX`] elements, which nobody reads, lie in a file
//! beside it, `NAME.data` for `NAME.pfir`: the bytes of the entries that the text lists, one after the other.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use pfmc_ir::consts::ConstSource;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::program::TileProgram;
use pfmc_ir::text::{INLINE_MAX, parse_program, print_program};

use crate::codes::E0304;
use crate::files::{io_error, map, replace};
use crate::partition::gather;

/// Where the data of a text are.
pub fn data_path(text: &Path) -> PathBuf {
    text.with_extension("data")
}

/// Reads a program. Constants in data get their bytes, unless the program has tiles, whose contents are elsewhere. The
/// result is not verified.
///
/// # Errors
/// E0001, E0303 for each bad line, and E0304 for data that do not fit.
pub fn read(path: &Path) -> Result<TileProgram, Diagnostics> {
    let text = std::fs::read_to_string(path).map_err(|e| io_error("read", path, &e))?;
    let program = parse_program(&text)?;
    if program.data.is_empty() || !program.tiles.is_empty() {
        return Ok(program);
    }
    let beside = data_path(path);
    let misfit =
        |what: String| Diagnostics::from(Diagnostic::error(&E0304, format!("{}: {what}", beside.display())));
    let bytes = map(&beside).map_err(|e| misfit(e.to_string()))?;
    let expected = program.data_len();
    if bytes.len() as u64 != expected {
        return Err(misfit(format!("{} bytes where the text lists {expected}", bytes.len())));
    }
    with_bytes(program, &bytes).map_err(|c| misfit(format!("a constant at byte {c} reaches beyond the end")))
}

/// Gives the constants that are in data their bytes; the offset of one that is outside of them.
fn with_bytes(mut program: TileProgram, bytes: &Bytes) -> Result<TileProgram, u64> {
    let mut bad = None;
    program.graph.each_mut(&mut |g| {
        let ids: Vec<_> = g.consts.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(c) = g.consts.get_mut(id) else { continue };
            let ConstSource::Data(offset) = c.source else { continue };
            let range = || {
                let start = usize::try_from(offset).ok()?;
                let end = start.checked_add(c.elem.stored(c.len())?)?;
                (end <= bytes.len()).then(|| bytes.slice(start..end))
            };
            match range() {
                Some(part) => c.source = ConstSource::External(part),
                None => bad = bad.or(Some(offset)),
            }
        }
    });
    program.data.clear();
    match bad {
        Some(offset) => Err(offset),
        None => Ok(program),
    }
}

/// Writes a program, with its large constants beside it where it has no tiles. Both files get their names when they are
/// whole.
///
/// # Errors
/// Input and output.
pub fn write(path: &Path, program: &TileProgram) -> Result<(), Diagnostics> {
    let mut program = program.clone();
    let mut pieces = Vec::new();
    if program.tiles.is_empty() {
        (program.data, pieces) = gather(&mut program.graph, &|c| c.len() > INLINE_MAX);
    }
    if !pieces.is_empty() {
        let beside = data_path(path);
        replace(&beside, pieces.iter().map(|p| &p[..])).map_err(|e| io_error("write", &beside, &e))?;
    }
    replace(path, [print_program(&program).as_bytes()]).map_err(|e| io_error("write", path, &e).into())
}
