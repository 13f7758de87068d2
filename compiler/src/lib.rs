//! The pfmc compiler: ONNX front end, passes, partition, pipeline, verification, execution.

pub mod aim;
pub mod blocks;
pub mod calibrate;
pub mod codes;
pub mod compile;
pub mod contents;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod handoff;
pub mod inspect;
pub mod layers;
pub mod manifest;
pub mod npz;
pub mod onnx;
pub mod partition;
pub mod passes;
pub mod quantise;
pub mod run;
pub mod samples;
pub mod session;
pub mod source;
pub mod targets;
pub mod verify;
pub mod view;
