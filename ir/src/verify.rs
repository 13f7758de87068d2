//! Proof that a value passed its verifier.

use std::ops::Deref;

use crate::diag::Diagnostics;

/// A value with invariants that can be checked.
pub trait Verify {
    /// Checks every invariant.
    ///
    /// # Errors
    /// All violations.
    fn verify(&self) -> Result<(), Diagnostics>;
}

/// A rule of a verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Short name.
    pub name: &'static str,
    /// A part of each message about it.
    pub says: &'static [&'static str],
}

/// A value whose verifier has passed. Only [`Verified::new`] makes one; a value is changed
/// before, never after.
#[derive(Debug, Clone)]
pub struct Verified<T>(T);

impl<T: Verify> Verified<T> {
    /// Verifies.
    ///
    /// # Errors
    /// All violations.
    pub fn new(value: T) -> Result<Self, Diagnostics> {
        value.verify()?;
        Ok(Verified(value))
    }
}

impl<T> Verified<T> {
    /// Gives the value back, to be changed and verified again.
    pub fn unverified(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
