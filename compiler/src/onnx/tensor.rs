//! Tensors of the file format as constants, without copying where the bytes can stay.

use bytes::Bytes;
use pfmc_ir::consts::{Const, ConstSource};
use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::origin::Origin;
use pfmc_ir::tensor::count;

use super::codes::{E0108, E0109, E0111, E0114};
use super::files::Files;
use super::proto::{TensorProto, elem_name, text};

/// The element type for a number of the file format; `None` for strings, complex numbers and numbers
/// that mean nothing.
pub(super) fn elem_type(data_type: i32) -> Option<Elem> {
    Some(match data_type {
        1 => Elem::F32,
        2 => Elem::U8,
        3 => Elem::I8,
        4 => Elem::U16,
        5 => Elem::I16,
        6 => Elem::I32,
        7 => Elem::I64,
        9 => Elem::Bool,
        10 => Elem::F16,
        11 => Elem::F64,
        12 => Elem::U32,
        13 => Elem::U64,
        16 => Elem::BF16,
        17 => Elem::F8E4M3Fn,
        18 => Elem::F8E4M3Fnuz,
        19 => Elem::F8E5M2,
        20 => Elem::F8E5M2Fnuz,
        21 => Elem::U4,
        22 => Elem::I4,
        23 => Elem::F4E2M1,
        24 => Elem::F8E8M0,
        25 => Elem::U2,
        26 => Elem::I2,
        _ => return None,
    })
}

/// Shape and type of a tensor, without its data.
fn header(t: &TensorProto) -> Result<(Elem, Vec<usize>, usize), Diagnostic> {
    let name = text(&t.name);
    let ty = elem_type(t.data_type).ok_or_else(|| {
        let kind = elem_name(t.data_type);
        Diagnostic::error(&E0108, format!("tensor {name:?} has element type {kind} ({})", t.data_type))
    })?;
    let bad = |why: &str| Diagnostic::error(&E0109, format!("tensor {name:?} of shape {:?} {why}", t.dims));
    let shape: Vec<usize> = t
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| bad("has a negative length")))
        .collect::<Result<_, _>>()?;
    let elements = count(&shape)
        .filter(|n| n.checked_mul(8).is_some_and(|b| i64::try_from(b).is_ok()))
        .ok_or_else(|| bad("is too large"))?;
    if t.segment.is_some() {
        return Err(Diagnostic::error(&E0114, format!("tensor {name:?} is stored in segments")));
    }
    Ok((ty, shape, elements))
}

/// The constant a tensor is.
///
/// `learned` follows from type and shape: floats of rank 1 or more with more than one element.
///
/// # Errors
/// An unsupported element type, data that do not fit the shape, and external data that cannot be
/// read.
pub(super) fn constant(t: &TensorProto, origin: &Origin, files: &mut Files) -> Result<Const, Diagnostic> {
    make(t, origin, files).map_err(|d| d.at(origin))
}

fn make(t: &TensorProto, origin: &Origin, files: &mut Files) -> Result<Const, Diagnostic> {
    let (ty, shape, elements) = header(t)?;
    let stored = ty
        .stored(elements)
        .ok_or_else(|| Diagnostic::error(&E0109, format!("tensor {:?} is too large", text(&t.name))))?;
    let source = match t.data_location {
        0 => match &t.raw_data {
            Some(raw) if elements == 0 || !raw.is_empty() => {
                checked(t, raw.len(), stored, "bytes")?;
                ConstSource::Mapped(raw.clone())
            }
            _ => ConstSource::Derived(typed_data(t, ty, elements, stored)?),
        },
        1 => ConstSource::External(external(t, stored, files)?),
        other => {
            return Err(Diagnostic::error(
                &E0109,
                format!("tensor {:?} has data location {other}", text(&t.name)),
            ));
        }
    };
    let learned = ty.is_float() && !shape.is_empty() && elements > 1;
    Const::new(ty, shape, source, origin.clone(), learned).map_err(|e| Diagnostic::error(&E0109, e))
}

