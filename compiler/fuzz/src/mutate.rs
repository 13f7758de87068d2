//! Mutations that know a little of the form of their inputs, so that more of them get past the first check of a reader.

use std::io::{Read, Write};
use std::ops::Range;

use pfmc::contents;
use pfmc_glass::schedule::{self, Chunk, Frame, Index, Kind};
use prost::Message;

use pfmc_ir::random::Random;

/// Numbers at the edges of types.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Numbers of text files.
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "0.5",
    "1e-9",
    "1e9",
    "1e308",
    "-1e300",
    "255",
    "65536",
    "4294967295",
    "9223372036854775807",
    "nan",
    "inf",
];

fn range(r: &mut Random, length: usize) -> Range<usize> {
    let start = r.below(length + 1);
    let most = (length - start).min(1 << r.below(9));
    start..start + r.below(most + 1)
}

/// One change of bytes of no known form.
fn byte_edit(r: &mut Random, data: &mut Vec<u8>, other: &[u8]) {
    let at = r.below(data.len());
    match r.below(10) {
        0 | 1 => {
            if let Some(b) = data.get_mut(at) {
                *b ^= 1 << r.below(8);
            }
        }
        2 => {
            if let Some(b) = data.get_mut(at) {
                *b = r.next() as u8;
            }
        }
        3 => {
            // A number of 1, 2, 4 or 8 bytes, in either order.
            let width = 1 << r.below(4);
            let value = EDGES[r.below(EDGES.len())];
            let mut bytes = value.to_le_bytes()[..width].to_vec();
            if r.below(2) == 0 {
                bytes.reverse();
            }
            for (to, from) in data.iter_mut().skip(at).zip(bytes) {
                *to = from;
            }
        }
        4 => {
            let gone = range(r, data.len());
            data.drain(gone);
        }
        5 => {
            let piece = data[range(r, data.len())].to_vec();
            data.splice(at..at, piece);
        }
        6 => {
            let piece = other[range(r, other.len())].to_vec();
            data.splice(at..at, piece);
        }
        7 => {
            let piece = other[range(r, other.len())].to_vec();
            for (to, from) in data.iter_mut().skip(at).zip(piece) {
                *to = from;
            }
        }
        8 => data.truncate(at),
        _ => {
            let few: Vec<u8> = (0..r.below(8)).map(|_| r.next() as u8).collect();
            data.splice(at..at, few);
        }
    }
}

/// A few changes of bytes.
pub fn bytes(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..1 + r.below(4) {
        byte_edit(r, &mut data, other);
    }
    data
}

/// As [`bytes`], of inputs that are decisions: short, and longer now and then.
pub fn entropy(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    if r.below(4) == 0 {
        return (0..8 + r.below(160)).map(|_| r.next() as u8).collect();
    }
    let mut data = bytes(r, data, other);
    data.truncate(512);
    data
}

/// Words, numbers and what is between them.
fn tokens(text: &str) -> Vec<&str> {
    let class = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+') {
            1
        } else if c == '\n' {
            2
        } else {
            3
        }
    };
    let mut all = Vec::new();
    let mut start = 0;
    let mut last = 0;
    for (i, c) in text.char_indices() {
        let now = class(c);
        if i > start && (now != last || now == 3) {
            all.push(&text[start..i]);
            start = i;
        }
        last = now;
    }
    all.push(&text[start..]);
    all
}

/// A number near another, which may well be taken for it; other words as they are.
fn near(r: &mut Random, word: &str) -> String {
    let how = r.below(6);
    if let Ok(n) = word.parse::<i64>() {
        let all = [
            n.checked_add(1),
            n.checked_sub(1),
            n.checked_mul(2),
            Some(n / 2),
            n.checked_neg(),
            n.checked_mul(10),
        ];
        return all[how].unwrap_or(n).to_string();
    }
    let factor = [1.01, 0.99, 2.0, 0.5, -1.0, 10.0][how];
    word.parse::<f64>().map_or_else(|_| word.to_owned(), |x| format!("{:?}", x * factor))
}

