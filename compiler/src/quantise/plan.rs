//! The plan of the weights: how each part of each fixed matrix is represented. Tiles, layout and
//! register-transfer code follow from it and from the architecture alone, so a retrained model that is
//! held to the plan of a chip changes nothing but what the chip's weight mask holds.
//!
//! As a file it is JSON:
//!
//! ```json
//! { "format": 1, "equalised": [], "matrices": [
//!   { "tensor": "lm_head.weight", "k": 192, "n": 256, "activations": "int8/row",
//!     "blocks": [ { "k": [0, 192], "n": [0, 256], "scheme": "codebook4/32" } ] } ] }
//! ```

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use pfmc_ir::backend::Settings;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Activations, FixedMatrix, Scheme, TileKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codes::E0404;
use crate::files::io_error;
use crate::passes::fix::Found;

/// File name in the output folder.
pub const FILE: &str = "plan.json";
/// Version of the format.
pub const FORMAT: u32 = 1;

/// The plan of all fixed matrices of a program, in its order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightPlan {
    /// [`FORMAT`].
    pub format: u32,
    /// Exponents of the factors of equalised inputs ([`super::equalise::measure`]): in the file one text an input,
    /// such as `"0 -1 2"`. Empty where none is equalised.
    #[serde(default, serialize_with = "print_exponents", deserialize_with = "parse_exponents")]
    pub equalised: Vec<Vec<i8>>,
    /// Values of keys of the process that were chosen for the model, by `table.key`.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub process: Settings,
    /// By matrix.
    pub matrices: Vec<MatrixPlan>,
}

/// The plan of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixPlan {
    /// Source tensor; empty where no single tensor is the source.
    pub tensor: String,
    /// Rows.
    pub k: u32,
    /// Columns.
    pub n: u32,
    /// How its inputs are rounded.
    #[serde(serialize_with = "print", deserialize_with = "parse")]
    pub activations: Activations,
    /// Rectangles that cover it.
    pub blocks: Vec<Block>,
}

/// A rectangle of a matrix with one scheme; the target cuts it into tiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// First row, and the row after the last.
    pub k: [u32; 2],
    /// First column, and the column after the last.
    pub n: [u32; 2],
    /// Representation.
    #[serde(serialize_with = "print", deserialize_with = "parse")]
    pub scheme: Scheme,
}

fn print<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn parse<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn print_exponents<S: Serializer>(inputs: &[Vec<i8>], to: S) -> Result<S::Ok, S::Error> {
    let text = |of: &Vec<i8>| of.iter().map(i8::to_string).collect::<Vec<_>>().join(" ");
    to.collect_seq(inputs.iter().map(text))
}

fn parse_exponents<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<i8>>, D::Error> {
    let numbers = |of: &String| of.split_whitespace().map(str::parse).collect::<Result<_, _>>();
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(numbers).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// Checks that the plan in a folder is that of the folder's program.
pub fn check(folder: &Path, program: &TileProgram) -> Diagnostics {
    let path = folder.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) => return io_error("read", &path, &e).into(),
    };
    let plan = serde_json::from_str::<WeightPlan>(&text);
    if plan.is_ok_and(|plan| WeightPlan::of(program, plan).text() == text) {
        return Diagnostics::new();
    }
    Diagnostic::error(&E0404, format!("{}: it is not the plan of the folder's program", path.display()))
        .into()
}

fn tensor(found: &Found) -> &str {
    found.origin.tensor.as_deref().unwrap_or_default()
}

impl MatrixPlan {
    /// One scheme for a whole matrix.
    pub fn uniform(found: &Found, scheme: Scheme) -> MatrixPlan {
        let (k, n) = (found.view.k, found.view.n);
        MatrixPlan {
            tensor: tensor(found).to_owned(),
            k,
            n,
            activations: Activations::Row,
            blocks: vec![Block { k: [0, k], n: [0, n], scheme }],
        }
    }

