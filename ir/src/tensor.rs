//! Dense tensors in row-major order, cheap to clone.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use crate::elem::Elem;

/// Elements that tensors share: owned, or in place in a mapped file.
pub struct Shared<T>(Kept<T>);

enum Kept<T> {
    Owned(Arc<Vec<T>>),
    /// Bytes for which [`Element::cast`] gives elements.
    Mapped(Bytes),
}

impl<T: Element> Shared<T> {
    /// The elements that bytes are, where they lie. `None` when they cannot be read there: not
    /// aligned, of a type with other bit patterns than its own, or on a big-endian processor.
    pub fn mapped(bytes: Bytes) -> Option<Self> {
        T::cast(&bytes)?;
        Some(Shared(Kept::Mapped(bytes)))
    }

    /// The elements, to change, if nothing else shares them.
    pub fn unique(&mut self) -> Option<&mut [T]> {
        match &mut self.0 {
            Kept::Owned(values) => Arc::get_mut(values).map(Vec::as_mut_slice),
            Kept::Mapped(_) => None,
        }
    }
}

impl<T: Element> Deref for Shared<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.0 {
            Kept::Owned(values) => values,
            Kept::Mapped(bytes) => T::cast(bytes).unwrap_or(&[]),
        }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(match &self.0 {
            Kept::Owned(values) => Kept::Owned(values.clone()),
            Kept::Mapped(bytes) => Kept::Mapped(bytes.clone()),
        })
    }
}

impl<T> From<Vec<T>> for Shared<T> {
    fn from(values: Vec<T>) -> Self {
        Shared(Kept::Owned(Arc::new(values)))
    }
}

impl<T: Clone> From<&[T]> for Shared<T> {
    fn from(values: &[T]) -> Self {
        values.to_vec().into()
    }
}

impl<T> FromIterator<T> for Shared<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Vec::from_iter(values).into()
    }
}

impl<T: Element> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl<T: Element + fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}

macro_rules! data {
    ($($v:ident $t:ty)*) => {
        /// Elements of a tensor.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Data {
            $(
                #[doc = concat!("[`Elem::", stringify!($v), "`]")]
                $v(Shared<$t>),
            )*
            /// An element type for which [`Elem::is_code`] holds: the code of each element in the low
            /// bits of a byte of its own.
            Code(Elem, Shared<u8>),
        }

        impl Data {
            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Data::$v(x) => x.len(),)*
                    Data::Code(_, x) => x.len(),
                }
            }

            /// Element type.
            pub fn elem(&self) -> Elem {
                match self {
                    $(Data::$v(_) => Elem::$v,)*
                    Data::Code(elem, _) => *elem,
                }
            }
        }
    };
}

/// Runs `$body` with `$x` bound to the slice of whatever element type it has: codes as `u8`.
#[macro_export]
macro_rules! each_data {
    ($data:expr, $x:ident => $body:expr) => {
        match $data {
            $crate::tensor::Data::F32($x) => $body,
            $crate::tensor::Data::F64($x) => $body,
            $crate::tensor::Data::F16($x) => $body,
            $crate::tensor::Data::BF16($x) => $body,
            $crate::tensor::Data::I64($x) => $body,
            $crate::tensor::Data::I32($x) => $body,
            $crate::tensor::Data::I16($x) => $body,
            $crate::tensor::Data::I8($x) => $body,
            $crate::tensor::Data::U64($x) => $body,
            $crate::tensor::Data::U32($x) => $body,
            $crate::tensor::Data::U16($x) => $body,
            $crate::tensor::Data::U8($x) => $body,
            $crate::tensor::Data::Bool($x) => $body,
            $crate::tensor::Data::Code(_, $x) => $body,
        }
    };
}

/// A Rust type that is an element type.
pub trait Element: Copy + PartialEq + Send + Sync + 'static {
    /// Which.
    const ELEM: Elem;
    /// Wraps elements.
    fn wrap(values: Vec<Self>) -> Data;
    /// The elements of data of this type.
    fn of(data: &Data) -> Option<&[Self]>;
    /// The same, to change, if nothing else shares them.
    fn of_mut(data: &mut Data) -> Option<&mut [Self]>;
    /// Little-endian bytes as elements where they lie; `None` when that is not possible.
    fn cast(bytes: &[u8]) -> Option<&[Self]>;
    /// From little-endian bytes of exactly the element's size.
    fn from_le(bytes: &[u8]) -> Self;
    /// Appends little-endian bytes.
    fn put_le(self, out: &mut Vec<u8>);
}

