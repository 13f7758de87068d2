//! Faults of schedules: levels, places, records, and designs that took one quantity for another.

use pfmc_glass::schedule;
use pfmc_ir::backend::{Backend, ProcessText};

use crate::bench::{Bench, Section, compiled};
use crate::parts::Parts;

type Change = Box<dyn Fn(&mut Parts)>;

/// New levels of a layer, from its number and all old layers.
type Levels = Box<dyn Fn(usize, &[Vec<u8>], usize) -> Vec<u8>>;

/// A tile's levels, changed layer by layer; the last argument is the length of a line.
fn levels(tile: u32, change: Levels) -> Change {
    Box::new(move |p| {
        let at = p.layers_of(tile);
        let nx = p.tiles.iter().find(|t| t.tile == tile).unwrap().voxels[0] as usize;
        let old: Vec<Vec<u8>> = at.iter().map(|&i| p.levels(i, tile)).collect();
        for (z, &i) in at.iter().enumerate() {
            p.set_levels(i, tile, &change(z, &old, nx));
        }
    })
}

/// The levels of a tile are those of another.
fn levels_of(tile: u32, other: u32) -> Change {
    Box::new(move |p| {
        for (a, b) in p.layers_of(tile).into_iter().zip(p.layers_of(other)) {
            let l = p.levels(b, other);
            p.set_levels(a, tile, &l);
        }
    })
}

/// Levels of one layer.
fn layer(tile: u32, at: usize, change: impl Fn(&mut Vec<u8>, usize) + 'static) -> Change {
    levels(
        tile,
        Box::new(move |z, old, nx| {
            let mut l = old[z].clone();
            if z == at {
                change(&mut l, nx);
            }
            l
        }),
    )
}

/// Faults of what is written in tiles. One level alone stays within the recorded ratio: its digest finds it.
fn written(first: u32, second: u32) -> Vec<(&'static str, &'static str, Change)> {
    let of = |change: fn(usize, &[Vec<u8>], usize) -> Vec<u8>| levels(first, Box::new(change));
    let both = "E0616 E0617";
    vec![
        ("one level changed", "E0616", layer(first, 3, |l, nx| l[nx + 7] ^= 1)),
        ("a voxel with a level that is not in the table", "E0614", layer(first, 3, |l, nx| l[nx + 7] = 15)),
        ("a line shifted by a voxel", both, layer(first, 3, |l, nx| l[nx..2 * nx].rotate_right(1))),
        (
            "a layer shifted by a voxel along x",
            both,
            layer(first, 4, |l, nx| l.chunks_mut(nx).for_each(|c| c.rotate_right(1))),
        ),
        ("a layer shifted by a voxel along y", both, layer(first, 4, |l, nx| l.rotate_right(nx))),
        ("a layer missing: all bias", both, layer(first, 4, |l, _| l.fill(8))),
        (
            "two layers swapped",
            both,
            of(|z, old, _| {
                old[match z {
                    2 => 5,
                    5 => 2,
                    z => z,
                }]
                .clone()
            }),
        ),
        ("layers moved by one", both, of(|z, old, _| old[(z + 1) % old.len()].clone())),
        ("z reversed", both, of(|z, old, _| old[old.len() - 1 - z].clone())),
        (
            "x mirrored",
            both,
            of(|z, old, nx| old[z].chunks(nx).flat_map(|l| l.iter().rev().copied()).collect()),
        ),
        ("y mirrored", both, of(|z, old, nx| old[z].chunks(nx).rev().flatten().copied().collect())),
        ("turned by half a turn", both, of(|z, old, _| old[z].iter().rev().copied().collect())),
        (
            "x shifted by a voxel in all layers",
            both,
            of(|z, old, nx| old[z].chunks(nx).flat_map(|l| [&l[1..], &l[..1]].concat()).collect()),
        ),
        (
            "levels complemented",
            both,
            of(|z, old, _| old[z].iter().map(|l| if *l < 8 { 7 - l } else { *l }).collect()),
        ),
        (
            "levels one higher",
            both,
            of(|z, old, _| old[z].iter().map(|l| if *l < 7 { l + 1 } else { *l }).collect()),
        ),
        (
            "levels halved",
            both,
            of(|z, old, _| old[z].iter().map(|l| if *l < 8 { l / 2 } else { *l }).collect()),
        ),
        ("all levels bias", both, of(|z, old, _| vec![8; old[z].len()])),
        ("levels of the other half of the matrix", both, levels_of(first, second)),
        (
            "a line's checksum of other levels",
            "E0614",
            Box::new(move |p| {
                let at = p.layers_of(first)[3];
                let crc = p.part(at, first).line_crc32.clone();
                let mut l = p.levels(at, first);
                l[7] ^= 1;
                p.set_levels(at, first, &l);
                p.chunks[at].parts.iter_mut().find(|q| q.tile == first).unwrap().line_crc32 = crc;
            }),
        ),
        (
            "a line missing",
            "E0614",
            Box::new(move |p| {
                let at = p.layers_of(first)[3];
                let nx = p.tiles.iter().find(|t| t.tile == first).unwrap().voxels[0] as usize;
                let l = p.levels(at, first);
                let part = p.chunks[at].parts.iter_mut().find(|q| q.tile == first).unwrap();
                let packed: Vec<u8> = l[nx..].chunks(2).map(|b| b[0] | b[1] << 4).collect();
                part.line_crc32.remove(0);
                part.levels = zstd::bulk::compress(&packed, 1).unwrap().into();
            }),
        ),
    ]
}

