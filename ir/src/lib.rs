//! The intermediate representation of pfmc: graph, operations, shapes, tile program, verifier,
//! text form and interpreter. Pure data: no file format of others and no target's name.

pub mod backend;
pub mod diag;
pub mod numerics;
pub mod origin;
pub mod program;
pub mod tile;
pub mod verify;