data! {
    F32 f32 F64 f64 F16 f16 BF16 bf16
    I64 i64 I32 i32 I16 i16 I8 i8
    U64 u64 U32 u32 U16 u16 U8 u8
    Bool bool
}

macro_rules! element {
    ($($v:ident $t:ty)*) => {$(
        impl Element for $t {
            const ELEM: Elem = Elem::$v;
            fn wrap(values: Vec<Self>) -> Data { Data::$v(values.into()) }
            fn of(data: &Data) -> Option<&[Self]> {
                if let Data::$v(x) = data { Some(x) } else { None }
            }
            fn of_mut(data: &mut Data) -> Option<&mut [Self]> {
                if let Data::$v(x) = data { x.unique() } else { None }
            }
            fn cast(bytes: &[u8]) -> Option<&[Self]> {
                if cfg!(target_endian = "big") {
                    return None;
                }
                bytemuck::try_cast_slice(bytes).ok()
            }
            fn from_le(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(bytes);
                <$t>::from_le_bytes(raw)
            }
            fn put_le(self, out: &mut Vec<u8>) { out.extend_from_slice(&self.to_le_bytes()) }
        }
    )*};
}
element! {
    F32 f32 F64 f64 F16 f16 BF16 bf16
    I64 i64 I32 i32 I16 i16 I8 i8
    U64 u64 U32 u32 U16 u16 U8 u8
}

impl Element for bool {
    const ELEM: Elem = Elem::Bool;
    fn wrap(values: Vec<Self>) -> Data {
        Data::Bool(values.into())
    }
    fn of(data: &Data) -> Option<&[Self]> {
        if let Data::Bool(x) = data { Some(x) } else { None }
    }
    fn of_mut(data: &mut Data) -> Option<&mut [Self]> {
        if let Data::Bool(x) = data { x.unique() } else { None }
    }
    fn cast(_: &[u8]) -> Option<&[Self]> {
        None
    }
    fn from_le(bytes: &[u8]) -> Self {
        bytes.iter().any(|&b| b != 0)
    }
    fn put_le(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }
}

impl Data {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor. Its shape and its number of elements always agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

/// Number of elements of a shape; `None` when it overflows.
pub fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b))
}

impl Tensor {
    /// A tensor of the given elements.
    ///
    /// # Errors
    /// When shape and length disagree.
    pub fn new<T: Element>(shape: Vec<usize>, values: Vec<T>) -> Result<Tensor, String> {
        Self::from_data(shape, T::wrap(values))
    }

    /// As [`Tensor::new`], from wrapped data.
    ///
    /// # Errors
    /// When shape and length disagree.
    pub fn from_data(shape: Vec<usize>, data: Data) -> Result<Tensor, String> {
        if count(&shape) == Some(data.len()) {
            Ok(Tensor { shape, data })
        } else {
            Err(format!("{} elements cannot have shape {shape:?}", data.len()))
        }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor { shape: Vec::new(), data: T::wrap(vec![value]) }
    }

    /// A tensor of rank 1.
    pub fn vector<T: Element>(values: Vec<T>) -> Tensor {
        Tensor { shape: vec![values.len()], data: T::wrap(values) }
    }

