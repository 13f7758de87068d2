//! Timing and power, Liberty.

use std::fmt::Write as _;

use super::{Outline, Use};
use crate::macros::Macro;
use crate::macros::netlist::{Channel, GROUND, Netlist, SUPPLY};
use crate::macros::timing::{Corner, Read, Timing};
use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::codes::E0525;

fn list(values: impl Iterator<Item = f64>) -> String {
    values.map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(", ")
}

impl Macro<'_> {
    /// Current of the macro at rest, picoampere: half of the array's cells are off between a precharged bit line and
    /// ground, half of each gate's width is off.
    fn leakage_pa(&self, corner: &Corner) -> f64 {
        let (p, shape) = (self.0.process, self.0.shape);
        let cells = f64::from(shape.word_lines) * f64::from(shape.bit_lines);
        let mut netlist = Netlist::default();
        let mut add = |gates: &[crate::macros::gate::Gate]| -> [f64; 2] {
            netlist.transistors.clear();
            gates.iter().for_each(|g| g.transistors(p, &mut netlist));
            [Channel::N, Channel::P].map(|channel| {
                let own = netlist.transistors.iter().filter(|t| t.channel == channel);
                own.map(|t| t.width_nm as f64 / 1000.0).sum()
            })
        };
        use crate::macros::circuit::{chooser, control, driver, sense, word_line_fingers};
        let parts = [
            (add(&control(p, shape)), 1.0),
            (add(&chooser("c", ["m", "h"], "o")), f64::from(shape.word_lines / p.logic.word_lines)),
            (add(&driver("d", "c", "l", "w", word_line_fingers(shape))), f64::from(shape.word_lines)),
            (add(&sense("s", "d", "q")), f64::from(shape.bit_lines / shape.mux)),
        ];
        let logic: f64 = parts
            .iter()
            .map(|([n, p], count)| count * (n * corner.leak_pa_um[0] + p * corner.leak_pa_um[1]) / 2.0)
            .sum();
        logic + cells / 2.0 * corner.cell_leak_pa
    }

    /// The macro `name` at a corner of `timing` as a Liberty library `<name>_<corner>`. Times are those of the smallest
    /// measured macro that is at least as large.
    ///
    /// # Errors
    /// A corner or a size that was not measured.
    pub fn liberty(
        &self,
        name: &str,
        outline: &Outline,
        timing: &Timing,
        corner: &str,
    ) -> Result<String, Diagnostics> {
        let shape = self.0.shape;
        let read = timing.read(shape, corner)?;
        let at =
            timing.corners.iter().find(|c| c.name == corner).ok_or_else(|| {
                Diagnostic::error(&E0525, format!("the timing file has no corner `{corner}`"))
            })?;
        let volts = at.millivolts as f64 / 1000.0;
        let m = read.shape;
        let mut t = String::new();
        let _ = write!(
            t,
            "/* Times measured on the slowest read of a {} x {} macro with {} bit lines to an output, models {}, lumped wires,\n   \
             CLK's edges 50 ps; CLK may come from logic of any slope, this file does not tell them apart. */\n\
             library ({name}_{corner}) {{\n  \
             technology (cmos);\n  delay_model : table_lookup;\n  time_unit : \"1ns\";\n  voltage_unit : \"1V\";\n  \
             current_unit : \"1mA\";\n  leakage_power_unit : \"1nW\";\n  pulling_resistance_unit : \"1kohm\";\n  \
             capacitive_load_unit (1, pf);\n  nom_process : 1.0;\n  nom_voltage : {volts:.3};\n  nom_temperature : {:.1};\n  \
             input_threshold_pct_rise : 50;\n  input_threshold_pct_fall : 50;\n  output_threshold_pct_rise : 50;\n  \
             output_threshold_pct_fall : 50;\n  slew_lower_threshold_pct_rise : 10;\n  slew_upper_threshold_pct_rise : 90;\n  \
             slew_lower_threshold_pct_fall : 10;\n  slew_upper_threshold_pct_fall : 90;\n  slew_derate_from_library : 1.0;\n  \
             voltage_map ({SUPPLY}, {volts:.3});\n  voltage_map ({GROUND}, 0.0);\n  \
             operating_conditions (\"{corner}\") {{\n    process : 1.0;\n    voltage : {volts:.3};\n    temperature : {:.1};\n  }}\n  \
             default_operating_conditions : \"{corner}\";\n  \
             lu_table_template (by_load) {{\n    variable_1 : total_output_net_capacitance;\n    index_1 (\"{}\");\n  }}\n  \
             cell ({name}) {{\n    area : {:.3};\n    dont_touch : true;\n    dont_use : true;\n    is_macro_cell : true;\n    \
             interface_timing : true;\n    cell_leakage_power : {:.4};\n    \
             pg_pin ({SUPPLY}) {{\n      pg_type : primary_power;\n      voltage_name : {SUPPLY};\n    }}\n    \
             pg_pin ({GROUND}) {{\n      pg_type : primary_ground;\n      voltage_name : {GROUND};\n    }}\n",
            m.word_lines,
            m.bit_lines,
            m.mux,
            at.models,
            at.celsius as f64,
            at.celsius as f64,
            list(timing.load_ff.iter().map(|v| v / 1000.0)),
            outline.area_um2(),
            self.leakage_pa(at) * volts / 1000.0,
        );
        let l = &self.0.process.logic;
        let gate_um =
            (l.n_diff_y_nm[1] - l.n_diff_y_nm[0] + l.p_diff_y_nm[1] - l.p_diff_y_nm[0]) as f64 / 1000.0;
        let gate_pf = timing.gate_ff_um * gate_um / 1000.0;
        for pin in &outline.pins {
            let name = &pin.name;
            match pin.usage {
                Use::Clock => self.clock(&mut t, name, gate_pf, read),
                Use::Input => {
                    // An address pin drives an inverter of two fingers.
                    let fingers = if name == "CE" { 1.0 } else { 2.0 };
                    let (setup, hold) = (read.setup_ps / 1000.0, read.hold_after_fall_ps / 1000.0);
                    let _ = write!(
                        t,
                        "    pin ({name}) {{\n      direction : input;\n      capacitance : {:.6};\n      \
                         related_power_pin : {SUPPLY};\n      related_ground_pin : {GROUND};\n",
                        gate_pf * fingers
                    );
                    for (kind, value) in [("setup_rising", setup), ("hold_falling", hold)] {
                        let _ = write!(
                            t,
                            "      timing () {{\n        related_pin : \"CLK\";\n        timing_type : {kind};\n        \
                             rise_constraint (scalar) {{ values (\"{value:.4}\"); }}\n        \
                             fall_constraint (scalar) {{ values (\"{value:.4}\"); }}\n      }}\n"
                        );
                    }
                    t.push_str("    }\n");
                }
                Use::Output => {
                    let _ = write!(
                        t,
                        "    pin ({name}) {{\n      direction : output;\n      max_capacitance : {:.4};\n      \
                         related_power_pin : {SUPPLY};\n      related_ground_pin : {GROUND};\n      \
                         timing () {{\n        related_pin : \"CLK\";\n        timing_type : rising_edge;\n        \
                         timing_sense : non_unate;\n",
                        timing.load_ff.last().copied().unwrap_or(0.0) / 1000.0
                    );
                    for (group, values) in [
                        ("cell_rise", &read.access_ps),
                        ("cell_fall", &read.open_ps),
                        ("rise_transition", &read.rise_ps),
                        ("fall_transition", &read.drop_ps),
                    ] {
                        let values = list(values.iter().map(|v| v / 1000.0));
                        let _ = writeln!(t, "        {group} (by_load) {{ values (\"{values}\"); }}");
                    }
                    t.push_str("      }\n    }\n");
                }
                Use::Power | Use::Ground => {}
            }
        }
        t.push_str("  }\n}\n");
        Ok(t)
    }

    fn clock(&self, t: &mut String, name: &str, gate_pf: f64, read: &Read) {
        // Half of the bits are 1; energy in pJ, of the whole cycle, at the rise.
        let falling = f64::from(self.0.shape.bit_lines) / 2.0;
        // Measured on a macro of other width: what does not fall is taken as it is.
        let energy = (read.quiet_fj + falling * read.bit_line_fj) / 1000.0;
        let [high, low, cycle] = [read.high_ps(), read.low_ps(), read.cycle_ps()].map(|v| v / 1000.0);
        let _ = write!(
            t,
            "    pin ({name}) {{\n      direction : input;\n      clock : true;\n      capacitance : {gate_pf:.6};\n      \
             related_power_pin : {SUPPLY};\n      related_ground_pin : {GROUND};\n      \
             min_pulse_width_high : {high:.4};\n      min_pulse_width_low : {low:.4};\n      min_period : {cycle:.4};\n      \
             internal_power () {{\n        when : \"CE\";\n        \
             rise_power (scalar) {{ values (\"{energy:.4}\"); }}\n        \
             fall_power (scalar) {{ values (\"0.0\"); }}\n      }}\n    }}\n"
        );
    }

    /// Constraints for a design that has the macro's pins as ports, at a corner of `timing`.
    ///
    /// # Errors
    /// A corner or a size that was not measured.
    pub fn sdc(&self, timing: &Timing, corner: &str) -> Result<String, Diagnostics> {
        let read = timing.read(self.0.shape, corner)?;
        let ns = |ps: f64| ps / 1000.0;
        let (period, high) = (ns(read.cycle_ps()), ns(read.high_ps()));
        Ok(format!(
            "# Corner {corner}. CLK is high while a word line is; the address and CE change while CLK is low.\n\
             create_clock -name CLK -period {period:.3} -waveform {{0 {high:.3}}} [get_ports CLK]\n\
             set_clock_transition 0.05 [get_clocks CLK]\n\
             set inputs [get_ports {{CE A*}}]\n\
             set_input_delay -clock CLK -clock_fall -min {:.3} $inputs\n\
             set_input_delay -clock CLK -clock_fall -max {:.3} $inputs\n\
             set_load {:.3} [all_outputs]\n",
            ns(read.hold_after_fall_ps),
            ns(read.low_ps() - read.setup_ps),
            timing.load_ff.last().copied().unwrap_or(0.0) / 1000.0,
        ))
    }
}