/// Changes of words, numbers and lines.
pub fn text(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let (Ok(text), Ok(with)) = (std::str::from_utf8(data), std::str::from_utf8(other)) else {
        return bytes(r, data, other);
    };
    if r.below(8) == 0 {
        return bytes(r, data, other);
    }
    let mut out = text.to_owned();
    for _ in 0..1 + r.below(3) {
        out = match r.below(8) {
            0..=4 => {
                let mut words: Vec<String> = tokens(&out).into_iter().map(str::to_owned).collect();
                let theirs = tokens(with);
                let at = r.below(words.len());
                let word = words.get(at).cloned().unwrap_or_default();
                let numeric = word.bytes().any(|b| b.is_ascii_digit());
                let new = match r.below(6) {
                    0 => String::new(),
                    1 => theirs.get(r.below(theirs.len())).copied().unwrap_or_default().to_owned(),
                    2 => words.get(r.below(words.len())).cloned().unwrap_or_default(),
                    3 => format!("{word}{word}"),
                    _ if numeric && r.below(3) == 0 => NUMBERS[r.below(NUMBERS.len())].to_owned(),
                    _ if numeric => near(r, &word),
                    _ => words.get(r.below(words.len())).cloned().unwrap_or_default(),
                };
                if let Some(word) = words.get_mut(at) {
                    *word = new;
                }
                words.concat()
            }
            other => {
                let mut lines: Vec<&str> = out.split_inclusive('\n').collect();
                let (a, b) = (r.below(lines.len()), r.below(lines.len()));
                let line = lines.get(a).copied().unwrap_or_default();
                match other {
                    5 if !lines.is_empty() => drop(lines.remove(a)),
                    6 => lines.insert(b, line),
                    _ if !lines.is_empty() => lines.swap(a, b),
                    _ => {}
                }
                lines.concat()
            }
        };
    }
    out.into_bytes()
}

/// A field of a protobuf message: its tag, and its value as it stands, of a length-delimited one without the length.
#[derive(Clone)]
struct Field {
    tag: u64,
    body: Vec<u8>,
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

/// The fields of a message; `None` for what is none.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let length = match tag & 7 {
            0 => {
                let mut rest = bytes;
                varint(&mut rest)?;
                bytes.len() - rest.len()
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let body = bytes.get(..length)?.to_vec();
        bytes = bytes.get(length..)?;
        all.push(Field { tag, body });
    }
    Some(all)
}

fn message(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for f in fields {
        prost::encoding::encode_varint(f.tag, &mut out);
        if f.tag & 7 == 2 {
            prost::encoding::encode_varint(f.body.len() as u64, &mut out);
        }
        out.extend_from_slice(&f.body);
    }
    out
}

/// Changes one field of a message or of one within it; lengths are set right.
fn protobuf(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let Some(mut all) = fields(data).filter(|f| !f.is_empty()) else { return bytes(r, data, other) };
    let at = r.below(all.len());
    let deeper = all[at].tag & 7 == 2 && fields(&all[at].body).is_some_and(|f| !f.is_empty());
    if deeper && r.below(8) != 0 {
        all[at].body = protobuf(r, &all[at].body, other);
        return message(&all);
    }
    match r.below(9) {
        0 => drop(all.remove(at)),
        1 => {
            let field = all[at].clone();
            all.insert(r.below(all.len()), field);
        }
        2 => {
            let with = r.below(all.len());
            all.swap(at, with);
        }
        3 => {
            let with = r.below(all.len());
            let body = all[with].body.clone();
            if all[with].tag & 7 == all[at].tag & 7 {
                all[at].body = body;
            }
        }
        4 => all[at].tag ^= 8 << r.below(4),
        _ if all[at].tag & 7 == 0 => {
            let value = match r.below(3) {
                0 => EDGES[r.below(EDGES.len())],
                1 => r.next() % 64,
                _ => prost::encoding::decode_varint(&mut &all[at].body[..]).unwrap_or(0) ^ 1 << r.below(8),
            };
            all[at].body.clear();
            prost::encoding::encode_varint(value, &mut all[at].body);
        }
        _ if all[at].tag & 7 == 2 => all[at].body = bytes(r, &all[at].body, other),
        _ => {
            let body = &mut all[at].body;
            let i = r.below(body.len());
            if let Some(b) = body.get_mut(i) {
                *b ^= 1 << r.below(8);
            }
        }
    }
    message(&all)
}

/// A model, behind the eight bytes that choose sizes.
pub fn model(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let Some((sizes, model)) = data.split_at_checked(8) else { return bytes(r, data, other) };
    let mut model = model.to_vec();
    for _ in 0..1 + r.below(3) {
        model = if r.below(8) == 0 { bytes(r, &model, other) } else { protobuf(r, &model, other) };
    }
    let mut sizes = sizes.to_vec();
    if r.below(4) == 0 {
        sizes.iter_mut().for_each(|b| *b = r.next() as u8);
    }
    [sizes, model].concat()
}

