//! Targets that read a file of an output folder, whose other files are as they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use pfmc::calibrate::calibrate;
use pfmc::compile::{Options, compile};
use pfmc::contents::Reference;
use pfmc::export::glass::Glass;
use pfmc::manifest::{FileRecord, Manifest};
use pfmc::onnx;
use pfmc::passes::bind;
use pfmc::quantise::options::{Quantisation, Rounding};
use pfmc::run::Runnable;
use pfmc::verify::{Opened, open, verify};
use pfmc_glass::calibrate::Complex64;
use pfmc_ir::backend::{NoProgress, Progress, Wishes};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::{Levels, TileSource as _};
use pfmc_ir::verify::Verified;
use tempfile::TempDir;

use crate::readers::{checked, held, models};
use crate::{Check, fixture, outcome};

/// The model of all folders: one product with a bias.
const MODEL: &str = "onnx/small/fixed_gemm.onnx";

/// A compiled folder that goes away with its files.
pub struct Folder {
    dir: TempDir,
    target: &'static str,
    opened: Option<(Opened, Reference)>,
}

/// The process of masks in glass.
const MASK: &str = "fused-silica-mask";

fn options(target: &str, process: Option<&str>, output: PathBuf) -> Options {
    // Masks have no designer to be set.
    let fast = target == "glass" && process != Some(MASK);
    Options {
        model: fixture(MODEL),
        target: target.to_owned(),
        process: process.map(str::to_owned),
        wishes: Wishes { preset: fast.then(|| "fast".to_owned()), ..Wishes::default() },
        output: Some(output),
        ..Options::default()
    }
}

#[expect(clippy::panic, reason = "there is nothing to fuzz without a folder")]
fn temporary() -> TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

impl Folder {
    /// The model, compiled.
    #[expect(clippy::panic, reason = "there is nothing to fuzz without a folder")]
    pub fn new(target: &'static str, process: Option<&str>) -> Folder {
        let dir = temporary();
        let out = dir.path().join("out");
        let made = compile(&options(target, process, out.clone()), &NoProgress, &|_, _| {});
        if let Err(e) = made {
            panic!("{e}");
        }
        let mut folder = Folder { dir, target, opened: None };
        folder.opened = folder.reopen().ok();
        folder
    }

    fn reopen(&self) -> Result<(Opened, Reference), Diagnostics> {
        let opened = open(&self.out())?;
        let reference = Reference::open(&opened.program, &self.out())?;
        Ok((opened, reference))
    }

    /// The target that it was compiled for.
    pub fn target(&self) -> &'static str {
        self.target
    }

    /// A folder for other files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// The program and its contents as they were written.
    pub fn program(&self) -> Option<(&Verified<TileProgram>, &Reference)> {
        self.opened.as_ref().map(|(o, r)| (&o.program, r))
    }

    /// A file as it is.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.out().join(name)).ok()
    }

    /// A file as it is, as text.
    pub fn text(&self, name: &str) -> Option<String> {
        String::from_utf8(self.bytes(name)?).ok()
    }

    /// Puts a file in place of what is there, which may still be mapped.
    fn put(&self, name: &str, data: &[u8]) -> Option<()> {
        let partial = self.dir.path().join("partial");
        std::fs::write(&partial, data).ok()?;
        std::fs::rename(partial, self.out().join(name)).ok()
    }

    /// As [`Folder::put`]; the manifest lists the file as it is.
    fn replace(&self, name: &str, data: &[u8]) -> Option<()> {
        let out = self.out();
        self.put(name, data)?;
        let mut manifest = Manifest::read(&out).ok()?;
        let record = FileRecord::of(&out, name).ok()?;
        manifest.files.iter_mut().filter(|f| f.name == name).for_each(|f| f.clone_from(&record));
        manifest.write(&out).ok().map(|_| ())
    }
}

fn seeds(target: &'static str, process: Option<&str>, name: &str) -> Vec<Vec<u8>> {
    Folder::new(target, process).bytes(name).into_iter().collect()
}