    /// What is wrong with the blocks; none when they cover the matrix exactly once.
    fn fault(&self) -> Option<String> {
        let mut area = 0u128;
        for (i, b) in self.blocks.iter().enumerate() {
            let within = |[from, to]: [u32; 2], length: u32| from < to && to <= length;
            if !within(b.k, self.k) || !within(b.n, self.n) {
                return Some(format!("block {i} lies outside of the {} x {} elements", self.k, self.n));
            }
            if !b.scheme.is_valid() {
                return Some(format!("block {i} has the scheme {}", b.scheme));
            }
            let meet = |a: [u32; 2], b: [u32; 2]| a[0] < b[1] && b[0] < a[1];
            if let Some(j) = self.blocks[..i].iter().position(|o| meet(o.k, b.k) && meet(o.n, b.n)) {
                return Some(format!("blocks {j} and {i} overlap"));
            }
            area += u128::from(b.k[1] - b.k[0]) * u128::from(b.n[1] - b.n[0]);
        }
        (area != u128::from(self.k) * u128::from(self.n)).then(|| "its blocks leave gaps".into())
    }
}

impl WeightPlan {
    /// One scheme for all.
    pub fn uniform(found: &[Found], scheme: Scheme) -> WeightPlan {
        let matrices = found.iter().map(|f| MatrixPlan::uniform(f, scheme)).collect();
        WeightPlan { format: FORMAT, equalised: Vec::new(), process: Settings::new(), matrices }
    }

    /// Bits that are fixed for the matrices, each block taken as one tile.
    pub fn bits(&self) -> u64 {
        let blocks = self.matrices.iter().flat_map(|m| &m.blocks);
        blocks.map(|b| b.scheme.bits((b.k[1] - b.k[0]) as usize, (b.n[1] - b.n[0]) as usize)).sum()
    }

    /// The plan of a program, a block a tile; what is not of single matrices is another plan's.
    pub fn of(program: &TileProgram, other: WeightPlan) -> WeightPlan {
        let plan = |m: &FixedMatrix| MatrixPlan {
            tensor: m.origin.tensor.clone().unwrap_or_default(),
            k: m.k,
            n: m.n,
            activations: m.activations,
            blocks: Vec::new(),
        };
        let mut matrices: Vec<MatrixPlan> = program.matrices.iter().map(plan).collect();
        for tile in &program.tiles {
            if let TileKind::Matrix { matrix, k, n, scheme } = &tile.kind
                && let Some(m) = matrices.get_mut(matrix.index())
            {
                m.blocks.push(Block { k: [k.start, k.end], n: [n.start, n.end], scheme: *scheme });
            }
        }
        WeightPlan { matrices, ..other }
    }

    /// As in the file.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// E0404 for what is no plan.
    pub fn open(path: &Path) -> Result<WeightPlan, Diagnostics> {
        let text = std::fs::read_to_string(path).map_err(|e| io_error("read", path, &e))?;
        let bad = |e: serde_json::Error| Diagnostic::error(&E0404, format!("{}: {e}", path.display()));
        serde_json::from_str(&text).map_err(|e| bad(e).into())
    }

    /// Reads a plan and checks that it is one of the matrices of a model.
    ///
    /// # Errors
    /// E0404 for everything that does not fit, all at once.
    pub fn read(path: &Path, found: &[Found]) -> Result<WeightPlan, Diagnostics> {
        let plan = WeightPlan::open(path)?;
        let bad = |m: String| Diagnostic::error(&E0404, format!("{}: {m}", path.display()));
        let mut all = Diagnostics::new();
        if plan.format != FORMAT {
            all.push(bad(format!("it is of format {}, this is format {FORMAT}", plan.format)));
        }
        if plan.matrices.len() != found.len() {
            let message = format!("it plans {} matrices, the model has {}", plan.matrices.len(), found.len());
            all.push(bad(message));
        }
        for (i, (m, f)) in plan.matrices.iter().zip(found).enumerate() {
            if m.tensor != tensor(f) || (m.k, m.n) != (f.view.k, f.view.n) {
                let message = format!(
                    "matrix {i} is {:?} of {} x {}, the model's is {:?} of {} x {}",
                    m.tensor,
                    m.k,
                    m.n,
                    tensor(f),
                    f.view.k,
                    f.view.n
                );
                all.push(bad(message).at(&f.origin));
            } else if let Some(fault) = m.fault() {
                all.push(bad(format!("matrix {i} ({:?}): {fault}", m.tensor)).at(&f.origin));
            }
        }
        all.check()?;
        Ok(plan)
    }
}
