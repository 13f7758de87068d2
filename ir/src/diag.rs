//! Diagnostics: every problem a user can cause, with a stable code, where it is, and what to do.
//!
//! Problems are collected in a [`Diagnostics`] and reported together; a stage fails only after it
//! has looked at everything it can. A [`Code`] is never reused for another meaning.

use std::fmt;

use serde::Serialize;

use crate::origin::Origin;

/// A stable diagnostic code with its long explanation (`pfmc explain E0104`).
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code {
    /// `E` and four digits. The first two digits name the stage: 00 usage and files, 01 ONNX
    /// import, 02 binding and shapes, 03 verifier, 04 quantisation and partition, 05 and 06 the
    /// backends, 07 artefacts and read-back, 08 execution.
    pub id: &'static str,
    /// One line.
    pub title: &'static str,
    /// What it means, what usually causes it, what to do.
    pub explain: &'static str,
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.id)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The model or artefact is rejected.
    Error,
    /// Something the user should know; the result stands.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnostic {
    /// Stable code.
    pub code: &'static Code,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one sentence with the names and numbers of this case.
    pub message: String,
    /// Where in the model it comes from.
    #[serde(skip_serializing_if = "Origin::is_unknown")]
    pub origin: Origin,
    /// Further facts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error.
    pub fn error(code: &'static Code, message: impl Into<String>) -> Self {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            origin: Origin::default(),
            notes: Vec::new(),
            help: None,
        }
    }

    /// A warning.
    pub fn warning(code: &'static Code, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Says where it comes from.
    #[must_use]
    pub fn at(mut self, origin: &Origin) -> Self {
        self.origin = origin.clone();
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{word}[{}]: {}", self.code.id, self.message)?;
        if !self.origin.is_unknown() {
            write!(f, "\n  --> {}", self.origin)?;
        }
        for n in &self.notes {
            write!(f, "\n  note: {n}")?;
        }
        if let Some(h) = &self.help {
            write!(f, "\n  help: {h}")?;
        }
        Ok(())
    }
}

/// A collection of problems; as an error value it holds at least one error.
#[derive(Debug, Clone, Default, PartialEq, thiserror::Error)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, d: Diagnostic) {
        self.0.push(d);
    }

    /// Adds all of another collection.
    pub fn extend(&mut self, other: Diagnostics) {
        self.0.extend(other.0);
    }

    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// `Err(self)` when there is an error, else the value and the warnings.
    pub fn into_result<T>(self, value: T) -> Result<(T, Diagnostics), Diagnostics> {
        if self.has_errors() { Err(self) } else { Ok((value, self)) }
    }

    /// `Err(self)` when there is an error; warnings are dropped.
    pub fn check(self) -> Result<(), Diagnostics> {
        if self.has_errors() { Err(self) } else { Ok(()) }
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(d: Diagnostic) -> Self {
        Diagnostics(vec![d])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{d}")?;
        }
        Ok(())
    }
}

/// Defines diagnostic codes as statics and collects them in `CODES`.
#[macro_export]
macro_rules! codes {
    ($($id:ident $title:literal $explain:literal)*) => {
        $(
            #[doc = $title]
            pub static $id: $crate::diag::Code = $crate::diag::Code {
                id: stringify!($id), title: $title, explain: $explain,
            };
        )*
        /// All codes of this module, in order.
        pub static CODES: &[&$crate::diag::Code] = &[$(&$id),*];
    };
}
