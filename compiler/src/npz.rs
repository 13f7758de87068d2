//! Named arrays in numpy's `.npz` form: a zip archive with one `.npy` member an array.
//!
//! Reading accepts what `numpy.savez` and `numpy.savez_compressed` write for the element types of
//! the representation, in either memory order. Writing is deterministic: equal tensors give equal
//! bytes (no compression, fixed dates, members in order of name).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::tensor::{Tensor, count, strides};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use crate::files;

pfmc_ir::codes! {
    E0010 "an .npz file cannot be read or written"
    "The operating system refused, or the file is no zip archive. `numpy.savez(path, name=array)` \
     writes the form expected."
    E0011 "an array of an .npz file cannot be used"
    "Arrays must be plain numpy arrays of bool, or of integers of 8 to 64 bits or floats of 16 to 64 bits, \
     little-endian, in C or Fortran order; bfloat16 as ml_dtypes stores it ('|V2'). Other element types, pickled objects and damaged members \
     are refused. Convert with array.astype(...)."
}

/// Largest array read, in bytes.
const MAX_ARRAY: usize = 1 << 36;
/// Longest `.npy` header; numpy's own stay below 200 bytes for plain arrays.
const MAX_HEADER: usize = 1 << 16;
const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads all arrays of a file.
///
/// # Errors
/// E0010 when it is no readable archive, E0011 for each member that is no usable array.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
    let file = File::open(path).map_err(|e| failed("read", path, &e))?;
    read_from(BufReader::new(file), path, false)
}

/// As [`read`], complex arrays too: each as an array of its real and imaginary parts, along one more axis at the end.
///
/// # Errors
/// As [`read`].
pub fn read_complex(path: &Path) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
    let file = File::open(path).map_err(|e| failed("read", path, &e))?;
    read_from(BufReader::new(file), path, true)
}

fn failed(what: &str, path: &Path, why: &dyn std::fmt::Display) -> Diagnostics {
    Diagnostic::error(&E0010, format!("cannot {what} {}: {why}", path.display())).into()
}

fn read_from(
    file: impl Read + Seek,
    path: &Path,
    complex: bool,
) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
    let mut archive = ZipArchive::new(file).map_err(|e| failed("read", path, &e))?;
    let (mut out, mut bad) = (BTreeMap::new(), Diagnostics::new());
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(|e| failed("read", path, &e))?;
        let file_name = member.name().map_err(|e| failed("read", path, &e))?.into_owned();
        let Some(name) = file_name.strip_suffix(".npy") else {
            bad.push(Diagnostic::error(
                &E0011,
                format!("{}: member {file_name:?} is no .npy array", path.display()),
            ));
            continue;
        };
        match array(&mut member, complex) {
            Ok(t) if !out.contains_key(name) => {
                out.insert(name.to_owned(), t);
            }
            Ok(_) => bad.push(Diagnostic::error(
                &E0011,
                format!("{}: two arrays are called {name:?}", path.display()),
            )),
            Err(e) => bad.push(Diagnostic::error(&E0011, format!("{}: array {name:?}: {e}", path.display()))),
        }
    }
    bad.check()?;
    Ok(out)
}

/// Reads exactly `n` bytes, allocating no more than arrive.
fn take(r: &mut impl Read, n: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    r.take(n as u64).read_to_end(&mut out).map_err(|e| e.to_string())?;
    if out.len() == n { Ok(out) } else { Err(format!("it ends after {} of {n} bytes", out.len())) }
}

/// Reads one `.npy` array, complex ones if they are wanted.
fn array(r: &mut impl Read, complex: bool) -> Result<Tensor, String> {
    let start = take(r, MAGIC.len() + 2)?;
    if !start.starts_with(MAGIC) {
        return Err("it is no .npy array".into());
    }
    let length = match start[MAGIC.len()] {
        1 => take(r, 2)?.iter().rev().fold(0usize, |n, &b| (n << 8) | usize::from(b)),
        2 | 3 => take(r, 4)?.iter().rev().fold(0usize, |n, &b| (n << 8) | usize::from(b)),
        v => return Err(format!("version {v} of the .npy format is unknown")),
    };
    if length > MAX_HEADER {
        return Err(format!("its header has {length} bytes"));
    }
    let header = take(r, length)?;
    let mut header = Header::parse(std::str::from_utf8(&header).map_err(|_| "its header is no text")?)?;
    if header.complex && !complex {
        return Err("complex numbers are not supported".into());
    }
    let parts = if header.complex { 2 } else { 1 };
    let bytes = count(&header.shape)
        .and_then(|n| n.checked_mul(parts))
        .and_then(|n| header.elem.stored(n))
        .filter(|n| *n <= MAX_ARRAY)
        .ok_or_else(|| format!("shape {:?} is too large", header.shape))?;
    let data = take(r, bytes)?;
    let data = if header.fortran && header.shape.len() > 1 {
        to_c_order(&data, &header.shape, header.elem.bits() / 8 * parts)
    } else {
        data
    };
    if header.complex {
        header.shape.push(parts);
    }
    Tensor::from_le_bytes(header.elem, header.shape, &data)
}

