//! Designed tiles on disk while a schedule is being written, so that a run that was stopped goes on where it was.
//!
//! The folder lies beside the one that is written, under its name and `.spool`; each tile is one file named by the digest of
//! all that its design follows from: this crate's version, the process, the tile's number, shape and weights. It is removed
//! when the schedule is complete. What cannot be read, or has a wrong checksum, is designed again; read-back of the
//! finished schedule judges spooled tiles like all others.

use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};

use crate::lowering::{Accuracy, Lowering};
use crate::schedule::{self, Frame, Kind, Part, Tile};

/// A designed tile.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    /// Digest of what it follows from.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    /// Its layers.
    #[prost(message, repeated, tag = "2")]
    pub(crate) parts: Vec<Part>,
    /// What the tile's record says of its design.
    #[prost(message, optional, tag = "3")]
    pub(crate) design: Option<Tile>,
    /// Its budget, unless all weights are 0.
    #[prost(message, optional, tag = "4")]
    pub(crate) accuracy: Option<Accuracy>,
    /// Voxels of each level.
    #[prost(uint64, repeated, tag = "5")]
    pub(crate) counts: Vec<u64>,
}

/// The folder, if one can be had.
pub(crate) struct Spool(Option<PathBuf>);

impl Spool {
    /// The folder beside `dir`, made if it is not there.
    pub(crate) fn beside(dir: &Path) -> Spool {
        let Some(mut name) = dir.file_name().map(std::ffi::OsStr::to_owned) else { return Spool(None) };
        name.push(".spool");
        let path = dir.with_file_name(name);
        // Without it the run is only not to be continued.
        Spool(std::fs::create_dir_all(&path).is_ok().then_some(path))
    }

    /// The digest of all that a tile's design follows from.
    pub(crate) fn key(lowering: &Lowering, tile: u32, weights_sha256: &[u8], shape: [usize; 2]) -> Vec<u8> {
        let mut h = Sha256::new();
        let version = env!("CARGO_PKG_VERSION");
        h.update(format!("{version} {} {tile} {shape:?} {lowering:?}", schedule::VERSION));
        h.update(weights_sha256);
        h.finalize().to_vec()
    }

    fn path(&self, key: &[u8]) -> Option<PathBuf> {
        let name: String = key.iter().map(|b| format!("{b:02x}")).collect();
        self.0.as_ref().map(|p| p.join(name))
    }

    /// A tile that was designed before.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Record> {
        let bytes = std::fs::read(self.path(key)?).ok()?;
        let frame = Frame::decode_length_delimited(&bytes[..]).ok()?;
        if crc32fast::hash(&frame.body) != frame.crc32 {
            return None;
        }
        Record::decode(frame.body).ok().filter(|r| r.key == key)
    }

    /// Keeps a tile, if that is possible.
    pub(crate) fn put(&self, record: &Record) {
        let Some(path) = self.path(&record.key) else { return };
        let partial = path.with_extension("partial");
        let written = std::fs::write(&partial, schedule::frame(Kind::Tile, record));
        let kept = written.and_then(|()| std::fs::rename(&partial, &path));
        if kept.is_err() {
            // A full disk shows when the schedule itself is written.
            let _ = std::fs::remove_file(&partial);
        }
    }

    /// Removes the folder.
    pub(crate) fn finish(self) {
        if let Some(path) = self.0 {
            // The schedule is complete; what stays behind is only in the way.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}
