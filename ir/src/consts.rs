//! Constants of a graph. Bytes stay where they are: in the mapped model file, in a mapped external
//! file, or in memory when a pass derived them. Nothing here copies a weight as a whole.

use std::sync::OnceLock;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::diag::{Diagnostic, Diagnostics};
use crate::elem::Elem;
use crate::op::ConstId;
use crate::origin::Origin;
use crate::tensor::{Tensor, count};

/// Where a constant's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstSource {
    /// In the model file.
    Mapped(Bytes),
    /// In an external file of the model's folder.
    External(Bytes),
    /// Computed by a pass.
    Derived(Bytes),
    /// In the program's data, from this byte offset on.
    Data(u64),
}

/// A constant tensor, little-endian and row-major.
#[derive(Debug, Clone)]
pub struct Const {
    /// Element type.
    pub elem: Elem,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes.
    pub source: ConstSource,
    /// Source tensor.
    pub origin: Origin,
    /// Whether training produced it (a weight, or something computed from weights), as against
    /// part of the architecture (axes, shapes, epsilons, masks).
    pub learned: bool,
    digest: OnceLock<[u8; 32]>,
}

impl Const {
    /// A constant whose byte length has been checked against its shape.
    ///
    /// # Errors
    /// When the bytes do not fit the shape.
    pub fn new(
        elem: Elem,
        shape: Vec<usize>,
        source: ConstSource,
        origin: Origin,
        learned: bool,
    ) -> Result<Const, String> {
        let expected = count(&shape).and_then(|c| elem.stored(c));
        let (ConstSource::Mapped(b) | ConstSource::External(b) | ConstSource::Derived(b)) = &source else {
            return match expected {
                Some(_) => Ok(Const { elem, shape, source, origin, learned, digest: OnceLock::new() }),
                None => Err(format!("shape {shape:?} overflows")),
            };
        };
        if expected != Some(b.len()) {
            return Err(format!("{} bytes cannot hold {elem} of shape {shape:?}", b.len()));
        }
        Ok(Const { elem, shape, source, origin, learned, digest: OnceLock::new() })
    }

    /// A derived constant.
    pub fn derived(tensor: &Tensor, origin: Origin, learned: bool) -> Const {
        Const {
            elem: tensor.elem(),
            shape: tensor.shape().to_vec(),
            source: ConstSource::Derived(tensor.to_le_bytes().into()),
            origin,
            learned,
            digest: OnceLock::new(),
        }
    }

    /// Its bytes, unless they are in the program's data.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.source {
            ConstSource::Mapped(b) | ConstSource::External(b) | ConstSource::Derived(b) => Some(b),
            ConstSource::Data(_) => None,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 of its bytes, computed once; `None` for constants in the program's data.
    pub fn digest(&self) -> Option<&[u8; 32]> {
        let bytes = self.bytes()?;
        Some(self.digest.get_or_init(|| Sha256::digest(bytes).into()))
    }

    /// As a tensor, which shares the bytes where they can be read in place.
    ///
    /// # Errors
    /// When its bytes are in the program's data.
    pub fn tensor(&self) -> Result<Tensor, Diagnostics> {
        let bytes = self.bytes().ok_or_else(|| {
            Diagnostic::error(&crate::codes::E0801, "a constant of the program's data has no bytes here")
                .at(&self.origin)
        })?;
        Tensor::from_shared_bytes(self.elem, self.shape.clone(), bytes)
            .map_err(|e| Diagnostic::error(&crate::codes::E0801, e).at(&self.origin).into())
    }
}

/// The constants of a graph, by [`ConstId`].
#[derive(Debug, Clone, Default)]
pub struct Consts(Vec<Const>);

impl Consts {
    /// Adds one.
    pub fn add(&mut self, c: Const) -> ConstId {
        self.0.push(c);
        ConstId((self.0.len() - 1) as u32)
    }

    /// One constant.
    pub fn get(&self, id: ConstId) -> Option<&Const> {
        self.0.get(id.index())
    }

    /// One constant, to change.
    pub fn get_mut(&mut self, id: ConstId) -> Option<&mut Const> {
        self.0.get_mut(id.index())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ConstId, &Const)> {
        self.0.iter().enumerate().map(|(i, c)| (ConstId(i as u32), c))
    }
}