/// Reads an artefact file back. What is accepted must hold what was written: its own tiles say so.
fn artefact(target: &'static str, process: Option<&str>, name: &'static str) -> Check {
    let folder = Folder::new(target, process);
    Box::new(move |data| {
        let (Some((opened, reference)), out) = (&folder.opened, folder.out()) else { return String::new() };
        if folder.put(name, data).is_none() {
            return String::new();
        }
        if let Err(e) = checked(&*opened.target, &opened.program, reference, &out) {
            // Whatever is wrong with it, tiles that can be read can be asked for.
            let read = opened.target.read_back(&opened.program, &out, &NoProgress);
            let tiles = held(&opened.program, opened.target.caps().data_tile_bytes.is_some());
            let some = read.is_ok_and(|r| tiles.iter().any(|t| r.tile(*t).is_ok()));
            return format!("{some} {}", outcome(&e));
        }
        let read = opened.target.read_back(&opened.program, &out, &NoProgress);
        let exact = opened.target.caps().data_tile_bytes.is_some();
        for id in held(&opened.program, exact) {
            let held = read.as_ref().map_err(Clone::clone).and_then(|r| r.tile(id));
            assert!(held.is_ok(), "tile {id} was accepted and cannot be read");
            let same = held.is_ok_and(|h| reference.tile(id).is_ok_and(|r| h == r));
            assert!(same || !exact, "tile {id} was accepted and holds something else");
        }
        "accepted".to_owned()
    })
}

/// A layout of arrays alone.
pub fn gds_seeds() -> Vec<Vec<u8>> {
    seeds("asic", Some("sg13g2"), "layout.gds")
}

/// The read-back of GDSII.
pub fn gds() -> Check {
    artefact("asic", Some("sg13g2"), "layout.gds")
}

/// As [`gds_seeds`].
pub fn oasis_seeds() -> Vec<Vec<u8>> {
    seeds("asic", Some("sg13g2"), "layout.oas")
}

/// The read-back of OASIS.
pub fn oasis() -> Check {
    artefact("asic", Some("sg13g2"), "layout.oas")
}

/// A schedule.
pub fn schedule_seeds() -> Vec<Vec<u8>> {
    seeds("glass", None, "schedule.pfmg")
}

/// The read-back of schedules.
pub fn schedule() -> Check {
    artefact("glass", None, "schedule.pfmg")
}

/// A schedule of masks.
pub fn mask_seeds() -> Vec<Vec<u8>> {
    seeds("glass", Some(MASK), "schedule.pfmg")
}

/// The read-back of schedules of masks.
pub fn mask() -> Check {
    artefact("glass", Some(MASK), "schedule.pfmg")
}

/// Inputs of the model.
fn inputs() -> BTreeMap<String, Tensor> {
    let t = Tensor::new(vec![4, 2], (0..8u8).map(|i| f32::from(i) / 4.0 - 1.0).collect());
    t.map(|t| BTreeMap::from([("t".to_owned(), t)])).unwrap_or_default()
}

/// Notes the tiles that runs leave for the case that they are stopped.
struct Spooled<'a> {
    dir: &'a Path,
    /// By path below the folder.
    tiles: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
}

impl Progress for Spooled<'_> {
    fn begin(&self, _stage: &str, _total: u64) {}

    fn advance(&self, _steps: u64) {
        let inside = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
        let spools = inside(self.dir).filter(|p| p.extension().is_some_and(|e| e == "spool"));
        let Ok(mut tiles) = self.tiles.lock() else { return };
        for path in spools.flat_map(|p| inside(&p).collect::<Vec<_>>()) {
            if let (Ok(name), Ok(bytes)) = (path.strip_prefix(self.dir), std::fs::read(&path)) {
                tiles.insert(name.to_owned(), bytes);
            }
        }
    }
}

/// What the model's run leaves of its tiles.
fn spooled() -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = temporary();
    let watch = Spooled { dir: dir.path(), tiles: Mutex::default() };
    // Without it there are no seeds, which the target's test misses.
    let _ = compile(&options("glass", None, dir.path().join("out")), &watch, &|_, _| {});
    watch.tiles.into_inner().unwrap_or_default()
}

/// Tiles of a run that was stopped.
pub fn spool_seeds() -> Vec<Vec<u8>> {
    spooled().into_values().collect()
}

