//! Fuzzing of everything that reads a file, and of passes and interpreter with arbitrary graphs.
//!
//! A [`Target`] has seeds, a mutation that knows the form of its inputs, and a check that takes any bytes and
//! panics where a property does not hold. Three things drive them: the test below (fixed seeds, a bounded number of
//! executions, and every input that ever failed, kept under `fixtures/fuzz`), the command `fuzz` (as long as one likes)
//! and libFuzzer (`fuzz_targets/libfuzzer.rs`).

mod entropy;
mod folders;
mod graphs;
mod mutate;
mod readers;

use std::path::{Path, PathBuf};

use pfmc_ir::diag::Diagnostics;

pub use pfmc_ir::random::Random;

/// Takes an input and says what became of it; panics where a property does not hold.
pub type Check = Box<dyn FnMut(&[u8]) -> String>;

/// Makes another input of one, and of a second one to take pieces from.
pub type Mutate = fn(&mut Random, &[u8], &[u8]) -> Vec<u8>;

/// Something to fuzz.
pub struct Target {
    /// Name.
    pub name: &'static str,
    /// What is read, and what must hold of it.
    pub about: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How an input is changed.
    pub mutate: Mutate,
    /// A check with the state it needs.
    pub check: fn() -> Check,
    /// Executions of the bounded test: what takes about a second.
    pub bounded: usize,
}

/// All targets.
pub static TARGETS: &[Target] = &[
    Target {
        name: "onnx",
        about: "model.onnx: what is imported verifies, also bound to any sizes, and prints",
        seeds: readers::models,
        mutate: mutate::model,
        check: readers::onnx,
        bounded: 2000,
    },
    Target {
        name: "external",
        about: "model.onnx with weights in other files: as onnx, and nothing outside of the model's folder is read",
        seeds: readers::external_seeds,
        mutate: mutate::model,
        check: readers::external,
        bounded: 1000,
    },
    Target {
        name: "pfir",
        about: "program.pfir, and the data beside it: what is read prints to text that reads back to the same",
        seeds: readers::programs,
        mutate: mutate::text,
        check: readers::pfir,
        bounded: 2000,
    },
    Target {
        name: "npz",
        about: ".npz, or the .npy member of one: arrays that are read are written and read back to the same",
        seeds: readers::arrays,
        mutate: mutate::bytes,
        check: readers::npz,
        bounded: 2000,
    },
    Target {
        name: "samples",
        about: "lines of JSON as samples: what is accepted runs, or is refused by the executor",
        seeds: readers::lines,
        mutate: mutate::text,
        check: readers::samples,
        bounded: 2000,
    },
    Target {
        name: "asic-process",
        about: "process file of asic: what is accepted can be planned and estimated, and what is emitted is read back",
        seeds: readers::asic_processes,
        mutate: mutate::text,
        check: readers::asic_process,
        bounded: 40,
    },
    Target {
        name: "glass-process",
        about: "process file of glass: what is accepted can be planned and estimated, and what is emitted is read back",
        seeds: readers::glass_processes,
        mutate: mutate::text,
        check: readers::glass_process,
        bounded: 500,
    },
    Target {
        name: "calibration",
        about: "calibration of a writer (--calibration): as a process file",
        seeds: readers::calibrations,
        mutate: mutate::text,
        check: readers::calibration,
        bounded: 500,
    },
    Target {
        name: "gds",
        about: "layout.gds: what the read-back accepts holds the program's contents",
        seeds: folders::gds_seeds,
        mutate: mutate::gds,
        check: folders::gds,
        bounded: 300,
    },
    Target {
        name: "oasis",
        about: "layout.oas: what the read-back accepts holds the program's contents",
        seeds: folders::oasis_seeds,
        mutate: mutate::oasis,
        check: folders::oasis,
        bounded: 300,
    },
    Target {
        name: "schedule",
        about: "schedule.pfmg: what the read-back accepts holds the program's contents",
        seeds: folders::schedule_seeds,
        mutate: mutate::schedule,
        check: folders::schedule,
        bounded: 300,
    },
    Target {
        name: "mask",
        about: "schedule.pfmg of masks: what the read-back accepts holds the program's contents",
        seeds: folders::mask_seeds,
        mutate: mutate::schedule,
        check: folders::mask,
        bounded: 300,
    },
    Target {
        name: "spool",
        about: "a tile that a stopped run left: a run that goes on from it ends in a folder that verifies, or is refused",
        seeds: folders::spool_seeds,
        mutate: mutate::spool,
        check: folders::spool,
        bounded: 100,
    },
    Target {
        name: "measured",
        about: "calibration.json beside a schedule: a folder with it loads or is refused",
        seeds: folders::measured_seeds,
        mutate: mutate::text,
        check: folders::measured,
        bounded: 300,
    },
    Target {
        name: "matrices",
        about: "measured matrices (pfmc calibrate): a folder that they calibrate runs, others are refused and nothing is written",
        seeds: folders::matrices_seeds,
        mutate: mutate::bytes,
        check: folders::matrices,
        bounded: 200,
    },
    Target {
        name: "contents",
        about: "contents.pfmt under a manifest that lists its digest: what verifies is what was written",
        seeds: folders::contents_seeds,
        mutate: mutate::contents,
        check: folders::contents,
        bounded: 200,
    },
    Target {
        name: "program",
        about: "program.pfir of a folder under a manifest that lists its digest: what verifies loads and runs, or is refused",
        seeds: folders::program_seeds,
        mutate: mutate::text,
        check: folders::program,
        bounded: 200,
    },
    Target {
        name: "manifest",
        about: "manifest.json, sealed again where it is JSON of that form",
        seeds: folders::manifest_seeds,
        mutate: mutate::text,
        check: folders::manifest,
        bounded: 200,
    },
    Target {
        name: "plan",
        about: "plan.json as --plan: the model compiles by it, or it is refused",
        seeds: folders::plan_seeds,
        mutate: mutate::text,
        check: folders::plan,
        bounded: 100,
    },
    Target {
        name: "compile",
        about: "model.onnx, for each target and several schemes: what compiles verifies against the model",
        seeds: folders::compiled_seeds,
        mutate: mutate::model,
        check: folders::compiled,
        bounded: 100,
    },
    Target {
        name: "graph",
        about: "arbitrary valid graphs: every pass keeps what the interpreter computes, and the verifier stays content",
        seeds: graphs::seeds,
        mutate: mutate::entropy,
        check: graphs::graph,
        bounded: 1000,
    },
];