/// Contents of tiles: tiles change, with their checksums, mostly; messages go, come twice and change places.
pub fn contents(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let Some((magic, mut rest)) = data.split_at_checked(8).filter(|_| r.below(8) != 0) else {
        return bytes(r, data, other);
    };
    let mut chunks = Vec::new();
    while let Some(length) = varint(&mut rest).and_then(|l| usize::try_from(l).ok()) {
        let Some((chunk, after)) = rest.split_at_checked(length) else { break };
        chunks.push(chunk.to_vec());
        rest = after;
    }
    if chunks.is_empty() {
        return bytes(r, data, other);
    }
    for _ in 0..1 + r.below(2) {
        let (at, with) = (r.below(chunks.len()), r.below(chunks.len()));
        match r.below(10) {
            0 => chunks.swap(at, with),
            1 => {
                let chunk = chunks[at].clone();
                chunks.insert(with, chunk);
            }
            2 if chunks.len() > 1 => drop(chunks.remove(at)),
            3 => chunks[at] = protobuf(r, &chunks[at], other),
            _ => {
                let from = chunks[with].clone();
                chunks[at] = tile(r, &chunks[at], &from).unwrap_or_else(|| protobuf(r, &chunks[at], other));
            }
        }
    }
    let mut out = magic.to_vec();
    for chunk in chunks {
        prost::encoding::encode_varint(chunk.len() as u64, &mut out);
        out.extend(chunk);
    }
    out
}

/// A tile of contents, changed and sound again: its payload, kept as long as it was mostly, or what stands before it.
fn tile(r: &mut Random, chunk: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let of = |bytes: &[u8]| {
        let c = contents::Chunk::decode(bytes).ok()?;
        let raw = zstd::bulk::decompress(&c.payload, 1 << 20).ok()?;
        Some((c, raw))
    };
    let ((mut c, mut raw), (_, with)) = (of(chunk)?, of(other)?);
    match r.below(8) {
        0 => c.kind = (r.next() % 4) as u32,
        1 => c.tile = (r.next() % 8) as u32,
        2 => c.unit = EDGES[r.below(EDGES.len())] as u32,
        3 => c.unit ^= 1 << r.below(32),
        _ => {
            let length = raw.len();
            raw = bytes(r, &raw, &with);
            if r.below(4) != 0 {
                raw.resize(length, 0);
            }
        }
    }
    let made = contents::Chunk::new(c.tile, c.kind, c.unit, &raw).ok()?;
    Some(made.encode_to_vec())
}

/// Records of GDSII: whole ones go, come twice or change places, and bodies change.
pub fn gds(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    if r.below(6) == 0 {
        return bytes(r, data, other);
    }
    let mut places = vec![0];
    while let Some(length) = places.last().and_then(|&at| data.get(at..at + 2)) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(4);
        places.push(places.last().copied().unwrap_or(0) + length);
    }
    let mut records: Vec<Vec<u8>> =
        places.windows(2).filter_map(|w| Some(data.get(w[0]..w[1])?.to_vec())).collect();
    for _ in 0..1 + r.below(3) {
        if records.is_empty() {
            return bytes(r, data, other);
        }
        let at = r.below(records.len());
        // Nearby ones, so that elements stay elements now and then.
        let with = (at + r.below(16)).min(records.len() - 1);
        match r.below(8) {
            0 => drop(records.drain(at..=with.min(at + 4))),
            1 => {
                let run = records[at..=with.min(at + 6)].to_vec();
                records.splice(at..at, run);
            }
            2 => records.swap(at, with),
            3 => {
                let far = r.below(records.len());
                records.swap(at, far);
            }
            _ => {
                let record = &mut records[at];
                if record.len() > 4 {
                    let mut body = record.split_off(4);
                    let i = r.below(body.len());
                    match r.below(4) {
                        0 => body
                            .iter_mut()
                            .skip(i)
                            .zip(EDGES[r.below(16)].to_be_bytes())
                            .for_each(|(t, f)| *t = f),
                        1 => body[i] = r.next() as u8,
                        _ => body[i] ^= 1 << r.below(8),
                    }
                    record.extend(body);
                }
            }
        }
    }
    records.concat()
}

/// Places of compressed blocks in a file: where each begins, its packed bytes, and what they unpack to.
fn blocks(data: &[u8]) -> Vec<(usize, Range<usize>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(found) = data.get(at..).and_then(|d| d.windows(2).position(|w| w == [34, 0])) {
        let start = at + found;
        at = start + 1;
        let mut rest = &data[start + 2..];
        let (Some(length), Some(packed)) = (varint(&mut rest), varint(&mut rest)) else { continue };
        let (Ok(length), Ok(packed)) = (usize::try_from(length), usize::try_from(packed)) else { continue };
        let begin = data.len() - rest.len();
        let Some(bytes) = begin.checked_add(packed).and_then(|end| data.get(begin..end)) else { continue };
        let mut out = Vec::new();
        let read = flate2::read::DeflateDecoder::new(bytes).take(1 << 20).read_to_end(&mut out);
        if read.is_ok() && out.len() == length && length > 0 {
            all.push((start, begin..begin + packed, out));
            at = begin + packed;
        }
    }
    all
}

