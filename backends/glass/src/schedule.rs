//! The write schedule, `schedule.pfmg`: records, framing and packing. Shared by the writer and the
//! reader; everything else either of them does is its own.
//!
//! # File
//! ```text
//! magic "PFMGLASS", version as u32 little-endian
//! frame*            one after another
//! trailer           offset of the index frame u64, its length in bytes u64, CRC-32 of these 16
//!                   bytes u32, magic "PFMG"; little-endian
//! ```
//! A frame is a protobuf message [`Frame`] behind its length as a varint (protobuf's
//! length-delimited form). Its body is the encoded record of the given kind, and its CRC-32 (IEEE)
//! covers the body. Order of frames: [`Header`]; before the first zone of a plate its [`Coupon`]; for each zone
//! the [`Zone`], its [`Tile`]s by id, its [`Chunk`]s, deepest layer first; last the [`Index`].
//!
//! # Order of lines
//! The header's raster says in which order the lines of a layer are written. `plate_line`: by y, then by x
//! through all tiles and the glass between them; a chunk holds one layer of all tiles that share lines (of the
//! tiles, those that touch common y directly or through others), by their least y, its parts by x. `field`: tile by
//! tile in order of id, each with the glass around it up to half of the gap; a chunk has one part.
//!
//! # Levels
//! A part of a chunk holds one layer of one tile: lines along x, y ascending. Levels of 4 bits lie two a byte, the lower x in
//! the low half; levels of 8 bits are bytes; the bytes of all lines are compressed as one zstd frame, and each line's bytes have
//! a CRC-32. Level numbers select an index change from the header's table. Glass of a zone's
//! rectangle that belongs to no tile gets the zone's fill level, in every layer of the zone.
//!
//! # Marks and coupons
//! Marks are squares of one layer, the zone's deepest and first written, in the highest level but the fill's. They are found
//! again before each other layer, which is written relative to them. A coupon's patch l has level l through all its layers.
//!
//! # Coordinates
//! Integer nanometres. x and y count from the plate's corner; z is depth in glass below the
//! surface; the header has the stage travel to each layer's centre beside it. Voxel (x, y, layer)
//! of a tile covers `origin + index * pitch` to one pitch further.
//!
//! # Meaning
//! Of a mask ([`crate::mask`]) voxel (x, y, layer) is a layer of the pixel of output x and input y, a retarder with its level's azimuth and
//! `2 pi dn pitch / lambda`; behind all of them light of x-polarisation is in x and y with powers whose difference, times the
//! column's scale, is the weight. Ports, signs and the fields of holograms are left out.
//!
//! Of a hologram `T = s(K) / V * sum_v (dn(v) - bias) exp(-i K . r_v)` with K and the phase origin as in
//! [`crate::geometry`], V the tile's voxels, s times the size of the transform of blur and history along x
//! ([`crate::calibration`]), or, where the header says `propagated`, the same measured in a field that is propagated through
//! the tile ([`crate::propagate`]); `Re T = gain * S_in W S_out`, with a sign a port. Input i
//! is port i, output j is port j; where both quadratures are read, Re T of port j has column 2j of W and Im T
//! column 2j + 1. The signs are pseudo-random: a common component of the weights
//! (trained matrices have one) would otherwise focus the hologram into a few voxels that clip.

use crate::hologram::FormFactor;

/// First bytes of a schedule.
pub const MAGIC: &[u8; 8] = b"PFMGLASS";
/// Format version this code writes and reads.
pub const VERSION: u32 = 4;
/// Last bytes of a schedule.
pub const END: &[u8; 4] = b"PFMG";
/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 24;
/// Ratios above this are recorded as this, dB: what single precision can tell.
pub const SNR_MAX_DB: f64 = 80.0;
/// File name in the output folder.
pub const FILE: &str = "schedule.pfmg";

/// How many voxels have each level, as measures of a tile: `level_3_voxels`. None for levels that no voxel has.
pub fn level_measures(counts: &[u64]) -> impl Iterator<Item = (String, f64)> + '_ {
    let counts = counts.iter().enumerate().filter(|(_, n)| **n > 0);
    counts.map(|(level, n)| (format!("level_{level}_voxels"), *n as f64))
}

