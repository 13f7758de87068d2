//! Writes the RTL of a compiled model: `rtl FOLDER OUT [MUX]`, FOLDER an output folder of `pfmc --target asic`. OUT receives
//! the Verilog and, for simulation, the contents of each ROM as the layout's cuts say. MUX, 16 or 8, is the
//! number of bit lines that share an output, by default that of the layout's macros.

use std::path::Path;

use pfmc_asic::process::Process;
use pfmc_asic::readback::RomReadBack;
use pfmc_asic::rtl;
use pfmc_ir::backend::{NoProgress, ProcessText};
use pfmc_ir::text::parse_program;
use pfmc_ir::verify::Verified;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, out, mux @ ..] = &arguments[..] else { return Err("usage: rtl FOLDER OUT [MUX]".into()) };
    let (folder, out) = (Path::new(folder), Path::new(out));
    let text = |name: &str| std::fs::read_to_string(folder.join(name));
    let program = Verified::new(parse_program(&text("program.pfir")?)?)?;
    let process = Process::open(&ProcessText { name: "of the folder".into(), toml: text("process.toml")? })?;
    let mux = mux.first().map_or(Ok(process.mux().unwrap_or(16)), |m| m.parse())?;
    let modules = rtl::program(&process, &program, mux)?;
    let read_back = RomReadBack::open(&process, &program, folder, &NoProgress)?;
    std::fs::create_dir_all(out)?;
    for (name, text) in &modules.files {
        std::fs::write(out.join(name), text)?;
    }
    for (id, name, tile) in &modules.tiles {
        std::fs::write(out.join(format!("{name}.hex")), tile.hex(&read_back.bits(*id)?))?;
        let (k, n) = (tile.k(), tile.n());
        println!("{name}: {k} x {n}, {} lanes, {} cycles a vector", tile.lanes(), tile.cycles());
    }
    Ok(())
}