/// Faults of records of either method and of the order of writing; `i` and `j` are two tiles' places among the records.
fn records(i: usize, j: usize) -> Vec<(&'static str, &'static str, Change)> {
    vec![
        ("gain 0", "E0617", Box::new(move |p| p.tiles[i].gain = 0.0)),
        ("recorded ratio 3 dB too low", "E0617", Box::new(move |p| p.tiles[i].snr_db -= 3.0)),
        ("recorded ratio too high", "E0617", Box::new(move |p| p.tiles[i].snr_db += 0.2)),
        (
            "digest of levels of another tile",
            "E0616",
            Box::new(move |p| p.tiles[i].levels_sha256 = p.tiles[j].levels_sha256.clone()),
        ),
        (
            "digest of weights of another tile",
            "E0618",
            Box::new(move |p| p.tiles[i].weights_sha256 = p.tiles[j].weights_sha256.clone()),
        ),
        ("inputs one fewer", "E0615", Box::new(move |p| p.tiles[i].inputs -= 1)),
        (
            "inputs and outputs swapped: a transposed matrix",
            "E0615",
            Box::new(move |p| {
                let t = &mut p.tiles[i];
                std::mem::swap(&mut t.inputs, &mut t.outputs);
            }),
        ),
        ("the name of another tile", "E0615", Box::new(move |p| p.tiles[i].name = p.tiles[j].name.clone())),
        (
            "numbers and names of two tiles swapped",
            "E0617 E0618",
            Box::new(move |p| {
                let [a, b] = [i, j].map(|t| (p.tiles[t].tile, p.tiles[t].name.clone()));
                for part in p.chunks.iter_mut().flat_map(|c| &mut c.parts) {
                    part.tile = if part.tile == a.0 {
                        b.0
                    } else if part.tile == b.0 {
                        a.0
                    } else {
                        part.tile
                    };
                }
                (p.tiles[i].tile, p.tiles[i].name) = b;
                (p.tiles[j].tile, p.tiles[j].name) = a;
                p.tiles.sort_by_key(|t| t.tile);
            }),
        ),
        ("off the raster by a nanometre", "E0613", Box::new(move |p| p.tiles[i].origin_nm[0] += 1)),
        (
            "moved along y by a voxel, clear of all others",
            "E0702",
            Box::new(move |p| p.tiles[i].origin_nm[1] += i64::from(p.header.pitch_nm[1])),
        ),
        (
            "depth a layer too deep",
            "E0613",
            Box::new(move |p| p.tiles[i].origin_nm[2] += i64::from(p.header.pitch_nm[2])),
        ),
        (
            "two tiles in one place",
            "E0613",
            Box::new(move |p| p.tiles[i].origin_nm = p.tiles[j].origin_nm.clone()),
        ),
        ("outside of its zone", "E0613", Box::new(move |p| p.tiles[i].origin_nm[0] = 100_000_000)),
        ("another fill around tiles: level 0", "E0613", Box::new(|p| p.zones[0].fill_level = 0)),
        ("a zone without margins", "E0613", Box::new(|p| p.zones[0].rect_nm[0] += 100_000)),
        ("a layer of a zone missing", "E0613", Box::new(|p| p.zones[0].layers -= 1)),
        ("a zone off the plate", "E0613", Box::new(|p| p.zones[0].rect_nm[0] = -1_000_000)),
        ("a tile missing from its zone's list", "E0613", Box::new(|p| p.zones[0].tiles.truncate(1))),
        ("a foreign tile in a zone's list", "E0613", Box::new(|p| p.zones[0].tiles.push(77))),
        ("no marks", "E0613", Box::new(|p| p.zones[0].marks_nm.clear())),
        (
            "marks at the corners alone: a mirrored plate looks the same",
            "E0613",
            Box::new(|p| {
                let m = &mut p.zones[0].marks_nm;
                (m[6], m[7]) = (m[2], m[5]);
            }),
        ),
        ("a mark off the plate", "E0613", Box::new(|p| p.zones[0].marks_nm[0] = -20_000)),
        ("no coupon", "E0613", Box::new(|p| p.coupons.clear())),
        ("a patch of the coupon missing", "E0613", Box::new(|p| p.coupons[0].corners_nm.truncate(16))),
        (
            "patches over each other",
            "E0613",
            Box::new(|p| p.coupons[0].corners_nm[2] = p.coupons[0].corners_nm[0]),
        ),
        ("layers written from the surface down", "E0620", Box::new(|p| p.chunks.reverse())),
        (
            "two chunks of two layers swapped",
            "E0620",
            Box::new(|p| {
                let last = p.chunks.len() - 1;
                p.chunks.swap(0, last);
            }),
        ),
        (
            "a tile missing",
            "E0615",
            Box::new(move |p| {
                let gone = p.tiles.remove(i).tile;
                p.chunks.iter_mut().for_each(|c| c.parts.retain(|t| t.tile != gone));
                p.chunks.retain(|c| !c.parts.is_empty());
            }),
        ),
    ]
}

