//! Fuzzes one target for a while and says how much was run and found.

use std::io::{Seek, SeekFrom, Write};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use pfmc_fuzz::{Pool, TARGETS, kept, target};

/// Fuzzes a reader, or passes and interpreter.
#[derive(Parser)]
struct Args {
    /// What to fuzz; without it all targets are listed.
    target: Option<String>,
    /// How long, in seconds of processor time where the system tells it.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Seed of the sequence of inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for inputs that fail.
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// An execution that takes more processor time is a finding, seconds.
    #[arg(long, default_value_t = 10.0)]
    slow: f64,
    /// An execution after which the process has taken this much more memory is a finding, MiB.
    #[arg(long, default_value_t = 512)]
    memory_mib: u64,
    /// Runs one file, or all that are kept, and nothing else.
    #[arg(long)]
    only: Option<PathBuf>,
    /// Writes the seeds into a folder, for libFuzzer, and nothing else.
    #[arg(long)]
    seeds: Option<PathBuf>,
}

/// The most memory that the process has had, KiB; 0 where the system does not say.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor time of the process so far, seconds; 0 where the system does not say. Ticks are hundredths of a second.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields are counted after the name, which may hold spaces: user and system time are the 12th and 13th.
    let fields = stat.rsplit_once(')').map_or("", |s| s.1).split_whitespace().skip(11).take(2);
    fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(name) = args.target else {
        for t in TARGETS {
            println!("{:14} {}", t.name, t.about);
        }
        return ExitCode::SUCCESS;
    };
    let Some(target) = target(&name) else {
        eprintln!("there is no target {name:?}; without a name all are listed");
        return ExitCode::from(2);
    };
    if let Some(folder) = args.seeds {
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            (target.seeds)()
                .iter()
                .enumerate()
                .try_for_each(|(i, s)| std::fs::write(folder.join(format!("seed{i}")), s))
        });
        return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    let mut check = (target.check)();
    if let Some(path) = args.only {
        let path = if path.as_os_str() == "kept" { kept().join(&name) } else { path };
        let files: Vec<PathBuf> = match std::fs::read_dir(&path) {
            Ok(all) => all.filter_map(|f| Some(f.ok()?.path())).collect(),
            Err(_) => vec![path],
        };
        for file in files {
            let Ok(data) = std::fs::read(&file) else { return ExitCode::from(2) };
            let start = Instant::now();
            println!("{}: {} ({:.3} s)", file.display(), check(&data), start.elapsed().as_secs_f64());
        }
        return ExitCode::SUCCESS;
    }
    // An input that ends the process is here afterwards.
    let current = args.out.join(format!("{name}-current"));
    let Ok(mut last) = std::fs::File::create(&current) else {
        eprintln!("cannot write {}", current.display());
        return ExitCode::from(2);
    };
    let mut keep = |input: &[u8]| {
        let _ =
            last.seek(SeekFrom::Start(0)).and_then(|_| last.set_len(0)).and_then(|()| last.write_all(input));
    };
    let mut pool = Pool::new(target, args.seed);
    let (begin, clock) = (processor_seconds(), Instant::now());
    let spent = || {
        let processor = processor_seconds() - begin;
        if processor > 0.0 || begin > 0.0 { processor } else { clock.elapsed().as_secs_f64() }
    };
    let (mut executions, mut findings, mut accepted, mut slowest) = (0u64, 0u64, 0u64, 0f64);
    let mut peak = 0;
    while spent() < args.seconds {
        let input = pool.draw();
        keep(&input);
        let start = processor_seconds();
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| check(&input)));
        let took = processor_seconds() - start;
        executions += 1;
        slowest = slowest.max(took);
        let after = peak_kib();
        let grown = peak > 0 && after.saturating_sub(peak) > args.memory_mib * 1024;
        peak = after.max(peak);
        let why = match &done {
            Err(_) => Some("panic"),
            Ok(_) if took > args.slow => Some("slow"),
            Ok(_) if grown => Some("memory"),
            Ok(_) => None,
        };
        if let Some(why) = why {
            findings += 1;
            let file = args.out.join(format!("{name}-{why}-{}-{executions}", args.seed));
            let _ = std::fs::write(&file, &input);
            println!("{why}: {} ({took:.1} s)", file.display());
            if done.is_err() {
                check = (target.check)();
            }
            if findings >= 20 {
                break;
            }
            continue;
        }
        if let Ok(outcome) = done {
            accepted += u64::from(outcome.starts_with("accepted"));
            pool.learn(input, outcome);
        }
    }
    let _ = std::fs::remove_file(&current);
    println!(
        "{name}: {executions} executions in {:.0} s of processor time, {accepted} accepted, {} outcomes, slowest {slowest:.2} s, \
         at most {} MiB, {findings} findings",
        spent(),
        pool.outcomes().len(),
        peak / 1024
    );
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