/// How many of some levels are 0, 1, … up to the highest.
pub fn count_levels(levels: &[u8]) -> Vec<u64> {
    let mut counts = [0u64; 256];
    levels.iter().for_each(|l| counts[usize::from(*l)] += 1);
    let end = counts.iter().rposition(|n| *n > 0).map_or(0, |i| i + 1);
    counts[..end].to_vec()
}

/// Kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Not a record.
    Unknown = 0,
    /// [`Header`].
    Header = 1,
    /// [`Zone`].
    Zone = 2,
    /// [`Tile`].
    Tile = 3,
    /// [`Chunk`].
    Chunk = 4,
    /// [`Index`].
    Index = 5,
    /// [`Coupon`].
    Coupon = 6,
}

/// Envelope of every record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    /// Kind of the record.
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// CRC-32 of the body.
    #[prost(fixed32, tag = "2")]
    pub crc32: u32,
    /// Encoded record.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: bytes::Bytes,
}

/// One level.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Level {
    /// Index change; of a mask the birefringence, 0 of glass that is not written.
    #[prost(double, tag = "1")]
    pub dn: f64,
    /// Pulse energy that writes it, nanojoules; left out until a calibration fills it.
    #[prost(double, optional, tag = "2")]
    pub pulse_energy_nj: Option<f64>,
    /// Azimuth of the axis of a mask's voxel, degrees from x towards y; left out of holograms and of glass that is not written.
    #[prost(double, optional, tag = "3")]
    pub azimuth_deg: Option<f64>,
}

/// Facts that hold for the whole file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Header {
    /// Name of the process file.
    #[prost(string, tag = "1")]
    pub process: String,
    /// Vacuum wavelength, micrometres.
    #[prost(double, tag = "2")]
    pub wavelength_um: f64,
    /// Index of the unwritten glass.
    #[prost(double, tag = "3")]
    pub index: f64,
    /// Mean written index change; wave vectors in the glass use `index + bias_dn`.
    #[prost(double, tag = "4")]
    pub bias_dn: f64,
    /// Raster pitch x, y, depth in nanometres.
    #[prost(uint32, repeated, tag = "5")]
    pub pitch_nm: Vec<u32>,
    /// Index change of each level number.
    #[prost(message, repeated, tag = "6")]
    pub levels: Vec<Level>,
    /// Full widths at half maximum of a Gaussian voxel, micrometres; empty for a box.
    #[prost(double, repeated, tag = "7")]
    pub gaussian_fwhm_um: Vec<f64>,
    /// What is read of an output: `single`, one quadrature, or `dual`, both.
    #[prost(string, tag = "8")]
    pub quadrature: String,
    /// Order of levels: `zone, layer descending, y, x` or `zone, layer descending, tile, y, x`.
    #[prost(string, tag = "9")]
    pub order: String,
    /// Meaning of z: `depth in glass`.
    #[prost(string, tag = "10")]
    pub z_convention: String,
    /// Plate extent x, y, z in nanometres.
    #[prost(int64, repeated, tag = "11")]
    pub plate_nm: Vec<i64>,
    /// Rule of ports: `port p is column p mod C of row p div C`, or of a mask's pixels.
    #[prost(string, tag = "12")]
    pub port_map: String,
    /// Least conditioning number of a tile.
    #[prost(double, tag = "13")]
    pub kappa_min: f64,
    /// `plate_line` or `field`.
    #[prost(string, tag = "14")]
    pub raster: String,
    /// How depth follows from stage travel: `paraxial`, `marginal`.
    #[prost(string, tag = "15")]
    pub stage_convention: String,
    /// Depth in glass a unit of stage travel.
    #[prost(double, tag = "16")]
    pub depth_ratio: f64,
    /// Stage travel from the surface to the centre of each layer, nanometres, for all layers of the deepest zone.
    #[prost(int64, repeated, tag = "17")]
    pub stage_z_nm: Vec<i64>,
    /// Side of a mark, nanometres.
    #[prost(uint32, tag = "18")]
    pub mark_nm: u32,
    /// Level of the marks.
    #[prost(uint32, tag = "19")]
    pub mark_level: u32,
    /// Factor on pulse energies for each layer, as many as stage travels; empty without a calibration.
    #[prost(double, repeated, tag = "20")]
    pub layer_energy: Vec<f64>,
    /// Shares of its index change that a voxel adds to the first, second, ... voxel on both sides along x.
    #[prost(double, repeated, tag = "21")]
    pub blur: Vec<f64>,
    /// Shares that it adds to the first, second, ... voxel written after it.
    #[prost(double, repeated, tag = "22")]
    pub history: Vec<f64>,
    /// Voxels along x from one to the next written.
    #[prost(uint32, tag = "23")]
    pub interleave: u32,
    /// What tiles are: `hologram` or `mask`.
    #[prost(string, tag = "24")]
    pub method: String,
    /// Bits of a packed level, 4 or 8.
    #[prost(uint32, tag = "25")]
    pub level_bits: u32,
    /// Spots along x and y that a voxel is filled with.
    #[prost(uint32, repeated, tag = "26")]
    pub spots: Vec<u32>,
    /// Whether T, with gains and ratios, is that of all orders of scattering and not the sum of single scattering.
    #[prost(bool, tag = "27")]
    pub propagated: bool,
}