fn checked(t: &TensorProto, found: usize, expected: usize, what: &str) -> Result<(), Diagnostic> {
    if found == expected {
        return Ok(());
    }
    let (name, kind) = (text(&t.name), elem_name(t.data_type));
    Err(Diagnostic::error(
        &E0109,
        format!("tensor {name:?}, {kind} of shape {:?}, needs {expected} {what} and has {found}", t.dims),
    ))
}

/// The part of an external file that holds a tensor of `stored` bytes.
fn external(t: &TensorProto, stored: usize, files: &mut Files) -> Result<Bytes, Diagnostic> {
    let name = text(&t.name);
    let (mut location, mut offset, mut length) = (String::new(), 0usize, None);
    for e in &t.external_data {
        let value = text(&e.value);
        let number = || {
            value.parse::<usize>().map_err(|_| {
                let key = text(&e.key);
                Diagnostic::error(&E0109, format!("tensor {name:?} has {key} {value:?}, which is no length"))
            })
        };
        match &e.key[..] {
            b"location" => location.clone_from(&value),
            b"offset" => offset = number()?,
            b"length" => length = Some(number()?),
            // A checksum or the name of a loader changes nothing about where the bytes are.
            _ => {}
        }
    }
    if let Some(length) = length {
        checked(t, length, stored, "bytes")?;
    }
    let file = files.external(&location)?;
    let end = offset.checked_add(stored).filter(|end| *end <= file.len());
    match end {
        Some(end) => Ok(file.slice(offset..end)),
        None => Err(Diagnostic::error(
            &E0111,
            format!(
                "tensor {name:?} needs bytes {offset}..{} of {location:?}, which has {}",
                offset.saturating_add(stored),
                file.len()
            ),
        )
        .help("the data file is cut short or belongs to another model")),
    }
}

/// Elements kept in the typed lists.
fn typed_data(t: &TensorProto, elem: Elem, elements: usize, stored: usize) -> Result<Bytes, Diagnostic> {
    fn put<T: Copy, const N: usize>(values: &[T], f: impl Fn(T) -> Option<[u8; N]>) -> Option<Bytes> {
        let mut out = Vec::with_capacity(values.len().checked_mul(N)?);
        for v in values {
            out.extend_from_slice(&f(*v)?);
        }
        Some(out.into())
    }
    // Elements below 8 bits are packed in the list as in raw data, one byte a number.
    let numbers = if elem.bits() < 8 { stored } else { elements };
    let found = match elem {
        Elem::F32 => t.float_data.len(),
        Elem::I64 => t.int64_data.len(),
        Elem::F64 => t.double_data.len(),
        Elem::U32 | Elem::U64 => t.uint64_data.len(),
        _ => t.int32_data.len(),
    };
    checked(t, found, numbers, "elements")?;
    let ints = &t.int32_data;
    let bytes = match elem {
        Elem::F32 => put(&t.float_data, |v| Some(v.to_le_bytes())),
        Elem::I64 => put(&t.int64_data, |v| Some(v.to_le_bytes())),
        Elem::F64 => put(&t.double_data, |v| Some(v.to_le_bytes())),
        Elem::U32 => put(&t.uint64_data, |v| Some(u32::try_from(v).ok()?.to_le_bytes())),
        Elem::U64 => put(&t.uint64_data, |v| Some(v.to_le_bytes())),
        Elem::I8 => put(ints, |v| Some(i8::try_from(v).ok()?.to_le_bytes())),
        Elem::I16 => put(ints, |v| Some(i16::try_from(v).ok()?.to_le_bytes())),
        Elem::U16 | Elem::F16 | Elem::BF16 => put(ints, |v| Some(u16::try_from(v).ok()?.to_le_bytes())),
        Elem::I32 => put(ints, |v| Some(v.to_le_bytes())),
        Elem::Bool => put(ints, |v| Some([u8::from(v != 0)])),
        _ => put(ints, |v| Some(u8::try_from(v).ok()?.to_le_bytes())),
    };
    bytes.ok_or_else(|| {
        let kind = elem_name(t.data_type);
        Diagnostic::error(&E0109, format!("tensor {:?} has a number that is no {kind}", text(&t.name)))
    })
}