/// Goes on where a run was stopped that left these bytes for each of its tiles.
pub fn spool() -> Check {
    let (dir, names) = (temporary(), spooled().into_keys().collect::<Vec<_>>());
    Box::new(move |data| {
        let put = |name: &PathBuf| {
            let path = dir.path().join(name);
            path.parent().is_some_and(|p| std::fs::create_dir_all(p).is_ok())
                && std::fs::write(&path, data).is_ok()
        };
        if !names.iter().all(put) {
            return String::new();
        }
        let options = options("glass", None, dir.path().join("out"));
        match compile(&options, &NoProgress, &|_, _| {}) {
            Ok(made) => {
                let verified = verify(&made.folder, Some(&options.model), None, &NoProgress);
                assert!(verified.is_ok(), "what was compiled does not verify: {verified:?}");
                let length =
                    std::fs::metadata(made.folder.join(pfmc_glass::schedule::FILE)).map_or(0, |m| m.len());
                format!("accepted {length}")
            }
            Err(e) => outcome(&e),
        }
    })
}

/// A file of measurements that changes nothing, and one that does.
pub fn measured_seeds() -> Vec<Vec<u8>> {
    let folder = Folder::new("glass", None);
    let Ok(glass) = Glass::open(&folder.out()) else { return Vec::new() };
    let Ok(read) = glass.schedule(&NoProgress) else { return Vec::new() };
    let mut all = Vec::new();
    for (wavelength, tilt) in [(0.0, 0.0), (1e-5, -1e-5)] {
        let tiles = held(&glass.opened.program, false).into_iter().filter_map(|id| {
            let (record, [outputs, inputs]) = (read.record(id).ok()?, read.ports(id).ok()?);
            let digest: String = record.levels_sha256.iter().map(|b| format!("{b:02x}")).collect();
            Some(serde_json::json!({
                "tile": id.0, "name": record.name, "levels_sha256": digest, "wavelength": wavelength,
                "tilt_rad": tilt, "match_db": 40.0, "before_db": 1.0, "ports_db": 38.0, "corrected_db": 41.0,
                "input_gains": vec![[1.0, 0.0]; inputs], "output_gains": vec![[0.5, 0.5]; outputs],
            }))
        });
        let file = serde_json::json!({"format": 1, "tiles": tiles.collect::<Vec<_>>()});
        all.push(file.to_string().into_bytes());
    }
    all
}

/// Loads and runs a folder with a file of measurements.
pub fn measured() -> Check {
    let folder = Folder::new("glass", None);
    Box::new(move |data| {
        let out = folder.out();
        if folder.put(pfmc_glass::calibrate::FILE, data).is_none() {
            return String::new();
        }
        loaded(&out)
    })
}

/// The first tile in glass of a folder: its name, and its transfer matrix with the shape of it.
fn transfer(folder: &Folder) -> Option<(String, [usize; 2], Vec<Complex64>)> {
    let glass = Glass::open(&folder.out()).ok()?;
    let schedule = glass.schedule(&NoProgress).ok()?;
    let id = *glass.tiles(None).ok()?.first()?;
    Some((schedule.record(id).ok()?.name.clone(), schedule.ports(id).ok()?, schedule.matrix(id).ok()?))
}

/// The tile's transfer matrix as it is, turned by a quarter, and its real part alone: behind a byte that scales it, real
/// parts and then imaginary ones.
pub fn matrices_seeds() -> Vec<Vec<u8>> {
    let Some((.., matrix)) = transfer(&Folder::new("glass", None)) else { return Vec::new() };
    let turned = |part: fn(&Complex64) -> [f64; 2]| {
        let both = matrix.iter().map(part).collect::<Vec<_>>();
        let bytes = [0, 1].into_iter().flat_map(|p| both.iter().flat_map(move |c| c[p].to_le_bytes()));
        [0].into_iter().chain(bytes).collect()
    };
    vec![turned(|c| [c.re, c.im]), turned(|c| [-c.im, c.re]), turned(|c| [c.re, 0.0])]
}

