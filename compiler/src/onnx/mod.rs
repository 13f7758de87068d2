//! ONNX front end: a model file becomes a [`Graph`] over open shapes.
//!
//! Reading maps the file and decodes it in place, so that weights stay where they are. All
//! problems of a model are reported together. See [`supported`] for the operators.

mod attrs;
pub mod codes;
mod files;
mod functions;
mod import;
mod lower;
mod ops;
pub mod proto;
mod tensor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use pfmc_ir::consts::Const;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::Graph;
use pfmc_ir::op::Op;
use pfmc_ir::shape::OpenType;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::files::hex;
pub use files::decode;
pub use ops::{MAX_OPSET, MIN_OPSET, OpInfo, support_table, supported};

/// A file a model was read from.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// File name, relative to the model's folder, with `/` between components.
    pub name: String,
    /// Its bytes, mapped.
    pub bytes: Bytes,
}

/// An imported model.
#[derive(Debug, Clone)]
pub struct Model {
    /// What it computes. The type of every value is inferred.
    pub graph: Graph<OpenType>,
    /// The file's name without extension.
    pub name: String,
    /// Version of the standard operator set.
    pub opset: i64,
    /// The model file, then its external data files in order of name.
    pub files: Vec<ModelFile>,
    /// What the user should know.
    pub warnings: Diagnostics,
    /// Number of elements of learned constants, in regions too: float constants of rank 1 or more with more than
    /// one element.
    pub parameters: u64,
    /// Number of nodes of each ONNX operator, with `domain::` before it outside the standard domain.
    pub op_counts: BTreeMap<String, u64>,
}

impl Model {
    /// SHA-256 in hexadecimal that names the model's content: of the model file when it is alone.
    /// With external files, of the model file's digest (32 bytes) followed, for each external file
    /// in order of name, by the name's length (8 bytes, little-endian), the name, and the file's
    /// digest. Reads every byte of every file.
    pub fn digest(&self) -> String {
        let digests: Vec<[u8; 32]> = self.files.par_iter().map(|f| Sha256::digest(&f.bytes).into()).collect();
        let all = match (&self.files[..], &digests[..]) {
            (_, [one]) => *one,
            (files, digests) => {
                let mut h = Sha256::new();
                for (i, (file, digest)) in files.iter().zip(digests).enumerate() {
                    if i > 0 {
                        h.update((file.name.len() as u64).to_le_bytes());
                        h.update(file.name.as_bytes());
                    }
                    h.update(digest);
                }
                h.finalize().into()
            }
        };
        hex(&all)
    }
}

/// Imports a model file. Weights stay in the mapped file; only 16-bit ones and those stored as
/// lists of numbers are copied.
///
/// # Errors
/// Every problem found in the file, the graph and its external data.
pub fn import(path: &Path) -> Result<Model, Diagnostics> {
    let name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    import_from(files::Files::open(path)?, name)
}

/// Imports a model that is in memory; its weights cannot be in other files.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(bytes: Bytes) -> Result<Model, Diagnostics> {
    import_from(files::Files::memory(bytes), String::new())
}

fn import_from(mut store: files::Files, name: String) -> Result<Model, Diagnostics> {
    let proto = files::decode(store.model())?;
    let done = import::import(&proto, &mut store)?;
    let mut parameters = 0;
    // A constant that several regions read is in each of them, with the same bytes.
    let mut counted = BTreeSet::new();
    done.graph.each(&mut |g| {
        for (_, c) in g.consts.iter().filter(|(_, c)| c.learned) {
            if c.bytes().is_none_or(|b| counted.insert((b.as_ptr().addr(), b.len()))) {
                parameters += c.len() as u64;
            }
        }
    });
    Ok(Model {
        graph: done.graph,
        name,
        opset: done.opset,
        files: store.into_files(),
        warnings: done.warnings,
        parameters,
        op_counts: done.op_counts,
    })
}

