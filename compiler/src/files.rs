//! Files: mapping, digests, errors that name the path, and text as XML takes it.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use sha2::{Digest, Sha256};

use crate::codes::E0001;

/// The diagnostic of a failed file operation.
pub fn io_error(verb: &str, path: &Path, e: &std::io::Error) -> Diagnostic {
    Diagnostic::error(&E0001, format!("cannot {verb} {}: {e}", path.display()))
}

/// Text as XML takes it; control characters, which it does not take, become U+FFFD.
pub(crate) fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Maps a regular file into memory for reading. An empty file gives no bytes.
///
/// # Errors
/// When the file cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Bytes, Diagnostics> {
    try_map(path).map_err(|e| io_error("read", path, &e).into())
}

/// As [`map`], with the plain error.
///
/// # Errors
/// When the file cannot be opened or mapped.
#[allow(unsafe_code)]
pub fn try_map(path: &Path) -> std::io::Result<Bytes> {
    let file = open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and lives as long as the Bytes that own it. A file that
    // another process truncates meanwhile ends this process; one that it rewrites changes what
    // is read, which digests and checksums catch.
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(Bytes::from_owner(map))
}

/// Opens a regular file: a pipe or device would block or never end, so the check comes before opening.
fn open(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(path)
}

/// Puts a whole file, of these parts, in the place of what was there, which stays until then; a device or pipe is written as it is.
///
/// # Errors
/// When it cannot be written.
pub fn replace<'a>(path: &Path, parts: impl IntoIterator<Item = &'a [u8]>) -> std::io::Result<()> {
    let regular = std::fs::metadata(path).map_or(true, |m| m.is_file());
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".pfmc-partial");
    let partial = if regular { path.with_file_name(name) } else { path.to_owned() };
    let put = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(&partial)?);
        parts.into_iter().try_for_each(|part| out.write_all(part))?;
        let file = out.into_inner().map_err(|e| e.into_error())?;
        if regular {
            file.sync_all()?;
            std::fs::rename(&partial, path)?;
        }
        Ok(())
    };
    put().inspect_err(|_| {
        if regular {
            // The write has failed already; the half-written file is of no use.
            let _ = std::fs::remove_file(&partial);
        }
    })
}

/// Length of a regular file and its SHA-256, read in pieces: a map would keep all of it in memory.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(path: &Path) -> Result<(u64, String), Diagnostics> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut read = || -> std::io::Result<()> {
        let mut file = BufReader::with_capacity(1 << 20, open(path)?);
        loop {
            let piece = file.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            hash.update(piece);
            length += piece.len() as u64;
            let read = piece.len();
            file.consume(read);
        }
    };
    read().map_err(|e| Diagnostics::from(io_error("read", path, &e)))?;
    Ok((length, hex(&hash.finalize())))
}

/// SHA-256 as lower-case hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// SHA-256 of bytes as lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