/// Calibrates a folder by a measured matrix.
pub fn matrices() -> Check {
    let folder = Folder::new("glass", None);
    let known = transfer(&folder);
    Box::new(move |data| {
        let (Some((name, shape, matrix)), Some((scale, rest))) = (&known, data.split_first()) else {
            return String::new();
        };
        let scale = (f64::from(*scale as i8) * 8.0).exp2();
        let (numbers, _) = rest.as_chunks();
        let mut numbers: Vec<f64> = numbers.iter().map(|b| f64::from_le_bytes(*b) * scale).collect();
        numbers.resize(2 * matrix.len(), 0.0);
        let imaginary = numbers.split_off(matrix.len());
        let parts = [("re", numbers), ("im", imaginary)];
        let arrays = parts
            .into_iter()
            .filter_map(|(part, v)| Some((format!("{name}.{part}"), Tensor::new(shape.to_vec(), v).ok()?)));
        let (out, path) = (folder.out(), folder.path().join("measured.npz"));
        let file = out.join(pfmc_glass::calibrate::FILE);
        // There is none before the first.
        let _ = std::fs::remove_file(&file);
        if pfmc::npz::write(&path, &arrays.collect()).is_err() {
            return String::new();
        }
        match calibrate(&out, &path, &NoProgress) {
            Ok(_) => {
                let loaded = loaded(&out);
                assert!(
                    loaded.starts_with("accepted"),
                    "a folder that was calibrated does not run: {loaded}"
                );
                loaded
            }
            Err(e) => {
                assert!(!file.exists(), "a matrix was refused and written");
                outcome(&e)
            }
        }
    })
}

/// Loads and runs a folder.
fn loaded(out: &Path) -> String {
    match Runnable::load(out, &NoProgress).and_then(|r| r.run(&inputs())) {
        Ok(outputs) => format!("accepted {:?}", outputs.keys()),
        Err(e) => format!("not run {}", outcome(&e)),
    }
}

/// Verifies a folder in which one file is another; with what is accepted `then` is done.
fn listed(
    target: &'static str,
    process: Option<&str>,
    name: &'static str,
    then: fn(&Folder, &[u8], &Path) -> String,
) -> Check {
    let folder = Folder::new(target, process);
    Box::new(move |data| {
        if folder.replace(name, data).is_none() {
            return String::new();
        }
        match verify(&folder.out(), None, None, &NoProgress) {
            Ok(_) => then(&folder, data, &folder.out()),
            Err(e) => outcome(&e),
        }
    })
}

/// Reference contents.
pub fn contents_seeds() -> Vec<Vec<u8>> {
    seeds("asic", Some("sg13g2"), "contents.pfmt")
}

/// Contents that verify are those of the artefact, however they are packed.
pub fn contents() -> Check {
    listed("asic", Some("sg13g2"), "contents.pfmt", |folder, _, out| {
        let Some((program, reference)) = folder.program() else { return String::new() };
        let again = Reference::open(program, out);
        for id in held(program, true) {
            let got = again.as_ref().map_err(Clone::clone).and_then(|r| r.tile(id));
            let same = got.is_ok_and(|g| reference.tile(id).is_ok_and(|r| g == r));
            assert!(same, "contents of tile {id} verify and are not what was written");
        }
        "accepted".to_owned()
    })
}

/// Program texts.
pub fn program_seeds() -> Vec<Vec<u8>> {
    seeds("asic", Some("sg13g2"), "program.pfir")
}

/// A folder whose program was changed and that verifies loads and runs.
pub fn program() -> Check {
    listed("asic", Some("sg13g2"), "program.pfir", |_, _, out| format!("accepted, {}", loaded(out)))
}

/// Manifests.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    seeds("asic", Some("sg13g2"), "manifest.json")
}

/// A manifest, sealed where it is one.
pub fn manifest() -> Check {
    let folder = Folder::new("asic", Some("sg13g2"));
    Box::new(move |data| {
        let out = folder.out();
        let written = match serde_json::from_slice::<Manifest>(data) {
            Ok(m) => m.write(&out).map(|_| ()),
            Err(_) => folder.put("manifest.json", data).ok_or_else(Diagnostics::new),
        };
        if written.is_err() {
            return String::new();
        }
        match verify(&out, None, None, &NoProgress) {
            Ok(_) => loaded(&out),
            Err(e) => outcome(&e),
        }
    })
}

/// Models of no more parameters are compiled.
const PARAMETERS_MAX: u64 = 4096;

