//! Translation validation: what each pass promises, proved or measured on the model at hand.
//!
//! [`check_stage`] judges one step, any two graphs, by the exactness that was declared for it:
//!
//! | declared | shown |
//! |---|---|
//! | bit-exact | value numbering of both graphs gives every output the same number (a proof for all inputs), and the executor gives the same bits on every input |
//! | rounding | each region of nodes that differ is computed as it was, as it is, and as it was in double precision: what it is may err no more than [`region::SLACK`] times what it was, and as many units in the last place of the region's largest result |
//!
//! A NaN is like any other NaN: IEEE 754 leaves its payload open. Inputs that the graph before the pass refuses say
//! nothing about the pass; they are counted.

pub mod bound;
pub mod inputs;
mod numbering;
pub mod pipeline;
pub mod reduce;
pub mod region;
pub mod report;
mod shrink;
mod stage;

use std::collections::BTreeMap;

use pfmc_ir::diag::Diagnostics;
use serde::Serialize;

pub use stage::{Stage, check_stage};
pub(crate) use stage::{difference, doubles, matched, watching};

/// How a contract was shown to hold, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// For all inputs.
    Proof,
    /// On each of the inputs.
    Interpreter,
    /// By a bound on the error that follows from the weights and the format of the inputs.
    Bound,
    /// From the written files.
    ReadBack,
}

impl Method {
    /// In a table.
    pub fn name(self) -> &'static str {
        match self {
            Method::Proof => "proof",
            Method::Interpreter => "interpreter",
            Method::Bound => "bound",
            Method::ReadBack => "read-back",
        }
    }
}

/// The largest error found, as a part of what is allowed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worst {
    /// Error.
    pub error: f64,
    /// What it may be.
    pub bound: f64,
    /// Where it is.
    pub at: String,
}

impl Worst {
    /// Error relative to the bound; above 1 it is broken.
    pub fn share(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.bound }
    }

    /// Keeps the larger share of two.
    pub(crate) fn keep(slot: &mut Option<Worst>, new: Worst) {
        if slot.as_ref().is_none_or(|old| new.share().total_cmp(&old.share()).is_gt()) {
            *slot = Some(new);
        }
    }
}

/// What checking found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// How, strongest first; empty when nothing could be shown.
    pub methods: Vec<Method>,
    /// What was looked at, by kind.
    pub checked: BTreeMap<&'static str, u64>,
    /// The worst error, where errors are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<Worst>,
    /// Why the contract does not hold; without an error it does.
    #[serde(serialize_with = "list")]
    pub problems: Diagnostics,
}

fn list<S: serde::Serializer>(d: &Diagnostics, s: S) -> Result<S::Ok, S::Error> {
    d.0.serialize(s)
}

impl Outcome {
    /// Whether the contract holds as far as was looked.
    pub fn passed(&self) -> bool {
        !self.problems.has_errors()
    }

    pub(crate) fn count(&mut self, what: &'static str, by: u64) {
        *self.checked.entry(what).or_default() += by;
    }

    pub(crate) fn by(&mut self, method: Method) {
        if let Err(at) = self.methods.binary_search(&method) {
            self.methods.insert(at, method);
        }
    }
}