    /// From little-endian bytes, row-major; elements of fewer than 8 bits packed from the low bits up.
    ///
    /// # Errors
    /// When the length does not fit the shape.
    pub fn from_le_bytes(elem: Elem, shape: Vec<usize>, bytes: &[u8]) -> Result<Tensor, String> {
        fn read<T: Element>(bytes: &[u8]) -> Data {
            T::wrap(bytes.chunks_exact(size_of::<T>()).map(T::from_le).collect())
        }
        let elements = count(&shape);
        let (Some(elements), true) = (elements, elements.and_then(|c| elem.stored(c)) == Some(bytes.len()))
        else {
            return Err(format!("{} bytes cannot hold {elem} of shape {shape:?}", bytes.len()));
        };
        let data = match elem {
            Elem::F32 => read::<f32>(bytes),
            Elem::F64 => read::<f64>(bytes),
            Elem::F16 => read::<f16>(bytes),
            Elem::BF16 => read::<bf16>(bytes),
            Elem::I64 => read::<i64>(bytes),
            Elem::I32 => read::<i32>(bytes),
            Elem::I16 => read::<i16>(bytes),
            Elem::I8 => read::<i8>(bytes),
            Elem::U64 => read::<u64>(bytes),
            Elem::U32 => read::<u32>(bytes),
            Elem::U16 => read::<u16>(bytes),
            Elem::U8 => read::<u8>(bytes),
            Elem::Bool => read::<bool>(bytes),
            code => {
                let (bits, each) = (code.bits(), 8 / code.bits());
                let mask = u8::MAX >> (8 - bits);
                let at = |i: usize| (bytes[i / each] >> (i % each * bits)) & mask;
                Data::Code(code, (0..elements).map(at).collect())
            }
        };
        Ok(Tensor { shape, data })
    }

    /// As [`Tensor::from_le_bytes`], sharing the bytes where they can be read in place.
    ///
    /// # Errors
    /// When the length does not fit the shape.
    pub fn from_shared_bytes(elem: Elem, shape: Vec<usize>, bytes: &Bytes) -> Result<Tensor, String> {
        fn read<T: Element>(bytes: &Bytes, wrap: impl Fn(Shared<T>) -> Data) -> Option<Data> {
            Shared::mapped(bytes.clone()).map(wrap)
        }
        let data = match elem {
            Elem::F32 => read(bytes, Data::F32),
            Elem::F64 => read(bytes, Data::F64),
            Elem::F16 => read(bytes, Data::F16),
            Elem::BF16 => read(bytes, Data::BF16),
            Elem::I64 => read(bytes, Data::I64),
            Elem::I32 => read(bytes, Data::I32),
            Elem::I16 => read(bytes, Data::I16),
            Elem::I8 => read(bytes, Data::I8),
            Elem::U64 => read(bytes, Data::U64),
            Elem::U32 => read(bytes, Data::U32),
            Elem::U16 => read(bytes, Data::U16),
            Elem::U8 => read(bytes, Data::U8),
            code if code.is_code() && code.bits() == 8 => read(bytes, |x| Data::Code(code, x)),
            _ => None,
        };
        match data {
            Some(data) => Self::from_data(shape, data),
            None => Self::from_le_bytes(elem, shape, bytes),
        }
    }

    /// The elements as [`Tensor::from_le_bytes`] reads them.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        if let Data::Code(elem, codes) = &self.data {
            let bits = elem.bits();
            let pack = |part: &[u8]| {
                part.iter().rev().fold(0, |byte, &c| if bits < 8 { byte << bits | c } else { c })
            };
            return codes.chunks(8 / bits).map(pack).collect();
        }
        let mut out = Vec::with_capacity(self.elem().stored(self.len()).unwrap_or(0));
        each_data!(&self.data, x => x.iter().for_each(|&v| v.put_le(&mut out)));
        out
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Element type.
    pub fn elem(&self) -> Elem {
        self.data.elem()
    }

    /// Elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Elements as `T`.
    ///
    /// # Errors
    /// When they have another type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], String> {
        T::of(&self.data).ok_or_else(|| format!("expected {}, found {}", T::ELEM, self.elem()))
    }

    /// Elements as `T`, to change; `None` when they have another type or something else shares them.
    pub fn unique<T: Element>(&mut self) -> Option<&mut [T]> {
        T::of_mut(&mut self.data)
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Tensor, String> {
        Self::from_data(shape, self.data.clone())
    }
}

/// Row-major strides of a shape, in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// The shape two shapes broadcast to (ONNX multidirectional broadcasting).
///
/// # Errors
/// When they do not broadcast.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// An axis counted from the end when negative, as an index.
///
/// # Errors
/// When it is out of range.
pub fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let r = rank as i64;
    let a = if axis < 0 { axis.saturating_add(r) } else { axis };
    if (0..r).contains(&a) { Ok(a as usize) } else { Err(format!("axis {axis} of a tensor of rank {rank}")) }
}
