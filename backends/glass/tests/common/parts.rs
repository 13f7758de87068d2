//! A schedule as its records.

use std::path::Path;

use pfmc_glass::schedule::{self, Chunk, Coupon, Frame, Header, Index, Kind, Part, Tile, TileEntry, Zone};
use prost::Message;

/// All records of a schedule, to edit and put together again.
pub struct Parts {
    /// Header.
    pub header: Header,
    /// Coupons.
    pub coupons: Vec<Coupon>,
    /// Zones.
    pub zones: Vec<Zone>,
    /// Tiles by number.
    pub tiles: Vec<Tile>,
    /// Chunks in order of writing.
    pub chunks: Vec<Chunk>,
}

impl Parts {
    /// Reads the schedule of a folder.
    pub fn read(dir: &Path) -> Parts {
        Parts::of(&std::fs::read(dir.join(schedule::FILE)).unwrap())
    }

    /// The records of a schedule.
    pub fn of(bytes: &[u8]) -> Parts {
        let mut rest = &bytes[12..bytes.len() - schedule::TRAILER_LEN];
        let mut p = Parts {
            header: Header::default(),
            coupons: vec![],
            zones: vec![],
            tiles: vec![],
            chunks: vec![],
        };
        while !rest.is_empty() {
            let f = Frame::decode_length_delimited(&mut rest).unwrap();
            assert_eq!(crc32fast::hash(&f.body), f.crc32);
            match f.kind() {
                Kind::Header => p.header = Header::decode(f.body).unwrap(),
                Kind::Coupon => p.coupons.push(Coupon::decode(f.body).unwrap()),
                Kind::Zone => p.zones.push(Zone::decode(f.body).unwrap()),
                Kind::Tile => p.tiles.push(Tile::decode(f.body).unwrap()),
                Kind::Chunk => p.chunks.push(Chunk::decode(f.body).unwrap()),
                Kind::Index => {}
                Kind::Unknown => panic!("unknown record"),
            }
        }
        p.tiles.sort_by_key(|t| t.tile);
        p
    }

    /// Writes the schedule of a folder.
    pub fn write(&self, dir: &Path) {
        std::fs::write(dir.join(schedule::FILE), self.bytes()).unwrap();
    }

    /// The schedule.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::from(schedule::MAGIC);
        out.extend(schedule::VERSION.to_le_bytes());
        let mut put = |frame: Vec<u8>| {
            let at = out.len() as u64;
            out.extend(frame);
            at
        };
        let mut index =
            Index { header: put(schedule::frame(Kind::Header, &self.header)), ..Index::default() };
        for z in &self.zones {
            if let Some(c) = self.coupons.get(index.coupons.len()).filter(|c| c.plate == z.plate) {
                index.coupons.push(put(schedule::frame(Kind::Coupon, c)));
            }
            index.zones.push(put(schedule::frame(Kind::Zone, z)));
            for t in self.tiles.iter().filter(|t| t.zone == z.zone) {
                let record = put(schedule::frame(Kind::Tile, t));
                index.tiles.push(TileEntry {
                    tile: t.tile,
                    record,
                    layers: vec![0; t.voxels[2].min(4096) as usize],
                });
            }
            for c in self.chunks.iter().filter(|c| c.zone == z.zone) {
                let at = put(schedule::frame(Kind::Chunk, c));
                for part in &c.parts {
                    let entry = index.tiles.iter_mut().find(|t| t.tile == part.tile).unwrap();
                    entry.layers[c.layer as usize] = at;
                }
            }
        }
        let frame = schedule::frame(Kind::Index, &index);
        let at = put(frame.clone());
        let mut trailer: Vec<u8> = [at.to_le_bytes(), (frame.len() as u64).to_le_bytes()].concat();
        trailer.extend(crc32fast::hash(&trailer).to_le_bytes());
        trailer.extend(schedule::END);
        out.extend(trailer);
        out
    }

    /// What a chunk has of a tile.
    pub fn part(&self, chunk: usize, tile: u32) -> &Part {
        self.chunks[chunk].parts.iter().find(|p| p.tile == tile).unwrap()
    }

    /// Levels of a tile in a chunk.
    pub fn levels(&self, chunk: usize, tile: u32) -> Vec<u8> {
        let t = self.tiles.iter().find(|t| t.tile == tile).unwrap();
        let stored = &self.part(chunk, tile).levels;
        let packed = zstd::bulk::decompress(stored, (t.voxels[0] * t.voxels[1]) as usize).unwrap();
        if self.header.level_bits == 8 {
            return packed;
        }
        packed.iter().flat_map(|b| [b & 15, b >> 4]).collect()
    }

    /// Sets levels of a tile in a chunk, and their checksums.
    pub fn set_levels(&mut self, chunk: usize, tile: u32, levels: &[u8]) {
        let packed: Vec<u8> = match self.header.level_bits {
            8 => levels.to_vec(),
            _ => levels.chunks(2).map(|p| p[0] | p[1] << 4).collect(),
        };
        let part = self.chunks[chunk].parts.iter_mut().find(|p| p.tile == tile).unwrap();
        let lines = part.line_crc32.len();
        part.line_crc32 = packed.chunks(packed.len() / lines).map(crc32fast::hash).collect();
        part.levels = zstd::bulk::compress(&packed, 1).unwrap().into();
    }

    /// Indices of a tile's chunks, layer 0 first.
    pub fn layers_of(&self, tile: u32) -> Vec<usize> {
        let holds = |i: &usize| self.chunks[*i].parts.iter().any(|p| p.tile == tile);
        let mut v: Vec<usize> = (0..self.chunks.len()).filter(holds).collect();
        v.sort_by_key(|&i| self.chunks[i].layer);
        v
    }
}
