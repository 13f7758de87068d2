//! Where a piece of the compiled result comes from in the source model.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Source nodes, tensor and element range behind a node, matrix, tile or region of an artefact.
///
/// `rows` and `columns` are half-open ranges in the matrix a tile realises: rows are inputs (k),
/// columns are outputs (n). The tensor keeps the source model's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Names of the source nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Name of the source tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Rows and columns of the realised matrix, `[k0, k1, n0, n1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[u64; 4]>,
}

impl Origin {
    /// A node of the source model.
    pub fn node(name: impl Into<String>) -> Self {
        Origin { nodes: vec![name.into()], ..Self::default() }
    }

    /// A tensor of the source model.
    pub fn tensor(name: impl Into<String>) -> Self {
        Origin { tensor: Some(name.into()), ..Self::default() }
    }

    /// The same origin narrowed to rows `k` and columns `n` of the realised matrix.
    #[must_use]
    pub fn with_range(&self, k: std::ops::Range<u64>, n: std::ops::Range<u64>) -> Self {
        Origin { range: Some([k.start, k.end, n.start, n.end]), ..self.clone() }
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        self.nodes.is_empty() && self.tensor.is_none() && self.range.is_none()
    }

    /// Adds the nodes (and the tensor, where this has none) of another origin.
    pub fn merge(&mut self, other: &Origin) {
        for n in &other.nodes {
            if !self.nodes.contains(n) {
                self.nodes.push(n.clone());
            }
        }
        if self.tensor.is_none() {
            self.tensor.clone_from(&other.tensor);
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        if let Some(t) = &self.tensor {
            write!(f, "tensor {t:?}")?;
            sep = " ";
        }
        if let Some([k0, k1, n0, n1]) = self.range {
            write!(f, "{sep}[k {k0}..{k1}, n {n0}..{n1}]")?;
            sep = " ";
        }
        if !self.nodes.is_empty() {
            let shown: Vec<String> = self.nodes.iter().take(3).map(|n| format!("{n:?}")).collect();
            let more = if self.nodes.len() > 3 { ", …" } else { "" };
            write!(f, "{sep}(node {}{more})", shown.join(", "))?;
        }
        Ok(())
    }
}