/// Codes of what is wrong with a program or a folder that pfmc made, never with a model.
const OURS: [&str; 7] = ["E0301", "E0302", "E0510", "E0611", "E0701", "E0703", "E0704"];
/// First and last codes of the checks of artefacts that are read back.
const READ_BACK: [[&str; 2]; 3] = [["E0511", "E0522"], ["E0530", "E0531"], ["E0612", "E0620"]];

/// Small models behind the bytes that [`compiled`] takes, for each target.
pub fn compiled_seeds() -> Vec<Vec<u8>> {
    let mut check = compiled();
    let mut all = Vec::new();
    for model in models() {
        let variants = (0..3).map(|target| {
            let mut data = model.clone();
            data.splice(5..8, [0, 0, target]);
            data
        });
        all.extend(variants.filter(|data| check(data).starts_with("accepted")));
    }
    all
}

/// Compiles a model for a target, and verifies the folder against the model. Of eight bytes before the model the first
/// five choose sizes of open dimensions, the others rounding, bits and group, and target.
pub fn compiled() -> Check {
    let dir = temporary();
    Box::new(move |data| {
        let Some((choices, bytes)) = data.split_first_chunk::<8>() else { return String::new() };
        let model = match onnx::import_bytes(bytes.to_vec().into()) {
            Ok(model) if model.parameters <= PARAMETERS_MAX => model,
            Ok(_) => return "large".to_owned(),
            Err(e) => return outcome(&e),
        };
        let &[ref sizes @ .., rounding, scheme, target] = choices;
        let (target, process) =
            [("asic", Some("sg13g2")), ("glass", None), ("glass", Some(MASK))][usize::from(target) % 3];
        let sizes = bind::open_dimensions(&model.graph).into_iter().zip(sizes.iter().cycle());
        let path = dir.path().join("model.onnx");
        if std::fs::write(&path, bytes).is_err() {
            return String::new();
        }
        let out = dir.path().join("out");
        let codes = target == "asic";
        let group = [0, 1, 3, 32].get(usize::from(scheme / 8 % 8)).copied();
        let options = Options {
            model: path.clone(),
            bind: sizes.map(|(name, &size)| (name, i64::from(size % 16) + 1)).collect(),
            quantisation: Quantisation {
                bits: (2..=8).nth(usize::from(scheme % 8)).filter(|_| codes),
                group: group.filter(|_| codes),
                levels: [Levels::Uniform, Levels::Codebook]
                    .get(usize::from(rounding % 4))
                    .copied()
                    .filter(|_| codes),
                rounding: if rounding / 4 % 2 == 0 { Rounding::Search } else { Rounding::Plain },
                ..Quantisation::default()
            },
            ..options(target, process, out.clone())
        };
        let ours = |e: &Diagnostics| {
            let among = |id: &str| READ_BACK.iter().any(|[first, last]| (*first..=*last).contains(&id));
            e.0.iter().any(|d| OURS.contains(&d.code.id) || among(d.code.id))
        };
        match compile(&options, &NoProgress, &|_, _| {}) {
            Ok(made) => {
                let verified = verify(&out, Some(&path), None, &NoProgress);
                assert!(verified.is_ok(), "what was compiled does not verify: {verified:?}");
                let ops: BTreeSet<&str> = made.program.graph.nodes().map(|(_, n)| n.op.name()).collect();
                format!("accepted {target} {ops:?}")
            }
            Err(e) => {
                assert!(!ours(&e), "compiling a model ends in what is no fault of it: {e:?}");
                outcome(&e)
            }
        }
    })
}

/// Plans of the model.
pub fn plan_seeds() -> Vec<Vec<u8>> {
    seeds("asic", Some("sg13g2"), "plan.json")
}

/// Compiles by a plan.
pub fn plan() -> Check {
    let dir = temporary();
    Box::new(move |data| {
        let path = dir.path().join("plan.json");
        if std::fs::write(&path, data).is_err() {
            return String::new();
        }
        let mut options = options("asic", Some("sg13g2"), dir.path().join("out"));
        options.quantisation.plan = Some(path);
        match compile(&options, &NoProgress, &|_, _| {}) {
            Ok(made) => format!("accepted {} tiles", made.program.tiles.len().min(9)),
            Err(e) => outcome(&e),
        }
    })
}