/// Patches of a plate, one for each level, that tell what the levels are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Coupon {
    /// Plate, from 0.
    #[prost(uint32, tag = "1")]
    pub plate: u32,
    /// Lower corner x, y of each patch in turn, nanometres; patch l has level l.
    #[prost(int64, repeated, tag = "2")]
    pub corners_nm: Vec<i64>,
    /// Extent x, y of a patch, nanometres.
    #[prost(int64, repeated, tag = "3")]
    pub size_nm: Vec<i64>,
    /// Depth of the upper face of the first layer, nanometres.
    #[prost(int64, tag = "4")]
    pub depth_nm: i64,
    /// Layers of a patch.
    #[prost(uint32, tag = "5")]
    pub layers: u32,
}

/// A region written as one, layer by layer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Zone {
    /// Number, from 0.
    #[prost(uint32, tag = "1")]
    pub zone: u32,
    /// Plate, from 0.
    #[prost(uint32, tag = "2")]
    pub plate: u32,
    /// Rectangle x0, y0, x1, y1 in nanometres; all of it is written.
    #[prost(int64, repeated, tag = "3")]
    pub rect_nm: Vec<i64>,
    /// Depth of the upper face of layer 0, nanometres.
    #[prost(int64, tag = "4")]
    pub depth_nm: i64,
    /// Number of layers.
    #[prost(uint32, tag = "5")]
    pub layers: u32,
    /// Level of all glass of the rectangle outside tiles.
    #[prost(uint32, tag = "6")]
    pub fill_level: u32,
    /// Tiles of the zone.
    #[prost(uint32, repeated, tag = "7")]
    pub tiles: Vec<u32>,
    /// Centre x, y of each mark in turn, nanometres.
    #[prost(int64, repeated, tag = "8")]
    pub marks_nm: Vec<i64>,
}

