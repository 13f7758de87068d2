//! The reference contents file `contents.pfmt`: what each tile of a program should hold, for
//! verification, and the data of targets that leave it with the host.
//!
//! Layout: the 8 bytes `PFMTILE1`, then one length-delimited protobuf message [`Chunk`] a tile, in
//! tile order. `payload` is zstd; `crc32` covers the message's other fields as the reader
//! reassembles them: tile, kind, unit bits, then the uncompressed payload.
//!
//! | kind | payload before compression |
//! |---|---|
//! | 0 codes | codebook, scales `[groups][n]` and levels `[k][n]`, as bytes |
//! | 1 real | f32 `[k][n]` little-endian, as four planes of bytes, lowest first |
//! | 2 data | the bytes |

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::{Buf, Bytes};
use pfmc_ir::backend::Progress;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{CodeBlock, Levels, RealBlock, Scheme, TileContent, TileId, TileKind, TileSource};
use prost::Message;
use rayon::prelude::*;

use crate::codes::E0703;
use crate::files::{io_error, map};

/// File name in the output folder.
pub const FILE: &str = "contents.pfmt";
const MAGIC: &[u8; 8] = b"PFMTILE1";

/// One tile.
#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    /// Tile id.
    #[prost(uint32, tag = "1")]
    pub tile: u32,
    /// 0 codes, 1 real, 2 data.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// Bits of the tile's f32 unit (codes only).
    #[prost(fixed32, tag = "3")]
    pub unit: u32,
    /// Bytes of the payload before compression.
    #[prost(uint64, tag = "4")]
    pub raw_len: u64,
    /// zstd.
    #[prost(bytes = "bytes", tag = "5")]
    pub payload: Bytes,
    /// See the module.
    #[prost(fixed32, tag = "6")]
    pub crc32: u32,
}

impl Chunk {
    /// A tile whose payload is `raw`, with what follows from it.
    ///
    /// # Errors
    /// Those of compression.
    pub fn new(tile: u32, kind: u32, unit: u32, raw: &[u8]) -> std::io::Result<Chunk> {
        Ok(Chunk {
            tile,
            kind,
            unit,
            raw_len: raw.len() as u64,
            payload: zstd::bulk::compress(raw, 1)?.into(),
            crc32: checksum(tile, kind, unit, raw),
        })
    }
}

fn checksum(tile: u32, kind: u32, unit: u32, raw: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    for word in [tile, kind, unit] {
        h.update(&word.to_le_bytes());
    }
    h.update(raw);
    h.finalize()
}

fn encode(id: TileId, content: &TileContent) -> std::io::Result<Vec<u8>> {
    let (kind, unit, raw) = match content {
        TileContent::Codes(b) => {
            let mut raw: Vec<u8> = b.codebook.iter().map(|l| l.cast_unsigned()).collect();
            raw.extend_from_slice(&b.scales);
            raw.extend(b.levels.iter().map(|l| l.cast_unsigned()));
            (0, b.unit.to_bits(), raw)
        }
        TileContent::Real(b) => {
            let plane = |p: usize| b.values.iter().map(move |v| v.to_le_bytes()[p]);
            (1, 0, (0..4).flat_map(plane).collect())
        }
        TileContent::Data(b) => (2, 0, b.clone()),
    };
    Ok(Chunk::new(id.0, kind, unit, &raw)?.encode_length_delimited_to_vec())
}

/// Writes the contents of every tile.
///
/// # Errors
/// What the source reports, and input/output.
pub fn write(
    program: &TileProgram,
    source: &dyn TileSource,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), Diagnostics> {
    let path = folder.join(FILE);
    let io = |e| Diagnostics::from(io_error("write", &path, &e));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(io)?);
    out.write_all(MAGIC).map_err(io)?;
    progress.begin("quantising", program.tiles.len() as u64);
    let ids: Vec<TileId> = program.tiles().map(|(id, _)| id).collect();
    for window in ids.chunks(32) {
        let encoded: Vec<Result<Vec<u8>, Diagnostics>> =
            window.par_iter().map(|id| encode(*id, &source.tile(*id)?).map_err(io)).collect();
        for bytes in encoded {
            out.write_all(&bytes?).map_err(io)?;
            progress.advance(1);
        }
    }
    out.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)
}

/// The open contents file of a program.
pub struct Reference {
    chunks: Vec<Bytes>,
    shapes: Vec<Shape>,
}