/// An OASIS file: what is in a compressed block changes, mostly, and the checksum at the end is set right, mostly.
pub fn oasis(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let found = blocks(data);
    let mut out = if found.is_empty() || r.below(4) == 0 {
        bytes(r, data, other)
    } else {
        let (start, packed, inner) = &found[r.below(found.len())];
        let others = blocks(other);
        let with = others.get(r.below(others.len())).map_or(other, |b| &b.2);
        let inner = bytes(r, inner, with);
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        let again = encoder.write_all(&inner).and_then(|()| encoder.finish()).unwrap_or_default();
        let mut block = vec![34, 0];
        prost::encoding::encode_varint(inner.len() as u64, &mut block);
        prost::encoding::encode_varint(again.len() as u64, &mut block);
        [&data[..*start], &block, &again, &data[packed.end..]].concat()
    };
    if r.below(16) != 0
        && let Some(body) = out.len().checked_sub(4)
    {
        let sum = crc32fast::hash(&out[..body]).to_le_bytes();
        out[body..].copy_from_slice(&sum);
    }
    out
}

/// A schedule: records change, with their checksums and the index's offsets set right.
pub fn schedule(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let head = schedule::MAGIC.len() + 4;
    let records = data.len().checked_sub(schedule::TRAILER_LEN).and_then(|end| data.get(head..end));
    let (Some(mut rest), true) = (records, r.below(6) != 0) else { return bytes(r, data, other) };
    let mut frames: Vec<(u64, Frame)> = Vec::new();
    while !rest.is_empty() {
        let at = (data.len() - schedule::TRAILER_LEN - rest.len()) as u64;
        match Frame::decode_length_delimited(&mut rest) {
            Ok(frame) => frames.push((at, frame)),
            Err(_) => return bytes(r, data, other),
        }
    }
    let Some((_, index)) = frames.pop().filter(|_| !frames.is_empty()) else { return bytes(r, data, other) };
    let Ok(mut index) = Index::decode(&index.body[..]) else { return bytes(r, data, other) };
    for _ in 0..1 + r.below(2) {
        let at = r.below(frames.len());
        match r.below(12) {
            0 => {
                let with = r.below(frames.len());
                let frame = frames[with].1.clone();
                frames[at].1 = frame;
            }
            1 => {
                let with = r.below(frames.len());
                frames.swap(at, with);
            }
            n => {
                let frame = &mut frames[at].1;
                frame.body = match (frame.kind(), Chunk::decode(&frame.body[..])) {
                    (Kind::Chunk, Ok(mut chunk)) if n < 9 => {
                        levels(r, &mut chunk);
                        chunk.encode_to_vec().into()
                    }
                    _ => protobuf(r, &frame.body, other).into(),
                };
            }
        }
    }
    let mut out = data[..head].to_vec();
    let mut moved = std::collections::BTreeMap::new();
    for (at, mut frame) in frames {
        moved.insert(at, out.len() as u64);
        frame.crc32 = crc32fast::hash(&frame.body);
        out.extend(frame.encode_length_delimited_to_vec());
    }
    let set = |at: &mut u64| *at = moved.get(at).copied().unwrap_or(*at);
    set(&mut index.header);
    index.zones.iter_mut().chain(&mut index.coupons).for_each(set);
    for tile in &mut index.tiles {
        set(&mut tile.record);
        tile.layers.iter_mut().for_each(set);
    }
    let frame = schedule::frame(Kind::Index, &index);
    let mut trailer: Vec<u8> =
        [(out.len() as u64).to_le_bytes(), (frame.len() as u64).to_le_bytes()].concat();
    trailer.extend(crc32fast::hash(&trailer).to_le_bytes());
    trailer.extend(schedule::END);
    out.extend(frame);
    out.extend(trailer);
    out
}

/// A tile of a run that was stopped: a record in a frame, whose checksum is set right.
pub fn spool(r: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    match Frame::decode_length_delimited(data) {
        Ok(mut frame) if r.below(8) != 0 => {
            frame.body = protobuf(r, &frame.body, other).into();
            frame.crc32 = crc32fast::hash(&frame.body);
            frame.encode_length_delimited_to_vec()
        }
        _ => bytes(r, data, other),
    }
}

/// Changes levels of a part of a chunk, with their checksums.
fn levels(r: &mut Random, chunk: &mut Chunk) {
    let at = r.below(chunk.parts.len());
    let Some(part) = chunk.parts.get_mut(at) else { return };
    let Ok(packed) = zstd::bulk::decompress(&part.levels, 1 << 20) else { return };
    let packed = bytes(r, &packed, &packed);
    let line = packed.len().checked_div(part.line_crc32.len()).unwrap_or(0);
    if line > 0 {
        part.line_crc32 = packed.chunks_exact(line).map(crc32fast::hash).collect();
    }
    if let Ok(again) = zstd::bulk::compress(&packed, 1) {
        part.levels = again.into();
    }
}
