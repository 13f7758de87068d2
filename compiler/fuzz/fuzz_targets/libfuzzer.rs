//! Any target under libFuzzer, which sees the code that an input reaches. `PFMC_FUZZ_TARGET` names it.
//!
//! With a nightly toolchain `cargo fuzz run --fuzz-dir compiler/fuzz libfuzzer`; on a stable one, without `cargo fuzz`:
//!
//! ```text
//! RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
//!   cargo build --release -p pfmc-fuzz --bin libfuzzer --target x86_64-unknown-linux-gnu --target-dir target/fuzz
//! cargo run --release -p pfmc-fuzz --bin fuzz -- TARGET --seeds CORPUS
//! PFMC_FUZZ_TARGET=TARGET target/fuzz/x86_64-unknown-linux-gnu/release/libfuzzer CORPUS
//! ```
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use pfmc_fuzz::{Check, target};

thread_local! {
    static CHECK: RefCell<Option<Check>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| {
    CHECK.with_borrow_mut(|check| {
        let run = check.get_or_insert_with(|| {
            let name = std::env::var("PFMC_FUZZ_TARGET").unwrap_or_default();
            let found = target(&name);
            assert!(found.is_some(), "PFMC_FUZZ_TARGET is {name:?}, which is no target");
            found.map_or_else(|| -> Check { Box::new(|_| String::new()) }, |t| (t.check)())
        });
        run(data);
    });
});