/// Faults of the records of holograms.
fn ports(i: usize) -> Vec<(&'static str, &'static str, Change)> {
    vec![
        ("gain 5 % off", "E0617", Box::new(move |p| p.tiles[i].gain *= 1.05)),
        ("gain of the other sign", "E0617", Box::new(move |p| p.tiles[i].gain *= -1.0)),
        ("gain that is no number", "E0613", Box::new(move |p| p.tiles[i].gain = f64::NAN)),
        ("sign of an input", "E0617", Box::new(move |p| p.tiles[i].input_signs[0] ^= 1)),
        ("sign of an output", "E0617", Box::new(move |p| p.tiles[i].output_signs[0] ^= 1)),
        (
            "signs of inputs and outputs swapped",
            "E0613",
            Box::new(move |p| {
                let t = &mut p.tiles[i];
                std::mem::swap(&mut t.input_signs, &mut t.output_signs);
            }),
        ),
        ("recorded complex ratio too high", "E0617", Box::new(move |p| p.tiles[i].snr_complex_db += 3.0)),
        ("carrier off by one", "E0613", Box::new(move |p| p.tiles[i].carrier += 1)),
        ("a column of ports more", "E0617", Box::new(move |p| p.tiles[i].columns += 1)),
        (
            "scales of columns, as masks have",
            "E0613",
            Box::new(move |p| p.tiles[i].column_scales = vec![1.0]),
        ),
        (
            "moved along x by a voxel, clear of all others",
            "E0702",
            Box::new(move |p| p.tiles[i].origin_nm[0] += i64::from(p.header.pitch_nm[0])),
        ),
    ]
}

/// Faults of the records of masks.
fn scales(i: usize) -> Vec<(&'static str, &'static str, Change)> {
    let of =
        |change: fn(&mut Vec<f64>)| -> Change { Box::new(move |p| change(&mut p.tiles[i].column_scales)) };
    vec![
        ("scale of a column 5 % off", "E0617", of(|s| s[1] *= 1.05)),
        ("scales of two columns swapped", "E0617", of(|s| s.swap(0, 1))),
        ("scales in reverse", "E0617", of(|s| s.reverse())),
        ("a scale below 0", "E0613", of(|s| s[0] *= -1.0)),
        ("a scale that is no number", "E0613", of(|s| s[0] = f64::NAN)),
        ("a scale missing", "E0613", of(|s| s.truncate(s.len() - 1))),
        ("gain other than 1", "E0613", Box::new(move |p| p.tiles[i].gain = 1.05)),
        ("ports, as holograms have", "E0613", Box::new(move |p| p.tiles[i].columns = 8)),
        ("a pixel of an output more", "E0613", Box::new(move |p| p.tiles[i].voxels[0] += 1)),
        (
            "moved along x by a voxel, into the gap to the next",
            "E0613",
            Box::new(move |p| p.tiles[i].origin_nm[0] += i64::from(p.header.pitch_nm[0])),
        ),
    ]
}

