//! Writes a ROM macro of random bits: `rom_macro WORD_LINES BIT_LINES MUX FOLDER [PROCESS]`, PROCESS being the name of a built-in
//! process or a file.

#![allow(clippy::unwrap_used)]

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize| a[i].parse::<u32>().unwrap();
    let shape = pfmc_asic::macros::MacroShape { word_lines: n(1), bit_lines: n(2), mux: n(3) };
    use pfmc_ir::backend::Backend as _;
    let name = a.get(5).map_or("sky130", String::as_str);
    let text = pfmc_asic::Asic.processes().into_iter().find(|p| p.name == name).unwrap_or_else(|| {
        let toml = std::fs::read_to_string(name).unwrap();
        pfmc_ir::backend::ProcessText { name: name.to_owned(), toml }
    });
    let process = pfmc_asic::process::Process::open(&text).unwrap();
    let rom = pfmc_asic::macros::Macro::new(&process, shape).unwrap();
    let mut bits = pfmc_asic::bits::BitMatrix::new(n(1) as usize, n(2) as usize);
    let mut state = 1u64;
    let mut text = String::new();
    for r in 0..n(1) as usize {
        for c in 0..n(2) as usize {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 1 {
                bits.set(r, c);
            }
            text.push(if state >> 63 == 1 { '1' } else { '0' });
        }
        text.push('\n');
    }
    let dir = std::path::Path::new(&a[4]);
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("bits.txt"), text).unwrap();
    use pfmc_asic::macros::netlist::Dialect;
    for (file, dialect) in [("rom.spice", Dialect::Compare), ("rom_sim.spice", Dialect::Simulate)] {
        std::fs::write(dir.join(file), rom.spice(&bits, "rom", dialect)).unwrap();
    }
    std::fs::write(dir.join("path.spice"), rom.critical_path("path")).unwrap();
    std::fs::write(dir.join("address.spice"), rom.address_path("address")).unwrap();
    std::fs::write(dir.join("rom.lef"), rom.outline().unwrap().lef("rom")).unwrap();
    std::fs::write(dir.join("rom.gds"), rom.layout("rom").unwrap().gds(&bits).unwrap()).unwrap();
}
