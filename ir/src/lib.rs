//! The intermediate representation of pfmc: graph, operations, shapes, tile program, verifier,
//! text form and interpreter. Pure data: no file format of others and no target's name.

pub mod backend;
pub mod codes;
pub mod consts;
pub mod diag;
pub mod elem;
pub mod estimate;
pub mod eval;
pub mod exec;
pub mod graph;
mod grouped;
pub mod infer;
pub mod loaded;
pub mod narrow;
pub mod numerics;
pub mod op;
pub mod origin;
pub mod program;
pub mod random;
pub mod shape;
pub mod tensor;
pub mod text;
pub mod tile;
pub mod verify;
pub(crate) mod windows;
