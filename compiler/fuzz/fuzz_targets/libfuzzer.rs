//! Any target under libFuzzer, which sees the code that an input reaches. `PFMC_FUZZ_TARGET` names it. Three of four
//! changes are the target's own, which know the form of its inputs; the others are libFuzzer's.
//!
//! `.ci/fuzz SECONDS [TARGET...]` builds and runs it on a stable toolchain; with a nightly one and `cargo fuzz`,
//! `PFMC_FUZZ_TARGET=TARGET cargo fuzz run --fuzz-dir compiler/fuzz libfuzzer`.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};
use pfmc_fuzz::{Check, Random, Target, target};

thread_local! {
    static CHECK: RefCell<Option<Check>> = const { RefCell::new(None) };
    static SEEDS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The target that is asked for.
fn asked() -> &'static Target {
    let name = std::env::var("PFMC_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        eprintln!("PFMC_FUZZ_TARGET is {name:?}, which is no target");
        std::process::exit(2)
    })
}

/// Writes an input where libFuzzer wants it, as much of it as has room; its length.
fn put(input: &[u8], into: &mut [u8]) -> usize {
    let length = input.len().min(into.len());
    into[..length].copy_from_slice(&input[..length]);
    length
}

fuzz_target!(|data: &[u8]| {
    CHECK.with_borrow_mut(|check| check.get_or_insert_with(|| (asked().check)())(data));
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random(u64::from(seed));
    if random.below(4) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let asked = asked();
    let changed = SEEDS.with_borrow_mut(|seeds| {
        if seeds.is_empty() {
            *seeds = (asked.seeds)();
        }
        let other = &seeds[random.below(seeds.len())];
        (asked.mutate)(&mut random, &data[..size], other)
    });
    put(&changed, &mut data[..max_size])
});

fuzz_crossover!(|data1: &[u8], data2: &[u8], out: &mut [u8], seed: u32| {
    put(&(asked().mutate)(&mut Random(u64::from(seed)), data1, data2), out)
});