/// Looks at every element of the learned constants, those of regions too: a NaN is an error; so is an
/// infinity in a tensor that is multiplied or looked up, while elsewhere (additive masks) it is a warning.
/// Reads all weights once, on all cores.
pub fn check_finite(graph: &Graph<OpenType>) -> Diagnostics {
    // Constants of regions can have the bytes of those outside: each place in memory is read once.
    let mut learned: Vec<&Const> = Vec::new();
    let mut known: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut multiplied = BTreeSet::new();
    collect(graph, &[], &mut |c, used| {
        if let Some(bytes) = c.bytes().filter(|_| c.learned) {
            let at = *known.entry((bytes.as_ptr() as usize, bytes.len())).or_insert(learned.len());
            if at == learned.len() {
                learned.push(c);
            }
            if used {
                multiplied.insert(at);
            }
        }
    });
    let found: Vec<Option<Diagnostic>> = learned
        .par_iter()
        .enumerate()
        .map(|(i, c)| {
            let (at, nan) = first_not_finite(c.elem, c.bytes()?)?;
            let name = c.origin.tensor.as_deref().unwrap_or("");
            let index = unflatten(at, &c.shape);
            let what = if nan { "NaN" } else { "an infinity" };
            let message = format!("tensor {name:?} has {what} at index {index:?}");
            Some(if nan || multiplied.contains(&i) {
                Diagnostic::error(&codes::E0113, message).at(&c.origin)
            } else {
                Diagnostic::warning(&codes::E0113, message).at(&c.origin)
            })
        })
        .collect();
    Diagnostics(found.into_iter().flatten().collect())
}

/// Calls `f` with every constant of a graph and its regions, and with every constant that an operation
/// on weights reads (then `true`). `given` are the constants that the graph's inputs are, if they are.
fn collect<'g>(graph: &'g Graph<OpenType>, given: &[Option<&'g Const>], f: &mut dyn FnMut(&'g Const, bool)) {
    for (_, c) in graph.consts.iter() {
        f(c, false);
    }
    let inputs: BTreeMap<_, _> = graph.inputs().iter().zip(given).collect();
    let constant = |v| graph.constant(v).map(|c| c.1).or_else(|| **inputs.get(&v)?);
    for (_, node) in graph.nodes() {
        let operands = || node.inputs.iter().map(|v| constant(*v));
        match &node.op {
            Op::MatMul {}
            | Op::Conv { .. }
            | Op::ConvTranspose { .. }
            | Op::LayerNorm { .. }
            | Op::Gather { .. }
            | Op::Transpose { .. }
            | Op::Reshape { .. }
            | Op::Dequantize { .. } => operands().flatten().for_each(|c| f(c, true)),
            Op::If { .. } | Op::Loop { .. } => {
                // What a loop carries is a constant in its first iteration only.
                let given: Vec<_> = match node.op {
                    Op::If { .. } => operands().skip(1).collect(),
                    _ => operands().collect(),
                };
                for region in node.op.regions().iter().filter_map(|r| graph.region(*r)) {
                    collect(region, &given, f);
                }
            }
            _ => {}
        }
    }
}

/// Index of the first element that is not finite, and whether any NaN is there (then its index).
fn first_not_finite(elem: Elem, bytes: &[u8]) -> Option<(usize, bool)> {
    fn scan<const N: usize>(
        bytes: &[u8],
        finite: impl Fn([u8; N]) -> (bool, bool) + Sync,
    ) -> Option<(usize, bool)> {
        const STEP: usize = 1 << 16;
        let hits = bytes.par_chunks(STEP * N).enumerate().filter_map(|(part, chunk)| {
            let (elements, _) = chunk.as_chunks::<N>();
            // One pass without early exit decides for almost all chunks.
            if elements.iter().fold(true, |ok, e| ok & finite(*e).0) {
                return None;
            }
            let nan = elements.iter().position(|e| finite(*e).1);
            let at = nan.or_else(|| elements.iter().position(|e| !finite(*e).0))?;
            Some((part * STEP + at, nan.is_some()))
        });
        hits.reduce_with(|a, b| match (a.1, b.1) {
            (true, false) => a,
            (false, true) => b,
            _ => a.min(b),
        })
    }
    match elem {
        Elem::F32 => scan::<4>(bytes, |b| {
            let v = f32::from_le_bytes(b);
            (v.is_finite(), v.is_nan())
        }),
        Elem::F64 => scan::<8>(bytes, |b| {
            let v = f64::from_le_bytes(b);
            (v.is_finite(), v.is_nan())
        }),
        Elem::F16 => scan::<2>(bytes, |b| {
            let v = half::f16::from_le_bytes(b);
            (v.is_finite(), v.is_nan())
        }),
        Elem::BF16 => scan::<2>(bytes, |b| {
            let v = half::bf16::from_le_bytes(b);
            (v.is_finite(), v.is_nan())
        }),
        _ => None,
    }
}

fn unflatten(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &d) in index.iter_mut().zip(shape).rev() {
        if d > 0 {
            *i = at % d;
            at /= d;
        }
    }
    index
}