/// A target by name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// The folder of inputs that failed once, by target.
pub fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/fuzz")
}

/// What became of an input in a few words, without numbers and names: inputs of one outcome took about one way.
fn outcome(problems: &Diagnostics) -> String {
    let mut words: Vec<String> = problems.0.iter().map(|d| shape(d.code.id, &d.message)).collect();
    words.sort_unstable();
    words.dedup();
    words.truncate(4);
    words.join("; ")
}

/// A message without what is quoted or a number.
fn shape(code: &str, message: &str) -> String {
    let mut quoted = false;
    let mut out = String::from(code);
    for c in message.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted || c.is_ascii_digit() || out.len() > 90 => {}
            _ => out.push(c),
        }
    }
    out
}

/// A fixture.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Inputs that grow from a target's seeds: those with an outcome that none had before are kept.
pub struct Pool {
    target: &'static Target,
    random: Random,
    inputs: Vec<Vec<u8>>,
    outcomes: std::collections::BTreeSet<String>,
}

/// Most inputs of a pool.
const POOL_MAX: usize = 4096;

impl Pool {
    /// A pool of a target's seeds.
    pub fn new(target: &'static Target, seed: u64) -> Pool {
        Pool { target, random: Random(seed), inputs: (target.seeds)(), outcomes: Default::default() }
    }

    /// The next input.
    pub fn draw(&mut self) -> Vec<u8> {
        let at = [0; 2].map(|_| self.random.below(self.inputs.len()));
        let [from, with] = at.map(|i| self.inputs.get(i).map_or(&[][..], Vec::as_slice));
        (self.target.mutate)(&mut self.random, from, with)
    }

    /// Takes notice of what became of an input.
    pub fn learn(&mut self, input: Vec<u8>, outcome: String) {
        if self.inputs.len() < POOL_MAX && self.outcomes.insert(outcome) {
            self.inputs.push(input);
        }
    }

    /// Outcomes so far.
    pub fn outcomes(&self) -> &std::collections::BTreeSet<String> {
        &self.outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most seeds must have the outcome that the target is about, kept inputs and a bounded number of others any.
    fn bounded(name: &str) {
        let target = target(name).unwrap();
        let mut check = (target.check)();
        let seeds = (target.seeds)();
        let accepted = seeds.iter().filter(|s| check(s).starts_with("accepted")).count();
        assert!(2 * accepted > seeds.len(), "{accepted} of {} seeds of {name} are accepted", seeds.len());
        let kept = kept().join(name);
        let mut files: Vec<PathBuf> = match std::fs::read_dir(&kept) {
            Ok(all) => all.map(|f| f.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        };
        files.sort();
        for file in &files {
            check(&std::fs::read(file).unwrap());
        }
        let mut pool = Pool::new(target, 1);
        for _ in 0..target.bounded {
            let input = pool.draw();
            let outcome = check(&input);
            pool.learn(input, outcome);
        }
        println!("{name}: {} executions, {} outcomes", target.bounded, pool.outcomes().len());
        // What never fails and never differs is not fuzzed.
        assert!(pool.outcomes().len() > 4, "{:?}", pool.outcomes());
    }

    macro_rules! bounded {
        ($($test:ident $name:literal)*) => {
            $(#[test] fn $test() { bounded($name); })*

            #[test]
            fn every_target_is_run() {
                let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
                assert_eq!(names, [$($name),*]);
            }
        };
    }
    bounded! {
        onnx "onnx" external "external" pfir "pfir" npz "npz" samples "samples" asic_process "asic-process" glass_process "glass-process"
        calibration "calibration" gds "gds" oasis "oasis" schedule "schedule" mask "mask" spool "spool" measured "measured" matrices "matrices" contents "contents"
        program "program" manifest "manifest" plan "plan" compile "compile" graph "graph"
    }
}