/// Faults of the header: what the whole schedule is. Those that change nothing of a mask's are not among its.
fn header() -> Vec<(&'static str, Change)> {
    vec![
        ("wavelength of another light", Box::new(|p| p.header.wavelength_um = 0.86)),
        ("n + bias given as n", Box::new(|p| p.header.index += p.header.bias_dn)),
        ("bias 0", Box::new(|p| p.header.bias_dn = 0.0)),
        ("a level's index change a tenth off", Box::new(|p| p.header.levels[2].dn *= 1.1)),
        ("two levels swapped", Box::new(|p| p.header.levels.swap(2, 5))),
        ("a level missing", Box::new(|p| p.header.levels.truncate(p.header.levels.len() - 1))),
        ("pitch along z a nanometre off", Box::new(|p| p.header.pitch_nm[2] += 1)),
        ("pitches along x and y swapped", Box::new(|p| p.header.pitch_nm.swap(0, 1))),
        (
            "stage travel given as depth in glass",
            Box::new(|p| {
                let ratio = p.header.depth_ratio;
                p.header.stage_z_nm.iter_mut().for_each(|z| *z = (*z as f64 * ratio) as i64);
            }),
        ),
        ("stage travel of one layer a nanometre off", Box::new(|p| p.header.stage_z_nm[3] += 1)),
        ("stage travel of layers in reverse", Box::new(|p| p.header.stage_z_nm.reverse())),
        ("depth by travel as for rays near the axis", Box::new(|p| p.header.depth_ratio = p.header.index)),
        ("another convention of z", Box::new(|p| p.header.z_convention = "stage travel".into())),
        ("another convention of stage travel", Box::new(|p| p.header.stage_convention = "paraxial".into())),
        ("another order of writing", Box::new(|p| p.header.order = "surface first".into())),
        ("another raster", Box::new(|p| p.header.raster = "field".into())),
        (
            "another rule of ports",
            Box::new(|p| p.header.port_map = "port p is row p mod R of column p div R".into()),
        ),
        ("both quadratures", Box::new(|p| p.header.quadrature = "dual".into())),
        ("gaussian voxels", Box::new(|p| p.header.gaussian_fwhm_um = vec![0.5, 0.5, 6.6])),
        ("kappa_min 0", Box::new(|p| p.header.kappa_min = 0.0)),
        (
            "the other method",
            Box::new(|p| {
                p.header.method = if p.header.method == "mask" { "hologram" } else { "mask" }.into()
            }),
        ),
        ("levels of other bits", Box::new(|p| p.header.level_bits = 12 - p.header.level_bits)),
        ("other spots of a voxel", Box::new(|p| p.header.spots[1] += 1)),
        (
            "azimuth of a level a degree off",
            Box::new(|p| {
                p.header.levels[3].azimuth_deg = Some(p.header.levels[3].azimuth_deg.unwrap_or(0.0) + 1.0)
            }),
        ),
        ("a thinner plate", Box::new(|p| p.header.plate_nm[2] = 1)),
        ("another level of marks", Box::new(|p| p.header.mark_level = 1)),
        ("smaller marks", Box::new(|p| p.header.mark_nm -= 1000)),
        ("another interleave", Box::new(|p| p.header.interleave += 1)),
        ("another order of scattering", Box::new(|p| p.header.propagated = true)),
        (
            "the name of another process",
            Box::new(|p| p.header.process = "borosilicate-scanner-200khz".into()),
        ),
    ]
}

