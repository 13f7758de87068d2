//! Attributes of a node, each of which must be consumed.

use pfmc_ir::diag::Diagnostic;

use super::codes::E0105;
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, text};

/// The attributes of a node that have not been read yet.
pub(super) struct Attrs<'m> {
    left: Vec<(String, &'m AttributeProto)>,
}

const KINDS: [&str; 15] = [
    "of no type",
    "a float",
    "an integer",
    "a string",
    "a tensor",
    "a graph",
    "floats",
    "integers",
    "strings",
    "tensors",
    "graphs",
    "a sparse tensor",
    "sparse tensors",
    "a type",
    "types",
];

fn kind(a: &AttributeProto) -> usize {
    match usize::try_from(a.r#type) {
        // Files of the first format versions do not say.
        Ok(0) if a.f.is_some() => 1,
        Ok(0) if a.i.is_some() => 2,
        Ok(0) if a.s.is_some() => 3,
        Ok(0) if a.t.is_some() => 4,
        Ok(0) if a.g.is_some() => 5,
        Ok(0) if !a.floats.is_empty() => 6,
        Ok(0) if !a.ints.is_empty() => 7,
        Ok(0) if !a.strings.is_empty() => 8,
        Ok(k) if k < KINDS.len() => k,
        _ => 0,
    }
}

impl<'m> Attrs<'m> {
    /// All attributes of a node.
    pub(super) fn new(node: &'m NodeProto) -> Self {
        Attrs { left: node.attribute.iter().map(|a| (text(&a.name), a)).collect() }
    }

    /// Names not read.
    pub(super) fn rest(&self) -> impl Iterator<Item = &str> {
        self.left.iter().map(|(n, _)| n.as_str())
    }

    fn take(&mut self, name: &str, want: usize) -> Result<Option<&'m AttributeProto>, Diagnostic> {
        let Some(at) = self.left.iter().position(|(n, _)| n == name) else { return Ok(None) };
        let (_, a) = self.left.remove(at);
        if !a.ref_attr_name.is_empty() {
            return Err(Diagnostic::error(
                &E0105,
                format!("attribute {name} refers to a function's attribute"),
            ));
        }
        // An empty list of a file that names no types has no kind at all.
        let found = kind(a);
        if found == want || (a.r#type == 0 && found == 0 && want > 5) {
            Ok(Some(a))
        } else {
            Err(Diagnostic::error(
                &E0105,
                format!("attribute {name} is {}, not {}", KINDS[found], KINDS[want]),
            ))
        }
    }

    /// A float.
    pub(super) fn float(&mut self, name: &str) -> Result<Option<f32>, Diagnostic> {
        Ok(self.take(name, 1)?.map(|a| a.f.unwrap_or(0.0)))
    }

    /// An integer.
    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>, Diagnostic> {
        Ok(self.take(name, 2)?.map(|a| a.i.unwrap_or(0)))
    }

    /// A flag, 0 or 1.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, Diagnostic> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(v) => Err(Diagnostic::error(&E0105, format!("attribute {name} is {v}, not 0 or 1"))),
        }
    }

    /// A string.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, Diagnostic> {
        Ok(self.take(name, 3)?.map(|a| a.s.as_ref().map(text).unwrap_or_default()))
    }

    /// A tensor.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Option<&'m TensorProto>, Diagnostic> {
        Ok(self.take(name, 4)?.and_then(|a| a.t.as_ref()))
    }

    /// Floats.
    pub(super) fn floats(&mut self, name: &str) -> Result<Option<&'m [f32]>, Diagnostic> {
        Ok(self.take(name, 6)?.map(|a| &a.floats[..]))
    }

    /// Integers.
    pub(super) fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, Diagnostic> {
        Ok(self.take(name, 7)?.map(|a| a.ints.clone()))
    }

    /// Strings.
    pub(super) fn strings(&mut self, name: &str) -> Result<Option<Vec<String>>, Diagnostic> {
        Ok(self.take(name, 8)?.map(|a| a.strings.iter().map(text).collect()))
    }

    /// A graph.
    pub(super) fn optional_graph(&mut self, name: &str) -> Result<Option<&'m GraphProto>, Diagnostic> {
        Ok(self.take(name, 5)?.and_then(|a| a.g.as_ref()))
    }

    /// A graph, which must be there.
    pub(super) fn graph(&mut self, name: &str) -> Result<&'m GraphProto, Diagnostic> {
        self.optional_graph(name)?
            .ok_or_else(|| Diagnostic::error(&E0105, format!("attribute {name} is missing")))
    }
}