#[derive(Clone, Copy)]
enum Shape {
    Codes { k: usize, n: usize, bits: u8, group: usize, codebook: usize },
    Real { k: usize, n: usize },
    Data { len: usize },
}

impl Shape {
    fn raw_len(self) -> usize {
        match self {
            Shape::Codes { k, n, group, codebook, .. } => codebook + k * n + k.div_ceil(group) * n,
            Shape::Real { k, n } => k * n * 4,
            Shape::Data { len } => len,
        }
    }
}

impl Reference {
    /// Maps the file and finds its chunks.
    ///
    /// # Errors
    /// A missing file, another format, or fewer chunks than the program has tiles.
    pub fn open(program: &TileProgram, folder: &Path) -> Result<Reference, Diagnostics> {
        let path = folder.join(FILE);
        let mut rest = map(&path)?;
        let damaged = |m: &str| Diagnostics::from(Diagnostic::error(&E0703, format!("{FILE}: {m}")));
        if !rest.starts_with(MAGIC) {
            return Err(damaged("this is no contents file of this version"));
        }
        rest.advance(MAGIC.len());
        let mut chunks = Vec::with_capacity(program.tiles.len());
        for (_, tile) in program.tiles() {
            let len = prost::decode_length_delimiter(&mut rest).ok().filter(|l| *l <= rest.len());
            let Some(len) = len else {
                return Err(damaged(&format!("it ends or breaks before tile {:?}", tile.name)));
            };
            chunks.push(rest.split_to(len));
        }
        if !rest.is_empty() {
            return Err(damaged("it goes on after the last tile"));
        }
        let shapes = program
            .tiles()
            .map(|(id, t)| match (&t.kind, program.matrix_tile(id)) {
                (TileKind::Data { len, .. }, _) => {
                    Shape::Data { len: usize::try_from(*len).unwrap_or(usize::MAX) }
                }
                (_, Some((k, n, Scheme::Codes { bits, group, levels }))) => {
                    let codebook = if levels == Levels::Codebook { 1 << bits } else { 0 };
                    Shape::Codes { k, n, bits, group: (group as usize).max(1), codebook }
                }
                (_, other) => other.map_or(Shape::Data { len: 0 }, |(k, n, _)| Shape::Real { k, n }),
            })
            .collect();
        Ok(Reference { chunks, shapes })
    }
}

impl TileSource for Reference {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let damaged =
            |m: &str| Diagnostics::from(Diagnostic::error(&E0703, format!("{FILE}, tile {id}: {m}")));
        let (Some(chunk), Some(shape)) = (self.chunks.get(id.index()), self.shapes.get(id.index())) else {
            return Err(damaged("there is no such tile"));
        };
        let c = Chunk::decode(chunk.clone()).map_err(|e| damaged(&e.to_string()))?;
        if c.raw_len != shape.raw_len() as u64 {
            return Err(damaged("its size is not what the program declares"));
        }
        let raw = zstd::bulk::decompress(&c.payload, shape.raw_len()).map_err(|e| damaged(&e.to_string()))?;
        if c.tile != id.0 || checksum(c.tile, c.kind, c.unit, &raw) != c.crc32 || raw.len() != shape.raw_len()
        {
            return Err(damaged("its checksum does not match"));
        }
        match (*shape, c.kind) {
            (Shape::Codes { k, n, bits, group, codebook }, 0) => {
                let signed = |bytes: &[u8]| bytes.iter().map(|b| b.cast_signed()).collect();
                let (codebook, rest) = raw.split_at(codebook);
                let (scales, levels) = rest.split_at(k.div_ceil(group) * n);
                let block = CodeBlock {
                    k,
                    n,
                    bits,
                    group,
                    unit: f32::from_bits(c.unit),
                    levels: signed(levels),
                    scales: scales.to_vec(),
                    codebook: signed(codebook),
                };
                // The checksum is of anyone's making: what its bits cannot hold is in no artefact.
                match block.fault(k, n, block.scheme()) {
                    Some(fault) => Err(damaged(&fault)),
                    None => Ok(TileContent::Codes(block)),
                }
            }
            (Shape::Real { k, n }, 1) => {
                let m = k * n;
                let value =
                    |i: usize| f32::from_le_bytes([raw[i], raw[m + i], raw[2 * m + i], raw[3 * m + i]]);
                Ok(TileContent::Real(RealBlock { k, n, values: (0..m).map(value).collect() }))
            }
            (Shape::Data { .. }, 2) => Ok(TileContent::Data(raw)),
            _ => Err(damaged("its kind is not what the program declares")),
        }
    }
}