/// Faults of what is written in masks. All layers of a pixel are the same, so that layers in another order are no fault.
fn pixels(first: u32, second: u32) -> Vec<(&'static str, &'static str, Change)> {
    let of = |change: fn(usize, &[Vec<u8>], usize) -> Vec<u8>| levels(first, Box::new(change));
    let each = |change: fn(u8) -> u8| {
        levels(first, Box::new(move |z, old, _| old[z].iter().map(|l| change(*l)).collect()))
    };
    let both = "E0616 E0617";
    vec![
        ("one level of a layer changed by one", "E0616", layer(first, 3, |l, nx| l[nx + 2] ^= 1)),
        (
            "a pixel of azimuth 0 for 45 degrees, or 45 for 0",
            both,
            of(|z, old, nx| {
                let mut l = old[z].clone();
                l[nx + 2] = if l[nx + 2] > 32 { 0 } else { 64 };
                l
            }),
        ),
        ("a level that is not in the table", "E0614", layer(first, 3, |l, nx| l[nx + 2] = 66)),
        (
            "a pixel that is not written",
            both,
            of(|z, old, nx| {
                let mut l = old[z].clone();
                l[nx + 2] = 65;
                l
            }),
        ),
        ("a layer that is not written", both, layer(first, 2, |l, _| l.fill(65))),
        (
            "a layer with azimuths from the other side",
            both,
            layer(first, 2, |l, _| l.iter_mut().for_each(|l| *l = 64 - *l)),
        ),
        (
            "a line shifted by a pixel",
            both,
            of(|z, old, nx| {
                let mut l = old[z].clone();
                l[nx..2 * nx].rotate_right(1);
                l
            }),
        ),
        (
            "a layer shifted by a pixel along x",
            both,
            layer(first, 4, |l, nx| l.chunks_mut(nx).for_each(|c| c.rotate_right(1))),
        ),
        (
            "x mirrored",
            both,
            of(|z, old, nx| old[z].chunks(nx).flat_map(|l| l.iter().rev().copied()).collect()),
        ),
        ("y mirrored", both, of(|z, old, nx| old[z].chunks(nx).rev().flatten().copied().collect())),
        ("turned by half a turn", both, of(|z, old, _| old[z].iter().rev().copied().collect())),
        ("weights of the other sign: levels complemented", both, each(|l| 64 - l)),
        ("azimuths one level higher", both, each(|l| (l + 1).min(64))),
        ("azimuths halved, as if light turned by twice as much", both, each(|l| l / 2)),
        (
            "inputs as outputs",
            both,
            of(|z, old, nx| {
                let ny = old[z].len() / nx;
                (0..nx * ny).map(|at| old[z][at % ny * nx + at / ny]).collect()
            }),
        ),
        ("levels of the other half of the matrix", both, levels_of(first, second)),
    ]
}

/// Schedules designed with one quantity for another; their headers are then set right, so that the records say what they
/// should and what is written computes something else.
fn designs(section: &mut Section, bench: &Bench) {
    let built_in = pfmc_glass::Glass.processes().remove(0);
    let process = pfmc_glass::hologram::Hologram::parse("p", &built_in.toml).unwrap();
    let right = Parts::of(&bench.files["schedule.pfmg"]).header;
    // Text of the built-in process with one value replaced.
    let with = |key: &str, value: f64| {
        let line = built_in.toml.lines().find(|l| l.starts_with(&format!("{key} = "))).unwrap();
        built_in.toml.replace(line, &format!("{key} = {value}"))
    };
    let cases = [
        (
            "designed at n for n + bias: a tenth of a dB, which the manifest's ratios tell",
            with("index", process.base.index - process.bias_dn()),
            "E0702",
        ),
        (
            "designed at twice the bias: as much",
            with("index", process.base.index + process.bias_dn()),
            "E0702",
        ),
        (
            "designed in stage travel for depth in glass: layers thinner by the ratio",
            with("z_um", (process.base.voxel_um[2] / process.base.depth_ratio() * 1e3).round() / 1e3),
            "E0613",
        ),
        (
            "designed at a wavelength 1 % longer",
            with("wavelength_um", process.base.wavelength_um * 1.01),
            "E0617",
        ),
        ("designed for levels of half the index change", with("dn_rms", process.dn_rms / 2.0), "E0617"),
    ];
    for (fault, toml, expect) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("borosilicate-phase.toml");
        let text = ProcessText { name: "borosilicate-phase".to_owned(), toml };
        std::fs::write(&path, &text.toml).unwrap();
        let out = compiled(dir.path(), 1, "glass", path.to_str().unwrap());
        let mut parts = Parts::read(&out);
        parts.header = right.clone();
        section.judge(fault, expect, bench.sealed(&[(schedule::FILE, Some(parts.bytes()))], false));
    }
}