/// Elements in column-major order, as row-major.
fn to_c_order(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut reversed: Vec<usize> = shape.to_vec();
    reversed.reverse();
    let mut steps = strides(&reversed);
    steps.reverse();
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; shape.len()];
    for _ in 0..data.len() / size {
        let at: usize = index.iter().zip(&steps).map(|(i, s)| i * s).sum();
        out.extend_from_slice(&data[at * size..(at + 1) * size]);
        for (i, &d) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < d {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// What a `.npy` header says.
#[derive(Debug, PartialEq)]
struct Header {
    elem: Elem,
    /// Pairs of such elements.
    complex: bool,
    fortran: bool,
    shape: Vec<usize>,
}

/// numpy's letters for an element type.
fn descr(elem: Elem) -> Option<&'static str> {
    Some(match elem {
        Elem::F32 => "<f4",
        Elem::F64 => "<f8",
        Elem::I64 => "<i8",
        Elem::I32 => "<i4",
        Elem::I16 => "<i2",
        Elem::I8 => "|i1",
        Elem::U64 => "<u8",
        Elem::U32 => "<u4",
        Elem::U16 => "<u2",
        Elem::U8 => "|u1",
        Elem::Bool => "|b1",
        Elem::F16 => "<f2",
        // As ml_dtypes stores it.
        Elem::BF16 => "|V2",
        _ => return None,
    })
}

impl Header {
    /// The dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, its keys in any
    /// order.
    fn parse(text: &str) -> Result<Header, String> {
        let bad = || format!("its header is not understood: {:?}", text.trim());
        let value = |key: &str| {
            let at = text.find(&format!("'{key}'"))?;
            text[at + key.len() + 2..].trim_start().strip_prefix(':').map(str::trim_start)
        };
        let kind = value("descr").and_then(|v| v.strip_prefix('\'')?.split_once('\'')).ok_or_else(bad)?.0;
        let (kind, complex) = match kind {
            "<c8" => ("<f4", true),
            "<c16" => ("<f8", true),
            other => (other, false),
        };
        let elem = Elem::ALL
            .iter()
            .copied()
            .find(|e| descr(*e).is_some_and(|d| d == kind || kind == "<V2" && d == "|V2"));
        let elem = elem.ok_or_else(|| format!("element type {kind:?} is not supported"))?;
        let order = value("fortran_order").ok_or_else(bad)?;
        let fortran = match () {
            () if order.starts_with("False") => false,
            () if order.starts_with("True") => true,
            () => return Err(bad()),
        };
        let list = value("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).ok_or_else(bad)?.0;
        let lengths = list.split(',').map(str::trim).filter(|s| !s.is_empty());
        let shape = lengths.map(|s| s.parse().map_err(|_| bad())).collect::<Result<Vec<usize>, _>>()?;
        Ok(Header { elem, complex, fortran, shape })
    }

    /// The header's bytes with magic and padding: the data begin at a multiple of 64.
    fn bytes(elem: Elem, shape: &[usize]) -> Result<Vec<u8>, String> {
        let list: String = shape.iter().map(|d| format!("{d}, ")).collect();
        let list = if shape.len() == 1 { list.trim_end() } else { list.trim_end_matches(", ") };
        let descr = descr(elem).ok_or_else(|| format!("numpy has no element type {elem}"))?;
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({list}), }}");
        let before = MAGIC.len() + 4;
        let padded = (before + text.len() + 1).next_multiple_of(64);
        text.push_str(&" ".repeat(padded - before - text.len() - 1));
        text.push('\n');
        let length = u16::try_from(text.len()).map_err(|_| format!("shape {shape:?} is too long"))?;
        Ok([MAGIC, &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat())
    }
}

/// Writes arrays to a file, replacing it.
///
/// # Errors
/// E0010 when it cannot be written.
pub fn write(path: &Path, arrays: &BTreeMap<String, Tensor>) -> Result<(), Diagnostics> {
    // Built in memory and put in place whole: what was there before stays until then.
    let mut bytes = io::Cursor::new(Vec::new());
    write_to(&mut bytes, arrays).map_err(|e| failed("write", path, &e))?;
    files::replace(path, [&bytes.get_ref()[..]]).map_err(|e| failed("write", path, &e))
}

fn write_to(out: impl Write + Seek, arrays: &BTreeMap<String, Tensor>) -> io::Result<()> {
    let mut archive = ZipWriter::new(out);
    for (name, t) in arrays {
        let header = Header::bytes(t.elem(), t.shape()).map_err(io::Error::other)?;
        let data = t.to_le_bytes();
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(0o644)
            .large_file(data.len() >= 1 << 31);
        archive.start_file(format!("{name}.npy"), options)?;
        archive.write_all(&header)?;
        archive.write_all(&data)?;
    }
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn sample() -> BTreeMap<String, Tensor> {
        BTreeMap::from([
            ("ids".into(), Tensor::new(vec![2, 3], vec![1i64, 2, 3, 4, 5, -6]).unwrap()),
            ("x".into(), Tensor::scalar(0.5f32)),
            ("mask".into(), Tensor::vector(vec![true, false])),
            ("none".into(), Tensor::new(vec![0, 4], Vec::<u8>::new()).unwrap()),
        ])
    }

    fn written(arrays: &BTreeMap<String, Tensor>) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        write_to(&mut out, arrays).unwrap();
        out.into_inner()
    }

    #[test]
    fn arrays_round_trip_and_bytes_repeat() {
        let bytes = written(&sample());
        assert_eq!(bytes, written(&sample()));
        assert_eq!(read_from(Cursor::new(bytes), Path::new("t.npz"), false).unwrap(), sample());
    }

    #[test]
    fn fortran_order_is_converted() {
        let mut bytes = Header::bytes(Elem::U8, &[2, 3]).unwrap();
        let text = String::from_utf8_lossy(&bytes[10..]).replace("False", "True ");
        bytes.truncate(10);
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&[1, 4, 2, 5, 3, 6]);
        let t = array(&mut &bytes[..], false).unwrap();
        assert_eq!(t.as_slice::<u8>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn complex_arrays_are_read_as_pairs_where_they_are_wanted() {
        // As numpy.save writes array([[1+2j, 3+4j, 5+6j]] * 2 with 7 to 12, complex64), in either order of memory.
        let mut bytes = Header::bytes(Elem::F32, &[2, 3]).unwrap();
        let text = String::from_utf8_lossy(&bytes[10..]).replace("<f4", "<c8");
        bytes.truncate(10);
        bytes.extend_from_slice(text.as_bytes());
        let fortran = String::from_utf8_lossy(&bytes[10..]).replace("False", "True ");
        let mut other = [&bytes[..10], fortran.as_bytes()].concat();
        let pairs: Vec<[f32; 2]> = (0..6).map(|i| [2.0 * i as f32 + 1.0, 2.0 * i as f32 + 2.0]).collect();
        let put = |to: &mut Vec<u8>, order: [usize; 6]| {
            order.iter().flat_map(|&i| pairs[i]).for_each(|v| to.extend_from_slice(&v.to_le_bytes()));
        };
        put(&mut bytes, [0, 1, 2, 3, 4, 5]);
        put(&mut other, [0, 3, 1, 4, 2, 5]);
        let t = array(&mut &bytes[..], true).unwrap();
        assert_eq!(t.shape(), [2, 3, 2]);
        assert_eq!(t.as_slice::<f32>().unwrap(), pairs.as_flattened());
        assert_eq!(array(&mut &other[..], true).unwrap(), t);
        assert!(array(&mut &bytes[..], false).unwrap_err().contains("complex"));
    }

    #[test]
    fn damage_is_refused() {
        let bytes = written(&sample());
        for cut in 0..bytes.len() {
            assert!(read_from(Cursor::new(&bytes[..cut]), Path::new("t.npz"), false).is_err());
        }
        let huge = Header::bytes(Elem::F64, &[1 << 30, 1 << 30]).unwrap();
        assert!(array(&mut &huge[..], false).unwrap_err().contains("too large"));
        let long = Header::bytes(Elem::F64, &[1 << 30]).unwrap();
        assert!(array(&mut &long[..], false).unwrap_err().contains("ends after"));
        assert!(Header::parse("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }").is_err());
        assert!(Header::parse("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }").is_err());
    }
}
