//! Tensors of the file format as constants, without copying where the bytes can stay.

use bytes::Bytes;
use half::{bf16, f16};
use pfmc_ir::consts::{Const, ConstSource};
use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::origin::Origin;
use pfmc_ir::tensor::count;

use super::codes::{E0108, E0109, E0111, E0114};
use super::files::Files;
use super::proto::{TensorProto, elem_name, text};

/// How elements of a stored type become elements of the representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ElemType {
    /// Element type they become.
    pub elem: Elem,
    /// Whether they are stored as another type, and computed more exactly.
    pub widened: bool,
}

/// The element type for a number of the file format. 16-bit integers are accepted only in
/// constants (`constant`), where widening them cannot change a result that does not overflow.
pub(super) fn elem_type(data_type: i32, constant: bool) -> Option<ElemType> {
    let same = |elem| Some(ElemType { elem, widened: false });
    let wide = |elem| Some(ElemType { elem, widened: true });
    match data_type {
        1 => same(Elem::F32),
        2 => same(Elem::U8),
        3 => same(Elem::I8),
        4 | 5 if constant => wide(Elem::I32),
        6 => same(Elem::I32),
        7 => same(Elem::I64),
        9 => same(Elem::Bool),
        10 | 16 => wide(Elem::F32),
        11 => same(Elem::F64),
        12 if constant => wide(Elem::I64),
        _ => None,
    }
}

/// Stored size of an element in bytes.
fn stored_size(data_type: i32) -> usize {
    match data_type {
        7 | 11 => 8,
        1 | 6 | 12 => 4,
        4 | 5 | 10 | 16 => 2,
        _ => 1,
    }
}

/// Shape and type of a tensor, without its data.
fn header(t: &TensorProto) -> Result<(ElemType, Vec<usize>, usize), Diagnostic> {
    let name = text(&t.name);
    let ty = elem_type(t.data_type, true).ok_or_else(|| {
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
    let stored = elements * stored_size(t.data_type);
    let source = match t.data_location {
        0 => match &t.raw_data {
            Some(raw) if elements == 0 || !raw.is_empty() => {
                checked(t, raw.len(), stored, "bytes")?;
                widen(t.data_type, raw.clone())
                    .map_or_else(|| ConstSource::Mapped(raw.clone()), ConstSource::Derived)
            }
            _ => ConstSource::Derived(typed_data(t, elements)?),
        },
        1 => {
            let bytes = external(t, stored, files)?;
            widen(t.data_type, bytes.clone()).map_or(ConstSource::External(bytes), ConstSource::Derived)
        }
        other => {
            return Err(Diagnostic::error(
                &E0109,
                format!("tensor {:?} has data location {other}", text(&t.name)),
            ));
        }
    };
    let learned = ty.elem.is_float() && !shape.is_empty() && elements > 1;
    Const::new(ty.elem, shape, source, origin.clone(), learned).map_err(|e| Diagnostic::error(&E0109, e))
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

/// Converts stored elements that the representation does not have; `None` when it has them.
fn widen(data_type: i32, raw: Bytes) -> Option<Bytes> {
    fn each<const N: usize, const M: usize>(raw: &[u8], f: impl Fn([u8; N]) -> [u8; M]) -> Bytes {
        let mut out = Vec::with_capacity(raw.len() / N * M);
        for e in raw.as_chunks::<N>().0 {
            out.extend_from_slice(&f(*e));
        }
        out.into()
    }
    Some(match data_type {
        4 => each(&raw, |b| i32::from(u16::from_le_bytes(b)).to_le_bytes()),
        5 => each(&raw, |b| i32::from(i16::from_le_bytes(b)).to_le_bytes()),
        10 => each(&raw, |b| f16::from_le_bytes(b).to_f32().to_le_bytes()),
        12 => each(&raw, |b| i64::from(u32::from_le_bytes(b)).to_le_bytes()),
        16 => each(&raw, |b| bf16::from_le_bytes(b).to_f32().to_le_bytes()),
        _ => return None,
    })
}

/// Elements kept in the typed lists.
fn typed_data(t: &TensorProto, elements: usize) -> Result<Bytes, Diagnostic> {
    fn put<T: Copy, const N: usize>(values: &[T], f: impl Fn(T) -> Option<[u8; N]>) -> Option<Bytes> {
        let mut out = Vec::with_capacity(values.len().checked_mul(N)?);
        for v in values {
            out.extend_from_slice(&f(*v)?);
        }
        Some(out.into())
    }
    let found = match t.data_type {
        1 => t.float_data.len(),
        7 => t.int64_data.len(),
        11 => t.double_data.len(),
        12 => t.uint64_data.len(),
        _ => t.int32_data.len(),
    };
    checked(t, found, elements, "elements")?;
    let ints = &t.int32_data;
    let bytes = match t.data_type {
        1 => put(&t.float_data, |v| Some(v.to_le_bytes())),
        7 => put(&t.int64_data, |v| Some(v.to_le_bytes())),
        11 => put(&t.double_data, |v| Some(v.to_le_bytes())),
        12 => put(&t.uint64_data, |v| Some(i64::from(u32::try_from(v).ok()?).to_le_bytes())),
        2 => put(ints, |v| Some(u8::try_from(v).ok()?.to_le_bytes())),
        3 => put(ints, |v| Some(i8::try_from(v).ok()?.to_le_bytes())),
        4 => put(ints, |v| Some(i32::from(u16::try_from(v).ok()?).to_le_bytes())),
        5 => put(ints, |v| Some(i32::from(i16::try_from(v).ok()?).to_le_bytes())),
        6 => put(ints, |v| Some(v.to_le_bytes())),
        9 => put(ints, |v| Some([u8::from(v != 0)])),
        10 => put(ints, |v| Some(f16::from_bits(u16::try_from(v).ok()?).to_f32().to_le_bytes())),
        16 => put(ints, |v| Some(bf16::from_bits(u16::try_from(v).ok()?).to_f32().to_le_bytes())),
        _ => None,
    };
    bytes.ok_or_else(|| {
        let kind = elem_name(t.data_type);
        Diagnostic::error(&E0109, format!("tensor {:?} has a number that is no {kind}", text(&t.name)))
    })
}