/// Two tiles' places among a schedule's records: those of the first matrix.
fn two(sound: &Parts) -> [usize; 2] {
    let of = |t: &schedule::Tile| t.name.contains("w1");
    let i = sound.tiles.iter().position(|t| of(t) && t.inputs >= 12).unwrap();
    let j = sound.tiles.iter().rposition(of).unwrap();
    assert!(i != j);
    [i, j]
}

/// Judges changes of a sound schedule.
fn judge(
    section: &mut Section,
    bench: &Bench,
    faults: impl IntoIterator<Item = (&'static str, &'static str, Change)>,
) {
    for (fault, expect, change) in faults {
        let mut parts = Parts::of(&bench.files[schedule::FILE]);
        change(&mut parts);
        let changed = [(schedule::FILE, Some(parts.bytes()))];
        section.judge(fault, expect, bench.sealed(&changed, false));
    }
}

/// Faults of the header with their code.
fn headers() -> impl Iterator<Item = (&'static str, &'static str, Change)> {
    header().into_iter().map(|(fault, change)| (fault, "E0615", change))
}

/// All faults of schedules of holograms.
pub fn section() -> Section {
    let bench = Bench::glass();
    let bytes = &bench.files[schedule::FILE];
    let mut section = Section::new(
        "Glass",
        "In `schedule.pfmg`. A level of the bias is 8, of a hologram 0 to 7. Faults that stay within a tile's recorded ratio are found by the \
         digest of its levels alone (E0616).",
    );
    let sound = Parts::of(bytes);
    let [i, j] = two(&sound);
    let (first, second) = (sound.tiles[i].tile, sound.tiles[j].tile);
    let tiles = written(first, second).into_iter().chain(records(i, j)).chain(ports(i));
    judge(&mut section, &bench, tiles.chain(headers()));
    for (fault, expect, bytes) in [
        ("empty", "E0611", Vec::new()),
        ("truncated after the magic", "E0611", bytes[..8].to_vec()),
        ("truncated in the middle", "E0612", bytes[..bytes.len() / 2].to_vec()),
        ("without its last byte", "E0612", bytes[..bytes.len() - 1].to_vec()),
        ("a byte more at the end", "E0612", [&bytes[..], &[0]].concat()),
        ("of another version", "E0611", [&bytes[..8], &[9], &bytes[9..]].concat()),
        ("bytes between two records", "E0620", between(bytes)),
    ] {
        section.judge(fault, expect, bench.sealed(&[(schedule::FILE, Some(bytes))], false));
    }
    designs(&mut section, &bench);
    section
}

/// All faults of schedules of masks.
pub fn masks() -> Section {
    let bench = Bench::mask();
    let mut section = Section::new(
        "Glass, masks",
        "In `schedule.pfmg` of a process of masks. Glass that is not written has level 65, azimuths from 0 to 45 degrees have 0 to 64.",
    );
    let sound = Parts::of(&bench.files[schedule::FILE]);
    let [i, j] = two(&sound);
    let (first, second) = (sound.tiles[i].tile, sound.tiles[j].tile);
    let same = ["n + bias given as n", "bias 0", "pitches along x and y swapped", "kappa_min 0"];
    let tiles = pixels(first, second).into_iter().chain(records(i, j)).chain(scales(i));
    judge(&mut section, &bench, tiles.chain(headers().filter(|h| !same.contains(&h.0))));
    section
}

/// A schedule with eight bytes before its index, which no record has.
fn between(bytes: &[u8]) -> Vec<u8> {
    let trailer = bytes.len() - schedule::TRAILER_LEN;
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (at, length) = (number(trailer), number(trailer + 8));
    let mut end: Vec<u8> = [(at + 8).to_le_bytes(), length.to_le_bytes()].concat();
    end.extend(crc32fast::hash(&end).to_le_bytes());
    end.extend(schedule::END);
    [&bytes[..at as usize], &[0; 8], &bytes[at as usize..trailer], &end].concat()
}