/// A tile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tile {
    /// Id in the program.
    #[prost(uint32, tag = "1")]
    pub tile: u32,
    /// Name in the program.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Zone that holds it.
    #[prost(uint32, tag = "3")]
    pub zone: u32,
    /// Ports a row.
    #[prost(uint32, tag = "4")]
    pub columns: u32,
    /// Rows of input ports.
    #[prost(uint32, tag = "5")]
    pub rows_in: u32,
    /// Rows of output ports.
    #[prost(uint32, tag = "6")]
    pub rows_out: u32,
    /// Distance of output rows in row spacings.
    #[prost(uint32, tag = "7")]
    pub output_row_step: u32,
    /// Centre of the output ports in column spacings; inputs are centred at its negative.
    #[prost(uint32, tag = "8")]
    pub carrier: u32,
    /// Voxels x, y, layers.
    #[prost(uint32, repeated, tag = "9")]
    pub voxels: Vec<u32>,
    /// Inputs used.
    #[prost(uint32, tag = "10")]
    pub inputs: u32,
    /// Outputs used: columns of the matrix, two a port where both quadratures are read.
    #[prost(uint32, tag = "11")]
    pub outputs: u32,
    /// Lower corner x, y, depth in nanometres.
    #[prost(int64, repeated, tag = "12")]
    pub origin_nm: Vec<i64>,
    /// `Re T = gain * W`; 0 for a tile of zeros. Of a mask otherwise 1.
    #[prost(double, tag = "13")]
    pub gain: f64,
    /// Signal-to-noise ratio of what is read, as designed, dB.
    #[prost(double, tag = "14")]
    pub snr_db: f64,
    /// Signal-to-noise ratio of the complex transfer matrix as designed, dB.
    #[prost(double, tag = "15")]
    pub snr_complex_db: f64,
    /// SHA-256 of the levels, one byte a voxel, x fastest, then y, then layer.
    #[prost(bytes = "vec", tag = "16")]
    pub levels_sha256: Vec<u8>,
    /// SHA-256 of the weights as little-endian f32, `[input][output]`.
    #[prost(bytes = "vec", tag = "17")]
    pub weights_sha256: Vec<u8>,
    /// One bit an input, least significant first: 1 where its amplitude is driven inverted.
    #[prost(bytes = "vec", tag = "18")]
    pub input_signs: Vec<u8>,
    /// One bit an output port, least significant first: 1 where its reading is inverted.
    #[prost(bytes = "vec", tag = "19")]
    pub output_signs: Vec<u8>,
    /// Of a mask, the scale of each output: a weight over what its pixel makes of light.
    #[prost(double, repeated, tag = "20")]
    pub column_scales: Vec<f64>,
}

/// Bytes of one bit a port.
pub fn sign_bytes(ports: usize) -> usize {
    ports.div_ceil(8)
}

/// +1, or -1 where the port's bit is set.
pub fn sign(signs: &[u8], port: usize) -> f32 {
    if signs.get(port / 8).is_some_and(|b| b >> (port % 8) & 1 == 1) { -1.0 } else { 1.0 }
}

/// One layer of the tiles whose lines are written together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Chunk {
    /// Zone.
    #[prost(uint32, tag = "1")]
    pub zone: u32,
    /// Layer, 0 at the surface's side.
    #[prost(uint32, tag = "2")]
    pub layer: u32,
    /// The tiles in order.
    #[prost(message, repeated, tag = "3")]
    pub parts: Vec<Part>,
}

/// One layer of one tile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Part {
    /// Tile.
    #[prost(uint32, tag = "1")]
    pub tile: u32,
    /// CRC-32 of the packed bytes of each line.
    #[prost(fixed32, repeated, tag = "2")]
    pub line_crc32: Vec<u32>,
    /// Packed levels as a zstd frame.
    #[prost(bytes = "bytes", tag = "3")]
    pub levels: bytes::Bytes,
}

/// Where the records of a tile are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TileEntry {
    /// Tile.
    #[prost(uint32, tag = "1")]
    pub tile: u32,
    /// Offset of its [`Tile`] frame.
    #[prost(uint64, tag = "2")]
    pub record: u64,
    /// Offset of the [`Chunk`] frame that holds it, for each layer from 0.
    #[prost(uint64, repeated, tag = "3")]
    pub layers: Vec<u64>,
}

/// Where everything is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Index {
    /// Offset of the [`Header`] frame.
    #[prost(uint64, tag = "1")]
    pub header: u64,
    /// Offsets of the [`Zone`] frames.
    #[prost(uint64, repeated, tag = "2")]
    pub zones: Vec<u64>,
    /// Tiles by id.
    #[prost(message, repeated, tag = "3")]
    pub tiles: Vec<TileEntry>,
    /// Offsets of the [`Coupon`] frames.
    #[prost(uint64, repeated, tag = "4")]
    pub coupons: Vec<u64>,
}

/// A record as a framed byte string.
pub fn frame(kind: Kind, record: &impl prost::Message) -> Vec<u8> {
    let body = record.encode_to_vec();
    let crc32 = crc32fast::hash(&body);
    prost::Message::encode_length_delimited_to_vec(&Frame { kind: kind as i32, crc32, body: body.into() })
}

/// The form factor as the header's widths.
pub fn form_factor_widths(form: FormFactor) -> Vec<f64> {
    match form {
        FormFactor::Box => Vec::new(),
        FormFactor::Gaussian(fwhm) => fwhm.to_vec(),
    }
}
