//! The process file: layers, design rules and the geometry of one ROM cell, read from TOML and
//! checked against itself. All problems of a file are reported together.

use pfmc_ir::backend::ProcessText;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use toml::{Table, Value};

use crate::array::Array;
use crate::codes::{E0501, E0502};
use crate::die;
use crate::encode::ArrayShape;

/// Length in nanometres.
pub type Nm = i64;
/// Interval `[low, high]` in nanometres.
pub type Span = [Nm; 2];

/// Largest magnitude of a length in a process file: sums of a few stay within 32-bit coordinates
/// checks done in 64 bits.
const NM_MAX: Nm = 1_000_000_000;
/// Stands for a layer that the process does not have.
const NONE: &str = "none";
/// Most copies along a side of an array reference.
const COPIES_MAX: u32 = 32_767;

/// GDS layer and datatype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layer {
    /// GDS layer number.
    pub layer: i16,
    /// GDS datatype number.
    pub datatype: i16,
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.layer, self.datatype)
    }
}

/// A value a process file can hold.
trait Fact: Sized {
    const WHAT: &'static str;
    fn parse(value: &Value) -> Option<Self>;
    /// Stands in for a value that could not be read, so that the rest of the file is still read.
    fn blank() -> Self;
    /// The lengths in it, for the grid check.
    fn lengths(&self) -> &[Nm] {
        &[]
    }
}

impl Fact for Nm {
    const WHAT: &'static str = "an integer of at most 1e9 in magnitude";
    fn parse(value: &Value) -> Option<Self> {
        value.as_integer().filter(|v| v.unsigned_abs() <= NM_MAX.unsigned_abs())
    }
    fn blank() -> Self {
        0
    }
    fn lengths(&self) -> &[Nm] {
        std::slice::from_ref(self)
    }
}

impl Fact for [Nm; 2] {
    const WHAT: &'static str = "two integers of at most 1e9 in magnitude";
    fn parse(value: &Value) -> Option<Self> {
        match value.as_array()?.as_slice() {
            [a, b] => Some([Nm::parse(a)?, Nm::parse(b)?]),
            _ => None,
        }
    }
    fn blank() -> Self {
        [0, 0]
    }
    fn lengths(&self) -> &[Nm] {
        self
    }
}

impl Fact for Layer {
    const WHAT: &'static str = "[layer, datatype], two integers from 0 to 255";
    fn parse(value: &Value) -> Option<Self> {
        let [layer, datatype] = <[Nm; 2]>::parse(value)?;
        let number = |v: Nm| u8::try_from(v).ok().map(i16::from);
        Some(Layer { layer: number(layer)?, datatype: number(datatype)? })
    }
    fn blank() -> Self {
        Layer { layer: 0, datatype: 0 }
    }
}

impl Fact for Option<Layer> {
    const WHAT: &'static str = "[layer, datatype], two integers from 0 to 255, or \"none\"";
    fn parse(value: &Value) -> Option<Self> {
        if value.as_str() == Some(NONE) { Some(None) } else { Layer::parse(value).map(Some) }
    }
    fn blank() -> Self {
        None
    }
}

impl Fact for u32 {
    const WHAT: &'static str = "an integer from 1 to 32767";
    fn parse(value: &Value) -> Option<Self> {
        u32::try_from(value.as_integer()?).ok().filter(|v| (1..=COPIES_MAX).contains(v))
    }
    fn blank() -> Self {
        1
    }
}

impl Fact for f64 {
    const WHAT: &'static str = "a number above 0 and at most 1";
    fn parse(value: &Value) -> Option<Self> {
        value.as_float().filter(|v| *v > 0.0 && *v <= 1.0)
    }
    fn blank() -> Self {
        1.0
    }
}

impl Fact for String {
    const WHAT: &'static str = "a name of A-Z, a-z, 0-9, - and _";
    fn parse(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        (!text.is_empty() && text.chars().all(plain)).then(|| text.to_owned())
    }
    fn blank() -> Self {
        String::new()
    }
}

/// One table of the file while it is read; what is left at the end is unknown.
struct Section<'a> {
    path: &'a str,
    table: Table,
    grid: Nm,
    /// Keys that begin so may be left out: they are about a layer that the process does not have.
    without: Option<&'static str>,
    problems: &'a mut Diagnostics,
}

impl Section<'_> {
    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take<T: Fact>(&mut self, key: &str) -> T {
        let name = self.name(key);
        let Some(value) = self.table.remove(key) else {
            if self.without.is_some_and(|layer| key.starts_with(layer)) {
                return T::blank();
            }
            self.problems.push(
                Diagnostic::error(&E0501, format!("`{name}` is missing")).help(format!("it is {}", T::WHAT)),
            );
            return T::blank();
        };
        let Some(fact) = T::parse(&value) else {
            self.problems.push(Diagnostic::error(&E0501, format!("`{name}` is {value}, not {}", T::WHAT)));
            return T::blank();
        };
        if key.ends_with("_nm") && self.grid > 0 && fact.lengths().iter().any(|v| v % self.grid != 0) {
            self.problems.push(Diagnostic::error(
                &E0502,
                format!("`{name}` is {value}, off the grid of {} nm", self.grid),
            ));
        }
        fact
    }

    fn finish(self) {
        for key in self.table.keys() {
            let name = self.name(key);
            self.problems.push(
                Diagnostic::error(&E0501, format!("`{name}` is not a key of a process file"))
                    .help("check the spelling against the built-in file"),
            );
        }
    }
}

macro_rules! sections {
    (@struct $(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            fn read(section: &mut Section<'_>) -> Self {
                $name { $($field: section.take(stringify!($field)),)* }
            }
        }
    };
    (@blank $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $name { $($field: <$type as Fact>::blank(),)* }
    };
    (
        required { $($(#[$doc:meta])* $section:ident $name:ident { $($fields:tt)* })* }
        optional { $($(#[$opt_doc:meta])* $opt:ident $opt_name:ident { $($opt_fields:tt)* })* }
        periphery { $($(#[$per_doc:meta])* $per:ident $per_name:ident { $($per_fields:tt)* })* }
    ) => {
        $(sections! { @struct $(#[$doc])* $name { $($fields)* } })*
        $(sections! { @struct $(#[$opt_doc])* $opt_name { $($opt_fields)* } })*
        $(sections! { @struct $(#[$per_doc])* $per_name { $($per_fields)* } })*

        /// The sections of a macro's periphery.
        pub const PERIPHERY: &[&str] = &[$(stringify!($per)),*];

        /// A validated process.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Process {
            /// Name of the process.
            pub name: String,
            /// Every coordinate is a multiple of this.
            pub grid_nm: Nm,
            /// Whether the file has the sections of a macro's periphery. A file has all of them or none;
            /// without them they are blank, and arrays are all that can be drawn.
            pub periphery: bool,
            $($(#[$doc])* pub $section: $name,)*
            $($(#[$opt_doc])* pub $opt: Option<$opt_name>,)*
            $($(#[$per_doc])* pub $per: $per_name,)*
        }

        impl Process {
            fn read(mut root: Table, problems: &mut Diagnostics) -> Process {
                let mut tables = Table::new();
                let paths = [$(stringify!($section),)* $(stringify!($opt),)* $(stringify!($per),)*];
                for path in paths {
                    if let Some(value) = root.remove(path) {
                        tables.insert(path.to_owned(), value);
                    }
                }
                let mut top = Section { path: "", table: root, grid: 0, without: None, problems };
                let name = top.take("name");
                let grid = top.take("grid_nm");
                top.finish();
                if grid <= 0 {
                    problems.push(Diagnostic::error(&E0502, "`grid_nm` must be above 0"));
                }
                let npc = tables.get("layers").and_then(|l| l.get("npc")).and_then(Value::as_str);
                let without = (npc == Some(NONE)).then_some("npc_");
                let periphery = PERIPHERY.iter().any(|path| tables.contains_key(*path));
                let mut file = File { tables, grid, without, problems };
                Process {
                    name,
                    grid_nm: grid,
                    periphery,
                    $($section: file.section(stringify!($section), $name::read),)*
                    $($opt: file.has(stringify!($opt)).then(|| file.section(stringify!($opt), $opt_name::read)),)*
                    $($per: if periphery {
                        file.section(stringify!($per), $per_name::read)
                    } else {
                        sections! { @blank $per_name { $($per_fields)* } }
                    },)*
                }
            }
        }
    };
}

/// The tables of a file while they are read.
struct File<'a> {
    tables: Table,
    grid: Nm,
    without: Option<&'static str>,
    problems: &'a mut Diagnostics,
}

impl File<'_> {
    fn has(&self, path: &str) -> bool {
        self.tables.contains_key(path)
    }

    fn section<T>(&mut self, path: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let table = match self.tables.remove(path) {
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.problems.push(Diagnostic::error(&E0501, format!("`{path}` is not a table")));
                Table::new()
            }
            None => Table::new(),
        };
        let mut section =
            Section { path, table, grid: self.grid, without: self.without, problems: self.problems };
        let value = read(&mut section);
        section.finish();
        value
    }
}

sections! {
required {
    /// Largest die.
    reticle Reticle {
        /// Along x.
        width_nm: Nm,
        /// Along y.
        height_nm: Nm,
    }
    /// Largest array and how arrays are placed.
    tile TileRules {
        /// Most word lines.
        word_lines: u32,
        /// Most bit lines.
        bit_lines: u32,
        /// Between two tiles, and from a tile to the die edge.
        spacing_nm: Nm,
        /// From the outermost shape of a tile to its boundary.
        margin_nm: Nm,
    }
    /// GDS layers by role. The roles have the names of SKY130's layers: li1 is the conductor that contacts
    /// reach, met1 to met4 are those above it. Diffusion and taps may be one layer, where implants tell them apart.
    layers Layers {
        /// Diffusion.
        diff: Layer,
        /// Substrate taps.
        tap: Layer,
        /// Gates and word lines.
        poly: Layer,
        /// Contact from diffusion, tap or poly to li1.
        licon: Layer,
        /// Nitride poly cut, around contacts to poly; not every process has it.
        npc: Option<Layer>,
        /// n+ implant; not every process draws it.
        nsdm: Option<Layer>,
        /// p+ implant.
        psdm: Layer,
        /// Local interconnect.
        li1: Layer,
        /// Pins on li1.
        li1_pin: Layer,
        /// Labels on li1.
        li1_label: Layer,
        /// Cut from li1 to met1.
        mcon: Layer,
        /// First metal.
        met1: Layer,
        /// Pins on met1.
        met1_pin: Layer,
        /// Labels on met1.
        met1_label: Layer,
        /// Cut from met1 to met2.
        via: Layer,
        /// Second metal.
        met2: Layer,
        /// Pins on met2.
        met2_pin: Layer,
        /// Labels on met2.
        met2_label: Layer,
        /// Via from met2 to met3.
        via2: Layer,
        /// Third metal.
        met3: Layer,
        /// Pins on met3.
        met3_pin: Layer,
        /// Labels on met3.
        met3_label: Layer,
        /// Via from met3 to met4.
        via3: Layer,
        /// Fourth metal.
        met4: Layer,
        /// Pins on met4.
        met4_pin: Layer,
        /// Labels on met4.
        met4_label: Layer,
        /// Wells of p-channel transistors.
        nwell: Layer,
        /// Place-and-route boundary.
        boundary: Layer,
    }
    /// Design rules, nanometres.
    rules Rules {
        /// Smallest width of diffusion and tap.
        diff_width_nm: Nm,
        /// Between diffusions and taps.
        diff_space_nm: Nm,
        /// Diffusion past a gate.
        diff_past_gate_nm: Nm,
        /// Diffusion around a contact.
        diff_enclose_licon_nm: Nm,
        /// The same on one pair of sides.
        diff_enclose_licon_ends_nm: Nm,
        /// Tap around a contact on one pair of sides.
        tap_enclose_licon_ends_nm: Nm,
        /// Farthest point of a diffusion from a tap.
        tap_distance_nm: Nm,
        /// Smallest width of poly.
        poly_width_nm: Nm,
        /// Between polys.
        poly_space_nm: Nm,
        /// Poly past diffusion.
        poly_endcap_nm: Nm,
        /// Field poly to diffusion.
        poly_to_diff_nm: Nm,
        /// Poly around a contact.
        poly_enclose_licon_nm: Nm,
        /// The same on one pair of sides.
        poly_enclose_licon_ends_nm: Nm,
        /// Side of a contact, exactly.
        licon_size_nm: Nm,
        /// Between contacts.
        licon_space_nm: Nm,
        /// Contact to gate.
        licon_to_gate_nm: Nm,
        /// Contact of poly to diffusion.
        poly_licon_to_diff_nm: Nm,
        /// Smallest width of npc.
        npc_width_nm: Nm,
        /// Between npcs.
        npc_space_nm: Nm,
        /// npc to gate.
        npc_to_gate_nm: Nm,
        /// npc around a contact to poly.
        npc_enclose_licon_nm: Nm,
        /// Smallest width of implants.
        implant_width_nm: Nm,
        /// Implant around its diffusion or tap.
        implant_enclose_nm: Nm,
        /// Implant to the opposite diffusion or tap.
        implant_to_opposite_nm: Nm,
        /// Implant of taps to the gates of n-channel transistors.
        implant_to_gate_nm: Nm,
        /// Smallest width of li1.
        li1_width_nm: Nm,
        /// Between li1 shapes.
        li1_space_nm: Nm,
        /// li1 around a contact on one pair of sides.
        li1_enclose_licon_ends_nm: Nm,
        /// Smallest area of li1, square nanometres.
        li1_area_nm2: Nm,
        /// Largest share of a density window that any of li1 to met4 may cover.
        density_max: f64,
        /// Side of a cut between li1 and met1, exactly.
        mcon_size_nm: Nm,
        /// Between cuts.
        mcon_space_nm: Nm,
        /// Between rows of cuts, of which many stand side by side in a row.
        mcon_array_space_nm: Nm,
        /// li1 around a cut.
        li1_enclose_mcon_nm: Nm,
        /// The same on one pair of sides.
        li1_enclose_mcon_ends_nm: Nm,
        /// Smallest width of met1.
        met1_width_nm: Nm,
        /// Between met1 shapes.
        met1_space_nm: Nm,
        /// met1 around a cut.
        met1_enclose_mcon_nm: Nm,
        /// The same on one pair of sides.
        met1_enclose_mcon_ends_nm: Nm,
        /// Smallest area of met1, square nanometres.
        met1_area_nm2: Nm,
        /// Side of a via, exactly.
        via_size_nm: Nm,
        /// Between vias.
        via_space_nm: Nm,
        /// Between rows of vias, of which many stand side by side in a row.
        via_array_space_nm: Nm,
        /// met1 around a via.
        met1_enclose_via_nm: Nm,
        /// The same on one pair of sides.
        met1_enclose_via_ends_nm: Nm,
        /// Smallest width of met2.
        met2_width_nm: Nm,
        /// Between met2 shapes.
        met2_space_nm: Nm,
        /// met2 around a via.
        met2_enclose_via_nm: Nm,
        /// The same on one pair of sides.
        met2_enclose_via_ends_nm: Nm,
        /// Smallest area of met2, square nanometres.
        met2_area_nm2: Nm,
        /// Side of a cut between met2 and met3, exactly.
        via2_size_nm: Nm,
        /// met2 around such a cut.
        met2_enclose_via2_nm: Nm,
        /// The same on one pair of sides.
        met2_enclose_via2_ends_nm: Nm,
        /// Smallest width of met3.
        met3_width_nm: Nm,
        /// met3 around such a cut.
        met3_enclose_via2_nm: Nm,
        /// The same on one pair of sides.
        met3_enclose_via2_ends_nm: Nm,
        /// Smallest area of met3, square nanometres.
        met3_area_nm2: Nm,
        /// Side of a cut between met3 and met4, exactly.
        via3_size_nm: Nm,
        /// Between cuts of met2 and met3, and of met3 and met4.
        via23_space_nm: Nm,
        /// Between met3 shapes, and between met4 shapes.
        met34_space_nm: Nm,
    }
    /// One column: x from the column's origin, y from the node's centre.
    cell Cell {
        /// Between columns.
        pitch_x_nm: Nm,
        /// Between word lines.
        pitch_y_nm: Nm,
        /// The diffusion strip.
        diff_x_nm: Span,
        /// Of the strip past the centre of its first and last node.
        diff_overhang_nm: Nm,
        /// The gate, above the centre of the node below it.
        gate_y_nm: Span,
        /// The node's contact.
        licon_x_nm: Span,
        /// The node's contact.
        licon_y_nm: Span,
        /// The node's pad.
        pad_x_nm: Span,
        /// The node's pad.
        pad_y_nm: Span,
        /// The bit line.
        bit_line_x_nm: Span,
        /// The ground rail.
        ground_x_nm: Span,
        /// The cut site under the bit line.
        cut_bit_line_x_nm: Span,
        /// The cut site under the ground rail.
        cut_ground_x_nm: Span,
        /// Both cut sites.
        cut_y_nm: Span,
        /// Drawn enclosure of diffusion and tap by their implant.
        implant_enclosure_nm: Nm,
    }
    /// The left and right ends of word lines.
    word_line WordLine {
        /// Contact centres left of the array: of even and of odd rows of a row group.
        contact_x_nm: Span,
        /// Size of the poly pad.
        poly_pad_nm: [Nm; 2],
        /// Size of the li1 pad.
        li1_pad_nm: [Nm; 2],
        /// Of poly past the last column's diffusion.
        poly_overhang_nm: Nm,
        /// The npc strip around all contacts of a row group.
        npc_x_nm: Span,
        /// Of npc past the centre of the first and last node of a row group.
        npc_overhang_nm: Nm,
    }
    /// Tap rows, between two row groups and at both ends of the array.
    tap_row TapRow {
        /// Most word lines in a row group.
        word_lines: u32,
        /// From the centre of the nearest node to the centre of the tap row.
        offset_nm: Nm,
        /// Half the height of the tap.
        tap_half_height_nm: Nm,
        /// Of the tap past the array's left and right edge.
        tap_overhang_nm: Nm,
        /// Half the height of the li1 ground strap.
        strap_half_height_nm: Nm,
    }
    /// The ground straps left and right of the array, on the conductor above the rails.
    ground_strap GroundStrap {
        /// Centre of the left strap from the array's left edge.
        left_x_nm: Nm,
        /// Centre of the right strap from the array's right edge.
        right_x_nm: Nm,
        /// Half the width of the straps and of the pads under them.
        half_width_nm: Nm,
        /// Half the height of the pads.
        pad_half_height_nm: Nm,
        /// Of each of the two cuts a level from the pads' centre, along x.
        via_offset_nm: Nm,
    }
    /// Vertical extent of rails and straps.
    rail Rail {
        /// Past the centre of the outermost tap rows.
        overhang_nm: Nm,
        /// Of bit lines past that, at the top.
        pin_extension_nm: Nm,
        /// Height of the pin shapes at the ends of rails and straps.
        pin_nm: Nm,
    }
}
optional {
    /// From the node's contact up to its pad, where the pad is on met1 and the programmed cut is the via above
    /// it. Without this section the pad is on li1 and the programmed cut is mcon.
    stack Stack {
        /// The li1 square over the contact.
        li1_x_nm: Span,
        /// The li1 square over the contact.
        li1_y_nm: Span,
        /// The cut from it to the pad.
        mcon_x_nm: Span,
        /// The cut from it to the pad.
        mcon_y_nm: Span,
    }
}
periphery {
    /// Rows of logic around an array; y from the centre of a row's ground rail.
    logic Logic {
        /// Word lines a row of the decoder serves.
        word_lines: u32,
        /// From a diffusion contact to the next gate of a strip.
        column_pitch_nm: Nm,
        /// Between the end contacts of two strips.
        break_pitch_nm: Nm,
        /// Of n-channel transistors.
        n_diff_y_nm: Span,
        /// Of p-channel transistors.
        p_diff_y_nm: Span,
        /// Of diffusion past the centre of its last contact.
        diff_end_nm: Nm,
        /// Centre of the contacts to gates.
        gate_contact_y_nm: Nm,
        /// Size of the poly pad under such a contact.
        poly_pad_nm: [Nm; 2],
        /// Half the height of the npc strip over those contacts.
        npc_half_height_nm: Nm,
        /// Well around diffusion and tap.
        well_enclosure_nm: Nm,
        /// Half the height of the met1 rails.
        rail_half_height_nm: Nm,
        /// Half the height of the taps under the rails.
        rail_tap_half_height_nm: Nm,
        /// Of a rail past the logic it feeds.
        rail_overhang_nm: Nm,
        /// Half the width of met1 wires.
        met1_half_width_nm: Nm,
        /// Of met1 past the centre of its outermost cut.
        met1_end_nm: Nm,
        /// Half the width of met2 wires.
        met2_half_width_nm: Nm,
        /// Of met2 past the centre of its outermost cut.
        met2_end_nm: Nm,
        /// Half the width of met3 wires.
        met3_half_width_nm: Nm,
        /// Of met3 past the centre of its outermost cut.
        met3_end_nm: Nm,
        /// Half the length of the shortest met3 and met4 wires.
        met3_half_length_nm: Nm,
        /// Half the width of met4 wires.
        met4_half_width_nm: Nm,
        /// Of met4 past the centre of its outermost cut.
        met4_end_nm: Nm,
        /// Between met3 wires.
        met3_pitch_nm: Nm,
        /// Between met4 wires.
        met4_pitch_nm: Nm,
        /// Width of the precharge and keeper transistors of a data line.
        keeper_width_nm: Nm,
    }
    /// Straps of word lines, left of every segment of columns: on met2, or, where bit lines are on it, on met3.
    strap Strap {
        /// Columns of a segment.
        columns: u32,
        /// Added to the pitch of columns before each segment but the first.
        gap_nm: Nm,
        /// Contact centres left of a segment: of even and of odd rows of a row group.
        contact_x_nm: Span,
        /// The npc strip around all contacts of a row group.
        npc_x_nm: Span,
        /// Half the height of word lines on met2.
        met2_half_height_nm: Nm,
        /// Half the size of their pads there.
        met2_pad_half_nm: [Nm; 2],
        /// Half the height of the ground strap in a tap row.
        ground_half_height_nm: Nm,
        /// The ground rail where a via ties it to that strap.
        ground_pad_x_nm: Span,
    }
    /// Precharge and multiplexer below the array.
    column Column {
        /// Centre of the precharge supply, from the centre of the lowest tap row.
        precharge_y_nm: Nm,
        /// The strip of a pair of columns.
        precharge_diff_x_nm: Span,
        /// From a contact to the next gate.
        gate_offset_nm: Nm,
        /// From a contact to the next contact.
        contact_offset_nm: Nm,
        /// Centre of the contact to the precharge gates, from the supply.
        precharge_contact_y_nm: Nm,
        /// Centre of the supply tap, from the supply.
        precharge_tap_y_nm: Nm,
        /// Topmost source of the multiplexer, from the precharge supply.
        mux_y_nm: Nm,
        /// Between two pairs of multiplexer transistors.
        mux_pitch_nm: Nm,
        /// Rail of the first row of sense circuits, from the last source.
        sense_y_nm: Nm,
        /// From a select line to the contacts of its pair.
        select_offset_nm: Nm,
        /// Half the width of power straps on met4.
        power_half_width_nm: Nm,
        /// Bit lines that share an output of a tile's macro, 8 or 16.
        mux: u32,
    }
    /// Resistance and capacitance of wires.
    wire Wire {
        /// poly, milliohm a square.
        poly_milliohm: Nm,
        /// met1, milliohm a square.
        met1_milliohm: Nm,
        /// met1, 1e-21 F a square micrometre.
        met1_area_zf_um2: Nm,
        /// met1, 1e-21 F a micrometre of edge.
        met1_edge_zf_um: Nm,
        /// met2, milliohm a square.
        met2_milliohm: Nm,
        /// met2, 1e-21 F a square micrometre.
        met2_area_zf_um2: Nm,
        /// met2, 1e-21 F a micrometre of edge.
        met2_edge_zf_um: Nm,
        /// met3, milliohm a square.
        met3_milliohm: Nm,
        /// met3, 1e-21 F a square micrometre.
        met3_area_zf_um2: Nm,
        /// met3, 1e-21 F a micrometre of edge.
        met3_edge_zf_um: Nm,
        /// met4, milliohm a square.
        met4_milliohm: Nm,
        /// met4, 1e-21 F a square micrometre.
        met4_area_zf_um2: Nm,
        /// met4, 1e-21 F a micrometre of edge.
        met4_edge_zf_um: Nm,
    }
    /// What lies beside and over the macros of a die.
    die DieRules {
        /// Cut of met4 and met5.
        via4: Layer,
        /// Fifth metal.
        met5: Layer,
        /// Pins on met5.
        met5_pin: Layer,
        /// Labels on met5.
        met5_label: Layer,
        /// Side of a cut of met4 and met5, exactly.
        via4_size_nm: Nm,
        /// Between such cuts.
        via4_space_nm: Nm,
        /// met4 around such a cut.
        met4_enclose_via4_nm: Nm,
        /// Smallest width of met5.
        met5_width_nm: Nm,
        /// Between met5 shapes.
        met5_space_nm: Nm,
        /// met5 around a cut.
        met5_enclose_via4_nm: Nm,
        /// From the die's edge to the nearest tile.
        edge_nm: Nm,
        /// From the die's edge to the outer ring of power.
        ring_from_nm: Nm,
        /// Width of a ring.
        ring_width_nm: Nm,
        /// Between the two rings.
        ring_space_nm: Nm,
        /// Half the width of a met5 strap.
        strap_half_width_nm: Nm,
        /// Between the centres of two met5 straps, which are of the two nets in turn.
        strap_pitch_nm: Nm,
        /// Length of the pins at the die's edge and of those of lanes.
        pin_length_nm: Nm,
        /// Between the centres of two pins at the die's edge.
        pin_pitch_nm: Nm,
        /// Share of the outline of lanes that standard cells take.
        cell_share: f64,
        /// Standard cells of a lane, square micrometres: uniform codes of 2 bits.
        uniform2_um2: u32,
        /// 3 bits.
        uniform3_um2: u32,
        /// 4 bits.
        uniform4_um2: u32,
        /// 5 bits.
        uniform5_um2: u32,
        /// 6 bits.
        uniform6_um2: u32,
        /// 7 bits.
        uniform7_um2: u32,
        /// 8 bits.
        uniform8_um2: u32,
        /// Codebooks of 2 bits.
        codebook2_um2: u32,
        /// 3 bits.
        codebook3_um2: u32,
        /// 4 bits.
        codebook4_um2: u32,
        /// 5 bits.
        codebook5_um2: u32,
        /// 6 bits.
        codebook6_um2: u32,
        /// Lanes with multipliers of their own, activation included: codebooks of 2 bits.
        multiplying2_um2: u32,
        /// 3 bits.
        multiplying3_um2: u32,
        /// 4 bits.
        multiplying4_um2: u32,
        /// 5 bits.
        multiplying5_um2: u32,
        /// 6 bits.
        multiplying6_um2: u32,
        /// Standard cells of a run of lanes for each entry of its codebook.
        product_um2: u32,
        /// Standard cells of a run's activation, of each run but a tile's first.
        activation_um2: u32,
        /// Standard cells of a tile's sequencer.
        sequencer_um2: u32,
    }
    /// Names of the foundry's models of the transistors.
    device Device {
        /// n-channel.
        nfet: String,
        /// p-channel.
        pfet: String,
    }
}
}

/// A conductor: its role, layers and rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conductor {
    /// Role, as the process file names it.
    pub name: &'static str,
    /// Shapes.
    pub layer: Layer,
    /// Pins.
    pub pin: Layer,
    /// Labels.
    pub label: Layer,
    /// Smallest width.
    pub width_nm: Nm,
    /// Between shapes.
    pub space_nm: Nm,
    /// Smallest area, square nanometres.
    pub area_nm2: Nm,
}

/// The cuts between two conductors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Role, as the process file names it.
    pub name: &'static str,
    /// Shapes.
    pub layer: Layer,
    /// Side, exactly.
    pub size_nm: Nm,
    /// Between cuts.
    pub space_nm: Nm,
    /// Between rows of cuts, of which many stand side by side in a row.
    pub array_space_nm: Nm,
    /// Of the conductor below around a cut: on all sides, and on one pair of sides.
    pub below_nm: [Nm; 2],
    /// The same of the conductor above.
    pub above_nm: [Nm; 2],
}

/// The conductors and cuts of an array by what they do in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// Pads of the nodes.
    pub pad: Conductor,
    /// Programmed cuts, from pads to rails. Weights change this layer alone.
    pub cut: Cut,
    /// Bit lines and ground rails.
    pub rail: Conductor,
    /// From rails' conductor to straps'.
    pub strap_cut: Cut,
    /// Vertical ground straps beside the array.
    pub strap: Conductor,
    /// From li1 to the pads, where they are not on li1.
    pub lower_cut: Option<Cut>,
}

impl Conductor {
    /// Key of a rule about it.
    fn rule(&self, what: &str) -> String {
        match (self.name, what) {
            ("met3", "space") => "rules.met34_space_nm".to_owned(),
            (name, "area") => format!("rules.{name}_area_nm2"),
            (name, what) => format!("rules.{name}_{what}_nm"),
        }
    }
}

impl Cut {
    /// Key of a rule about them.
    fn rule(&self, what: &str) -> String {
        match (self.name, what) {
            ("via2", "space" | "array_space") => "rules.via23_space_nm".to_owned(),
            (name, what) => format!("rules.{name}_{what}_nm"),
        }
    }
}

impl Process {
    /// Bit lines that share an output of a tile's macro; none where tiles are arrays alone.
    pub fn mux(&self) -> Option<u32> {
        self.periphery.then_some(self.column.mux)
    }

    /// Reads and validates a process file.
    ///
    /// # Errors
    /// Every missing, unknown, mistyped and off-grid value, or, where there is none, every
    /// contradiction between values.
    pub fn open(text: &ProcessText) -> Result<Process, Diagnostics> {
        let table: Table = text.toml.parse().map_err(|e: toml::de::Error| {
            Diagnostic::error(&E0501, format!("process `{}` is not TOML: {}", text.name, e.message()))
                .note(e.to_string())
        })?;
        let mut problems = Diagnostics::new();
        let process = Process::read(table, &mut problems);
        if !problems.has_errors() {
            process.contradictions(&mut problems);
        }
        for d in &mut problems.0 {
            d.notes.push(format!("in process `{}`", text.name));
        }
        problems.into_result(process).map(|(process, _)| process)
    }

    /// Covered share of the rails' conductor inside the array, where rails are all there is on it.
    pub fn rail_density(&self) -> f64 {
        let c = &self.cell;
        (width(c.bit_line_x_nm) + width(c.ground_x_nm)) as f64 / c.pitch_x_nm as f64
    }

    /// Covered share of the pads' conductor inside a row group.
    pub fn pad_density(&self) -> f64 {
        let c = &self.cell;
        (width(c.pad_x_nm) * width(c.pad_y_nm)) as f64 / self.bit_area_nm2() as f64
    }

    /// What the conductors and cuts of the array do in it.
    pub fn levels(&self) -> Levels {
        let [li1, met1, met2, met3] = self.conductors();
        let [mcon, via, via2] = self.cuts();
        if self.stack.is_some() {
            Levels { pad: met1, cut: via, rail: met2, strap_cut: via2, strap: met3, lower_cut: Some(mcon) }
        } else {
            Levels { pad: li1, cut: mcon, rail: met1, strap_cut: via, strap: met2, lower_cut: None }
        }
    }

    /// Of the rails' conductor past the centre of its outermost cut, in a macro.
    pub fn rail_end_nm(&self) -> Nm {
        if self.stack.is_some() { self.logic.met2_end_nm } else { self.logic.met1_end_nm }
    }

    fn conductors(&self) -> [Conductor; 4] {
        let (l, r) = (&self.layers, &self.rules);
        [
            Conductor {
                name: "li1",
                layer: l.li1,
                pin: l.li1_pin,
                label: l.li1_label,
                width_nm: r.li1_width_nm,
                space_nm: r.li1_space_nm,
                area_nm2: r.li1_area_nm2,
            },
            Conductor {
                name: "met1",
                layer: l.met1,
                pin: l.met1_pin,
                label: l.met1_label,
                width_nm: r.met1_width_nm,
                space_nm: r.met1_space_nm,
                area_nm2: r.met1_area_nm2,
            },
            Conductor {
                name: "met2",
                layer: l.met2,
                pin: l.met2_pin,
                label: l.met2_label,
                width_nm: r.met2_width_nm,
                space_nm: r.met2_space_nm,
                area_nm2: r.met2_area_nm2,
            },
            Conductor {
                name: "met3",
                layer: l.met3,
                pin: l.met3_pin,
                label: l.met3_label,
                width_nm: r.met3_width_nm,
                space_nm: r.met34_space_nm,
                area_nm2: r.met3_area_nm2,
            },
        ]
    }

    fn cuts(&self) -> [Cut; 3] {
        let (l, r) = (&self.layers, &self.rules);
        [
            Cut {
                name: "mcon",
                layer: l.mcon,
                size_nm: r.mcon_size_nm,
                space_nm: r.mcon_space_nm,
                array_space_nm: r.mcon_array_space_nm,
                below_nm: [r.li1_enclose_mcon_nm, r.li1_enclose_mcon_ends_nm],
                above_nm: [r.met1_enclose_mcon_nm, r.met1_enclose_mcon_ends_nm],
            },
            Cut {
                name: "via",
                layer: l.via,
                size_nm: r.via_size_nm,
                space_nm: r.via_space_nm,
                array_space_nm: r.via_array_space_nm,
                below_nm: [r.met1_enclose_via_nm, r.met1_enclose_via_ends_nm],
                above_nm: [r.met2_enclose_via_nm, r.met2_enclose_via_ends_nm],
            },
            Cut {
                name: "via2",
                layer: l.via2,
                size_nm: r.via2_size_nm,
                space_nm: r.via23_space_nm,
                array_space_nm: r.via23_space_nm,
                below_nm: [r.met2_enclose_via2_nm, r.met2_enclose_via2_ends_nm],
                above_nm: [r.met3_enclose_via2_nm, r.met3_enclose_via2_ends_nm],
            },
        ]
    }

    /// Array area a bit takes, in square nanometres.
    pub fn bit_area_nm2(&self) -> i64 {
        self.cell.pitch_x_nm * self.cell.pitch_y_nm
    }

    fn contradictions(&self, problems: &mut Diagnostics) {
        let mut check = Check { problems };
        let (r, c, w, t, g) = (&self.rules, &self.cell, &self.word_line, &self.tap_row, &self.ground_strap);
        check.layers(&self.layers);
        for (name, span) in [
            ("cell.diff_x_nm", c.diff_x_nm),
            ("cell.gate_y_nm", c.gate_y_nm),
            ("cell.licon_x_nm", c.licon_x_nm),
            ("cell.licon_y_nm", c.licon_y_nm),
            ("cell.pad_x_nm", c.pad_x_nm),
            ("cell.pad_y_nm", c.pad_y_nm),
            ("cell.bit_line_x_nm", c.bit_line_x_nm),
            ("cell.ground_x_nm", c.ground_x_nm),
            ("cell.cut_bit_line_x_nm", c.cut_bit_line_x_nm),
            ("cell.cut_ground_x_nm", c.cut_ground_x_nm),
            ("cell.cut_y_nm", c.cut_y_nm),
        ] {
            check.ordered(name, span);
        }
        if self.layers.npc.is_some() {
            check.ordered("word_line.npc_x_nm", w.npc_x_nm);
        }
        if let Some(stack) = &self.stack {
            for (name, span) in [
                ("stack.li1_x_nm", stack.li1_x_nm),
                ("stack.li1_y_nm", stack.li1_y_nm),
                ("stack.mcon_x_nm", stack.mcon_x_nm),
                ("stack.mcon_y_nm", stack.mcon_y_nm),
            ] {
                check.ordered(name, span);
            }
        }
        for (name, size) in [
            ("cell.pitch_x_nm", c.pitch_x_nm),
            ("cell.pitch_y_nm", c.pitch_y_nm),
            ("word_line.poly_pad_nm", w.poly_pad_nm[0].min(w.poly_pad_nm[1])),
            ("word_line.li1_pad_nm", w.li1_pad_nm[0].min(w.li1_pad_nm[1])),
            ("reticle.width_nm", self.reticle.width_nm),
            ("reticle.height_nm", self.reticle.height_nm),
            ("tap_row.tap_half_height_nm", t.tap_half_height_nm),
            ("tap_row.strap_half_height_nm", t.strap_half_height_nm),
            ("ground_strap.half_width_nm", g.half_width_nm),
            ("ground_strap.pad_half_height_nm", g.pad_half_height_nm),
            ("rail.pin_nm", self.rail.pin_nm),
            ("tap_row.offset_nm", t.offset_nm),
        ] {
            check.at_least(name, size, 1, "any size");
        }
        for (name, length) in [
            ("tile.spacing_nm", self.tile.spacing_nm),
            ("tile.margin_nm", self.tile.margin_nm),
            ("cell.diff_overhang_nm", c.diff_overhang_nm),
            ("word_line.poly_overhang_nm", w.poly_overhang_nm),
            ("word_line.npc_overhang_nm", w.npc_overhang_nm),
            ("rail.overhang_nm", self.rail.overhang_nm),
            ("rail.pin_extension_nm", self.rail.pin_extension_nm),
        ] {
            check.at_least(name, length, 0, "no negative length");
        }
        let halves = [
            r.licon_size_nm,
            r.mcon_size_nm,
            r.via_size_nm,
            r.via2_size_nm,
            w.poly_pad_nm[0],
            w.poly_pad_nm[1],
            w.li1_pad_nm[0],
            w.li1_pad_nm[1],
            width(c.gate_y_nm),
        ];
        check.holds(halves.iter().all(|s| s % (2 * self.grid_nm) == 0), || {
            "cut sizes, word-line pads and the gate length must be even multiples of `grid_nm`: they are \
             drawn about a centre"
                .to_owned()
        });
        check.holds(self.tile.bit_lines >= 32 && self.tile.bit_lines.is_multiple_of(8), || {
            "`tile.bit_lines` must be a multiple of 8 and at least 32, the bits of a tile's unit".to_owned()
        });
        check.holds(!self.periphery || [8, 16].contains(&self.column.mux), || {
            "`column.mux` must be 8 or 16".to_owned()
        });
        if check.problems.has_errors() {
            return;
        }
        self.diffusion_rules(&mut check);
        self.metal_rules(&mut check);
        self.end_rules(&mut check);
        if self.periphery {
            self.strap_rules(&mut check);
            self.die_rules(&mut check);
        }
        if !check.problems.has_errors() {
            self.reticle_rules(&mut check);
        }
    }

    /// Word lines of a macro, strapped side by side.
    fn strap_rules(&self, check: &mut Check<'_>) {
        let (r, l, s) = (&self.rules, &self.logic, &self.strap);
        // The pad of a word line stands beside the line of the next.
        let (pad, line, space, rule) = if self.stack.is_some() {
            (l.met3_half_width_nm, r.met3_width_nm / 2, r.met34_space_nm, "rules.met34_space_nm")
        } else {
            (s.met2_pad_half_nm[1], s.met2_half_height_nm, r.met2_space_nm, "rules.met2_space_nm")
        };
        check.at_least("space of word-line straps", self.cell.pitch_y_nm - pad - line, space, rule);
        if self.stack.is_some() {
            check.at_least(
                "word-line strap around its via2",
                l.met3_half_width_nm - r.via2_size_nm / 2,
                r.met3_enclose_via2_nm,
                "rules.met3_enclose_via2_nm",
            );
        }
        check.holds(self.tap_row.word_lines.is_multiple_of(l.word_lines), || {
            format!(
                "`tap_row.word_lines` = {} must be a multiple of `logic.word_lines` = {}: whole rows of the decoder",
                self.tap_row.word_lines, l.word_lines
            )
        });
    }

    /// Power straps and rings of a die.
    fn die_rules(&self, check: &mut Check<'_>) {
        let d = &self.die;
        let (half, power) = (d.via4_size_nm / 2, self.column.power_half_width_nm);
        for (what, drawn, needed, rule) in [
            ("via4 size", d.via4_size_nm, 1, "die.via4_size_nm"),
            ("grid of half a via4", d.via4_size_nm % (2 * self.grid_nm), 0, "grid_nm"),
            ("met4 strap around a via4", power - half, d.met4_enclose_via4_nm, "die.met4_enclose_via4_nm"),
            (
                "met5 strap around a via4",
                d.strap_half_width_nm - half,
                d.met5_enclose_via4_nm,
                "die.met5_enclose_via4_nm",
            ),
            ("met5 strap width", 2 * d.strap_half_width_nm, d.met5_width_nm, "die.met5_width_nm"),
            (
                "space of met5 straps",
                d.strap_pitch_nm - 2 * d.strap_half_width_nm,
                d.met5_space_nm,
                "die.met5_space_nm",
            ),
            (
                "ring around a via4",
                (d.ring_width_nm - d.via4_size_nm) / 2,
                d.met5_enclose_via4_nm.max(d.met4_enclose_via4_nm),
                "die.met5_enclose_via4_nm",
            ),
            ("space of the rings", d.ring_space_nm, d.met5_space_nm, "die.met5_space_nm"),
            ("pin at the die's edge to the ring", d.ring_from_nm - d.pin_length_nm, 0, "die.ring_from_nm"),
            (
                "tile to the inner ring",
                d.edge_nm - d.ring_from_nm - 2 * d.ring_width_nm - d.ring_space_nm - d.strap_half_width_nm,
                d.met5_space_nm,
                "die.met5_space_nm",
            ),
            ("length of pins", d.pin_length_nm, 4 * self.grid_nm, "grid_nm"),
            ("pitch of pins", d.pin_pitch_nm / 2, self.rules.met34_space_nm, "rules.met34_space_nm"),
        ] {
            check.at_least(what, drawn, needed, rule);
        }
        check.holds(d.via4_space_nm >= 0 && d.met5_width_nm >= 0, || {
            "`die.via4_space_nm` and `die.met5_width_nm` must not be negative".to_owned()
        });
    }

    /// Whether a die has room for the largest array and what must stay free around it.
    fn reticle_rules(&self, check: &mut Check<'_>) {
        let tile = &self.tile;
        let shape = ArrayShape { word_lines: tile.word_lines, bit_lines: tile.bit_lines };
        let [x0, y0, x1, y1] = Array::new(self, shape).boundary();
        let gap = 2 * die::edge(self);
        for (side, lines, size, most) in [
            ("width_nm", "bit_lines", x1 - x0 + gap, self.reticle.width_nm),
            ("height_nm", "word_lines", y1 - y0 + gap, self.reticle.height_nm),
        ] {
            check.holds(size <= most, || {
                format!(
                    "the largest array with its spacing needs {size} nm, more than `reticle.{side}` = {most}: lower \
                     `tile.{lines}` or take a larger die"
                )
            });
        }
    }

    /// Strip, gate, contact and tap.
    fn diffusion_rules(&self, check: &mut Check<'_>) {
        let (r, c, t) = (&self.rules, &self.cell, &self.tap_row);
        check.at_least("diffusion width", width(c.diff_x_nm), r.diff_width_nm, "rules.diff_width_nm");
        check.at_least(
            "space of diffusions",
            c.pitch_x_nm - width(c.diff_x_nm),
            r.diff_space_nm,
            "rules.diff_space_nm",
        );
        check.at_least("gate length", width(c.gate_y_nm), r.poly_width_nm, "rules.poly_width_nm");
        check.at_least(
            "space of gates",
            c.pitch_y_nm - width(c.gate_y_nm),
            r.poly_space_nm,
            "rules.poly_space_nm",
        );
        check.at_least(
            "gate below the next node",
            c.pitch_y_nm - c.gate_y_nm[1] - c.licon_y_nm[1].max(-c.licon_y_nm[0]),
            r.licon_to_gate_nm,
            "rules.licon_to_gate_nm",
        );
        check.at_least(
            "gate above its node",
            c.gate_y_nm[0] - c.licon_y_nm[1],
            r.licon_to_gate_nm,
            "rules.licon_to_gate_nm",
        );
        check.at_least(
            "diffusion past the last gate",
            (c.diff_overhang_nm + c.gate_y_nm[0]).min(c.diff_overhang_nm + c.pitch_y_nm - c.gate_y_nm[1]),
            r.diff_past_gate_nm,
            "rules.diff_past_gate_nm",
        );
        check.exactly("contact width", width(c.licon_x_nm), r.licon_size_nm, "rules.licon_size_nm");
        check.exactly("contact height", width(c.licon_y_nm), r.licon_size_nm, "rules.licon_size_nm");
        check.at_least(
            "space of contacts",
            (c.pitch_y_nm - width(c.licon_y_nm)).min(c.pitch_x_nm - width(c.licon_x_nm)),
            r.licon_space_nm,
            "rules.licon_space_nm",
        );
        check.encloses(
            "diffusion around the contact",
            [c.diff_x_nm, [-c.diff_overhang_nm, c.diff_overhang_nm]],
            [c.licon_x_nm, c.licon_y_nm],
            [r.diff_enclose_licon_nm, r.diff_enclose_licon_ends_nm],
        );
        check.at_least(
            "implant enclosure",
            c.implant_enclosure_nm,
            r.implant_enclose_nm,
            "rules.implant_enclose_nm",
        );
        let half = r.licon_size_nm / 2;
        let tap_end = t.tap_half_height_nm - half;
        check.at_least(
            "tap around the contact, along y",
            tap_end,
            r.tap_enclose_licon_ends_nm,
            "rules.tap_enclose_licon_ends_nm",
        );
        let gap = t.offset_nm - c.diff_overhang_nm - t.tap_half_height_nm;
        check.at_least("space of diffusion and tap", gap, r.diff_space_nm, "rules.diff_space_nm");
        check.at_least(
            "implant to the opposite diffusion",
            gap - c.implant_enclosure_nm,
            r.implant_to_opposite_nm,
            "rules.implant_to_opposite_nm",
        );
        check.at_least(
            "implant of the taps to the nearest gate",
            gap - c.implant_enclosure_nm
                + c.diff_overhang_nm
                + c.gate_y_nm[0].min(c.pitch_y_nm - c.gate_y_nm[1]),
            r.implant_to_gate_nm,
            "rules.implant_to_gate_nm",
        );
        if self.layers.nsdm.is_some() {
            check.at_least("n+ to p+ implant", gap - 2 * c.implant_enclosure_nm, 0, "no overlap");
        }
        check.at_least(
            "tap implant height",
            2 * (t.tap_half_height_nm + c.implant_enclosure_nm),
            r.implant_width_nm,
            "rules.implant_width_nm",
        );
        // A tap row on either side of every row group: the farthest point is halfway.
        let span = Nm::from(t.word_lines) * c.pitch_y_nm + 2 * (t.offset_nm - t.tap_half_height_nm);
        check.holds(span <= 2 * r.tap_distance_nm, || {
            format!(
                "the middle of a row group of {} word lines is {} nm from the nearest tap, over \
                 `rules.tap_distance_nm` = {}",
                t.word_lines,
                span / 2,
                r.tap_distance_nm
            )
        });
        check.holds(t.tap_overhang_nm >= -c.diff_x_nm[0].min(0), || {
            "`tap_row.tap_overhang_nm` must cover the whole array".to_owned()
        });
    }

    /// Node pads, cut sites and rails.
    fn metal_rules(&self, check: &mut Check<'_>) {
        let (r, c, t, rail) = (&self.rules, &self.cell, &self.tap_row, &self.rail);
        let levels = self.levels();
        let (pad, cut) = (levels.pad, levels.cut);
        match (&self.stack, levels.lower_cut) {
            (Some(stack), Some(lower)) => self.stack_rules(check, stack, lower),
            _ => {
                check.encloses(
                    "node pad around the contact",
                    [c.pad_x_nm, c.pad_y_nm],
                    [c.licon_x_nm, c.licon_y_nm],
                    [0, r.li1_enclose_licon_ends_nm],
                );
            }
        }
        self.pads(check, "node pad", [c.pad_x_nm, c.pad_y_nm], pad);
        check.at_least(
            "space of a node pad and what lies in a tap row",
            t.offset_nm
                - if self.stack.is_some() { width(c.pad_y_nm) / 2 } else { t.strap_half_height_nm }
                - c.pad_y_nm[1].max(-c.pad_y_nm[0]),
            pad.space_nm,
            &pad.rule("space"),
        );
        let far: Span = [-NM_MAX, NM_MAX];
        for (name, site, line) in [
            ("bit line", c.cut_bit_line_x_nm, c.bit_line_x_nm),
            ("ground rail", c.cut_ground_x_nm, c.ground_x_nm),
        ] {
            check.exactly(&format!("cut under the {name}"), width(site), cut.size_nm, &cut.rule("size"));
            check.encloses(&format!("{name} around its cut"), [line, far], [site, c.cut_y_nm], cut.above_nm);
            check.encloses(
                &format!("node pad around the cut under the {name}"),
                [c.pad_x_nm, c.pad_y_nm],
                [site, c.cut_y_nm],
                cut.below_nm,
            );
            check.at_least(
                &format!("{name} width"),
                width(line),
                levels.rail.width_nm,
                &levels.rail.rule("width"),
            );
            check.holds(site[0] >= 0 && site[1] <= c.pitch_x_nm, || {
                format!("the cut under the {name} leaves its column")
            });
        }
        check.exactly("cut height", width(c.cut_y_nm), cut.size_nm, &cut.rule("size"));
        check.holds(c.cut_y_nm[0] == -c.cut_y_nm[1], || {
            "`cell.cut_y_nm` must be centred on the node".to_owned()
        });
        check.at_least(
            "space of cuts on neighbouring columns",
            c.pitch_x_nm + c.cut_bit_line_x_nm[0] - c.cut_ground_x_nm[1],
            cut.space_nm,
            &cut.rule("space"),
        );
        check.at_least(
            "space of cuts on neighbouring nodes",
            (c.pitch_y_nm - width(c.cut_y_nm)).min(t.offset_nm - width(c.cut_y_nm)),
            cut.space_nm.max(cut.array_space_nm),
            &cut.rule("array_space"),
        );
        check.at_least(
            "space of bit line and ground rail",
            (c.ground_x_nm[0] - c.bit_line_x_nm[1]).min(c.pitch_x_nm + c.bit_line_x_nm[0] - c.ground_x_nm[1]),
            levels.rail.space_nm,
            &levels.rail.rule("space"),
        );
        for (name, share) in [(levels.rail.name, self.rail_density()), (pad.name, self.pad_density())] {
            check.holds(share <= r.density_max, || {
                format!(
                    "{name} covers {:.2} % of the array, over `rules.density_max` = {} %",
                    100.0 * share,
                    100.0 * r.density_max
                )
            });
        }
        check.at_least(
            "rail past the ground cut",
            rail.overhang_nm - cut.size_nm / 2,
            cut.above_nm[1],
            &format!("the enclosure of {}", cut.name),
        );
        check.at_least(
            "area of a rail",
            2 * (t.offset_nm + rail.overhang_nm) * width(c.ground_x_nm).min(width(c.bit_line_x_nm)),
            levels.rail.area_nm2,
            &levels.rail.rule("area"),
        );
        let lowest = self.cuts()[0];
        check.at_least(
            "strap height over the ground cut",
            t.strap_half_height_nm - lowest.size_nm.max(r.licon_size_nm) / 2,
            r.li1_enclose_licon_ends_nm.max(lowest.below_nm[1]),
            "rules.li1_enclose_licon_ends_nm",
        );
    }

    /// What joins a contact to its pad.
    fn stack_rules(&self, check: &mut Check<'_>, stack: &Stack, lower: Cut) {
        let (r, c, t) = (&self.rules, &self.cell, &self.tap_row);
        let [li1, ..] = self.conductors();
        let square = [stack.li1_x_nm, stack.li1_y_nm];
        let cut = [stack.mcon_x_nm, stack.mcon_y_nm];
        check.encloses(
            "li1 around the contact",
            square,
            [c.licon_x_nm, c.licon_y_nm],
            [0, r.li1_enclose_licon_ends_nm],
        );
        self.pads(check, "li1 of a node", square, li1);
        check.at_least(
            "space of li1 of a node and the ground strap",
            t.offset_nm - t.strap_half_height_nm - stack.li1_y_nm[1].max(-stack.li1_y_nm[0]),
            li1.space_nm,
            &li1.rule("space"),
        );
        for span in cut {
            check.exactly("cut of a stack", width(span), lower.size_nm, &lower.rule("size"));
        }
        check.encloses("li1 around the cut of a stack", square, cut, lower.below_nm);
        check.encloses("node pad around the cut of a stack", [c.pad_x_nm, c.pad_y_nm], cut, lower.above_nm);
        check.at_least(
            "space of the cuts of stacks",
            (c.pitch_y_nm - lower.size_nm).min(c.pitch_x_nm - lower.size_nm),
            lower.space_nm.max(lower.array_space_nm),
            &lower.rule("array_space"),
        );
        check.holds(stack.mcon_y_nm[0] == -stack.mcon_y_nm[1] && c.pad_y_nm[0] == -c.pad_y_nm[1], || {
            "`stack.mcon_y_nm` and `cell.pad_y_nm` must be centred on the node, as tap rows repeat them"
                .to_owned()
        });
    }

    /// Size of a square that each node has, and between such squares.
    fn pads(&self, check: &mut Check<'_>, what: &str, [x, y]: [Span; 2], on: Conductor) {
        let c = &self.cell;
        check.at_least(what, width(x).min(width(y)), on.width_nm, &on.rule("width"));
        check.at_least(&format!("area of a {what}"), width(x) * width(y), on.area_nm2, &on.rule("area"));
        check.at_least(
            &format!("space of {what}s"),
            (c.pitch_x_nm - width(x)).min(c.pitch_y_nm - width(y)),
            on.space_nm,
            &on.rule("space"),
        );
    }

    /// Word-line contacts and ground straps.
    fn end_rules(&self, check: &mut Check<'_>) {
        let (r, c, w, t) = (&self.rules, &self.cell, &self.word_line, &self.tap_row);
        let gate = (c.gate_y_nm[0] + c.gate_y_nm[1]) / 2;
        let half_licon = r.licon_size_nm / 2;
        let [pad_x, pad_y] = w.poly_pad_nm;
        let licon = [[-half_licon, half_licon], [-half_licon, half_licon]];
        check.encloses(
            "word-line pad around its contact",
            [[-pad_x / 2, pad_x / 2], [-pad_y / 2, pad_y / 2]],
            licon,
            [r.poly_enclose_licon_nm, r.poly_enclose_licon_ends_nm],
        );
        let [li_x, li_y] = w.li1_pad_nm;
        check.encloses(
            "word-line li1 pad around its contact",
            [[-li_x / 2, li_x / 2], [-li_y / 2, li_y / 2]],
            licon,
            [0, r.li1_enclose_licon_ends_nm],
        );
        check.at_least("area of a word-line li1 pad", li_x * li_y, r.li1_area_nm2, "rules.li1_area_nm2");
        check.at_least("word-line li1 pad", li_x.min(li_y), r.li1_width_nm, "rules.li1_width_nm");
        let [first, second] = w.contact_x_nm;
        check.at_least(
            "space of word-line li1 pads",
            (first - second).abs() - li_x,
            r.li1_space_nm,
            "rules.li1_space_nm",
        );
        check.at_least(
            "space of a word-line pad and the next word line",
            c.pitch_y_nm - pad_y / 2 - width(c.gate_y_nm) / 2,
            r.poly_space_nm,
            "rules.poly_space_nm",
        );
        check.at_least(
            "space of word-line pads",
            (first - second).abs() - pad_x,
            r.poly_space_nm,
            "rules.poly_space_nm",
        );
        let right = first.max(second);
        check.at_least(
            "word-line pad to the first diffusion",
            c.diff_x_nm[0] - right - pad_x / 2,
            r.poly_endcap_nm.max(r.poly_to_diff_nm),
            "rules.poly_endcap_nm",
        );
        check.at_least(
            "word-line contact to the first diffusion",
            c.diff_x_nm[0] - right - half_licon,
            r.poly_licon_to_diff_nm,
            "rules.poly_licon_to_diff_nm",
        );
        let first_li1 = self.stack.as_ref().map_or(c.pad_x_nm[0], |s| s.li1_x_nm[0]);
        check.at_least(
            "word-line li1 pad to the first li1 of a node",
            first_li1 - right - li_x / 2,
            r.li1_space_nm,
            "rules.li1_space_nm",
        );
        check.at_least(
            "word line past the last diffusion",
            w.poly_overhang_nm,
            r.poly_endcap_nm,
            "rules.poly_endcap_nm",
        );
        if self.layers.npc.is_some() {
            for x in w.contact_x_nm {
                check.encloses(
                    "npc around a word-line contact",
                    [w.npc_x_nm, [-w.npc_overhang_nm, c.pitch_y_nm + w.npc_overhang_nm]],
                    [[x - half_licon, x + half_licon], [gate - half_licon, gate + half_licon]],
                    [r.npc_enclose_licon_nm; 2],
                );
            }
            check.at_least("npc width", width(w.npc_x_nm), r.npc_width_nm, "rules.npc_width_nm");
            check.at_least(
                "space of npc",
                2 * (t.offset_nm - w.npc_overhang_nm),
                r.npc_space_nm,
                "rules.npc_space_nm",
            );
            check.at_least(
                "npc to the first gate",
                c.diff_x_nm[0] - w.npc_x_nm[1],
                r.npc_to_gate_nm,
                "rules.npc_to_gate_nm",
            );
        }
        self.ground_straps(check);
        check.at_least(
            "space of a word-line li1 pad and the ground strap",
            t.offset_nm - t.strap_half_height_nm + gate.min(c.pitch_y_nm - gate) - li_y / 2,
            r.li1_space_nm,
            "rules.li1_space_nm",
        );
    }

    /// The straps beside the array, with the pads and cuts that join them to the tap rows.
    fn ground_straps(&self, check: &mut Check<'_>) {
        let (c, t, g) = (&self.cell, &self.tap_row, &self.ground_strap);
        let levels = self.levels();
        let pad = [[-g.half_width_nm, g.half_width_nm], [-g.pad_half_height_nm, g.pad_half_height_nm]];
        for cut in levels.lower_cut.into_iter().chain([levels.cut, levels.strap_cut]) {
            let half = cut.size_nm / 2;
            let at = [[g.via_offset_nm - half, g.via_offset_nm + half], [-half, half]];
            check.encloses(&format!("ground pad below its {}", cut.name), pad, at, cut.below_nm);
            check.encloses(&format!("ground pad or strap above its {}", cut.name), pad, at, cut.above_nm);
            check.at_least(
                &format!("space of the {}s of a ground pad", cut.name),
                2 * (g.via_offset_nm - half),
                cut.space_nm,
                &cut.rule("space"),
            );
        }
        for on in [levels.pad, levels.rail] {
            let area = 4 * g.half_width_nm * g.pad_half_height_nm;
            check.at_least("area of a ground pad", area, on.area_nm2, &on.rule("area"));
        }
        let strap = levels.strap;
        check.at_least("ground strap width", 2 * g.half_width_nm, strap.width_nm, &strap.rule("width"));
        // The narrowest array has the bits of a byte.
        check.at_least(
            "space of the two ground straps",
            8 * c.pitch_x_nm + g.right_x_nm - g.left_x_nm - 2 * g.half_width_nm,
            strap.space_nm,
            &strap.rule("space"),
        );
        check.at_least(
            "ground strap area",
            4 * g.half_width_nm * (t.offset_nm + self.rail.overhang_nm),
            strap.area_nm2,
            &strap.rule("area"),
        );
        let left = c.bit_line_x_nm[0].min(c.pad_x_nm[0]);
        let right = c.ground_x_nm[1].max(c.pad_x_nm[1]);
        let space = levels.pad.space_nm.max(levels.rail.space_nm);
        check.at_least(
            "space of the left ground pad and the first column",
            left - g.left_x_nm - g.half_width_nm,
            space,
            &levels.rail.rule("space"),
        );
        check.at_least(
            "space of the right ground pad and the last column",
            g.right_x_nm - g.half_width_nm + c.pitch_x_nm - right,
            space,
            &levels.rail.rule("space"),
        );
        check.at_least(
            "ground strap around its pad",
            self.rail.overhang_nm,
            g.pad_half_height_nm,
            "ground_strap.pad_half_height_nm",
        );
    }
}

/// Width of a span.
fn width(span: Span) -> Nm {
    span[1] - span[0]
}

/// Collects contradictions.
struct Check<'a> {
    problems: &'a mut Diagnostics,
}

impl Check<'_> {
    fn ordered(&mut self, name: &str, span: Span) {
        self.holds(span[0] < span[1], || format!("`{name}` is {span:?}: low must be below high"));
    }

    fn holds(&mut self, good: bool, message: impl FnOnce() -> String) {
        if !good {
            self.problems.push(Diagnostic::error(&E0502, message()));
        }
    }

    fn at_least(&mut self, what: &str, drawn: Nm, needed: Nm, rule: &str) {
        self.holds(drawn >= needed, || format!("{what} is {drawn}, {rule} asks for at least {needed}"));
    }

    fn exactly(&mut self, what: &str, drawn: Nm, needed: Nm, rule: &str) {
        self.holds(drawn == needed, || format!("{what} is {drawn}, {rule} asks for exactly {needed}"));
    }

    /// `outer` encloses `inner` by `all` on every side and by `ends` on one pair of opposite sides.
    fn encloses(&mut self, what: &str, outer: [Span; 2], inner: [Span; 2], [all, ends]: [Nm; 2]) {
        let margin = |axis: usize| (inner[axis][0] - outer[axis][0]).min(outer[axis][1] - inner[axis][1]);
        let (x, y) = (margin(0), margin(1));
        self.holds(x.min(y) >= all && x.max(y) >= ends, || {
            format!(
                "{what} is {x} along x and {y} along y, the rules ask for {all} on all sides and {ends} on \
                 one pair"
            )
        });
    }

    fn layers(&mut self, layers: &Layers) {
        let drawn = layers.drawn();
        let one = |a: &str, b: &str| (a, b) == ("diff", "tap");
        for (i, (name, layer)) in drawn.iter().enumerate() {
            if let Some((other, _)) = drawn[..i].iter().find(|(o, l)| l == layer && !one(o, name)) {
                self.holds(false, || format!("layers.{other} and layers.{name} are both {layer}"));
            }
        }
    }
}

impl Layers {
    /// Layers with shapes, by role; labels are not among them, nor layers that the process does not have.
    pub fn drawn(&self) -> Vec<(&'static str, Layer)> {
        let all = [
            ("diff", Some(self.diff)),
            ("tap", Some(self.tap)),
            ("poly", Some(self.poly)),
            ("licon", Some(self.licon)),
            ("npc", self.npc),
            ("nsdm", self.nsdm),
            ("psdm", Some(self.psdm)),
            ("li1", Some(self.li1)),
            ("li1_pin", Some(self.li1_pin)),
            ("mcon", Some(self.mcon)),
            ("met1", Some(self.met1)),
            ("met1_pin", Some(self.met1_pin)),
            ("via", Some(self.via)),
            ("met2", Some(self.met2)),
            ("met2_pin", Some(self.met2_pin)),
            ("via2", Some(self.via2)),
            ("met3", Some(self.met3)),
            ("met3_pin", Some(self.met3_pin)),
            ("via3", Some(self.via3)),
            ("met4", Some(self.met4)),
            ("met4_pin", Some(self.met4_pin)),
            ("nwell", Some(self.nwell)),
            ("boundary", Some(self.boundary)),
        ];
        all.into_iter().filter_map(|(name, layer)| Some((name, layer?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builtin() -> String {
        crate::SKY130.to_owned()
    }

    fn open(toml: &str) -> Result<Process, Diagnostics> {
        Process::open(&ProcessText { name: "test".into(), toml: toml.into() })
    }

    fn messages(toml: &str) -> Vec<String> {
        open(toml).unwrap_err().0.iter().map(|d| format!("{} {}", d.code.id, d.message)).collect()
    }

    #[test]
    fn the_built_in_process_is_consistent() {
        let p = open(&builtin()).unwrap();
        assert_eq!((p.cell.pitch_x_nm, p.cell.pitch_y_nm, p.bit_area_nm2()), (770, 430, 331_100));
        assert!((p.rail_density() - 0.597_4).abs() < 1e-4);
    }

    #[test]
    fn every_problem_of_a_file_is_reported_at_once() {
        let bad = builtin()
            .replace("pitch_y_nm = 430\n", "")
            .replace("diff = [65, 20]", "diff = [65, 300]")
            .replace("npc_space_nm = 270", "npc_spacing_nm = 270")
            .replace("tap_overhang_nm = 200", "tap_overhang_nm = 202");
        assert_eq!(
            messages(&bad),
            [
                "E0501 `layers.diff` is [65, 300], not [layer, datatype], two integers from 0 to 255",
                "E0501 `rules.npc_space_nm` is missing",
                "E0501 `rules.npc_spacing_nm` is not a key of a process file",
                "E0501 `cell.pitch_y_nm` is missing",
                "E0502 `tap_row.tap_overhang_nm` is 202, off the grid of 5 nm",
            ]
        );
    }

    #[test]
    fn contradictions_name_the_rule_and_both_numbers() {
        let bad = builtin()
            .replace("pad_x_nm = [30, 570]", "pad_x_nm = [40, 570]")
            .replace("pitch_x_nm = 770", "pitch_x_nm = 740")
            .replace("word_lines = 64", "word_lines = 72");
        let got = messages(&bad);
        for expected in [
            "node pad around the cut under the bit line is -10 along x and 0 along y",
            "met1 covers 62.16 % of the array",
            "the middle of a row group of 72 word lines is 16010 nm from the nearest tap",
        ] {
            assert!(got.iter().any(|m| m.contains(expected)), "{expected}: {got:#?}");
        }
    }

    #[test]
    fn rules_that_a_deck_may_not_check_are_checked_here() {
        for (change, to, expected) in [
            ("diff_overhang_nm = 210", "diff_overhang_nm = 105", "diffusion past the last gate"),
            ("poly_overhang_nm = 130", "poly_overhang_nm = 125", "word line past the last diffusion"),
            ("npc_x_nm = [-1440, -510]", "npc_x_nm = [-1440, -520]", "npc around a word-line contact"),
            ("implant_enclosure_nm = 130", "implant_enclosure_nm = 120", "implant enclosure"),
            ("word_lines = 64", "word_lines = 68", "from the nearest tap"),
        ] {
            let got = messages(&builtin().replace(change, to));
            assert!(got.iter().any(|m| m.contains(expected)), "{expected}: {got:#?}");
        }
    }

    #[test]
    fn rows_that_would_fall_on_each_other_are_refused() {
        // With no room for a tap row the pitch of row groups could be 0.
        let bad = builtin()
            .replace("offset_nm = 740", "offset_nm = -13760")
            .replace("diff_overhang_nm = 210", "diff_overhang_nm = -20000");
        let got = messages(&bad);
        for key in ["tap_row.offset_nm", "cell.diff_overhang_nm"] {
            assert!(got.iter().any(|m| m.contains(key)), "{key}: {got:#?}");
        }
    }

    #[test]
    fn every_single_change_of_a_cell_number_by_a_large_amount_is_noticed_or_harmless() {
        // Never a panic or an overflow, whatever the numbers.
        for line in builtin().lines().filter(|l| l.contains("_nm")) {
            let Some((key, _)) = line.split_once('=') else { continue };
            for value in ["-1_000_000_000", "0", "1_000_000_000", "[0, 0]", "[-1000000000, 1000000000]"] {
                let _ = open(&builtin().replace(line, &format!("{key}= {value}")));
            }
        }
    }

    #[test]
    fn text_that_is_not_toml_is_an_error_with_its_place() {
        let e = open("name = \n").unwrap_err();
        assert_eq!(e.0[0].code.id, "E0501");
        assert!(e.0[0].notes[0].contains("line 1"), "{e}");
    }

    #[test]
    fn two_roles_on_one_layer_are_an_error() {
        let got = messages(&builtin().replace("via = [68, 44]", "via = [67, 44]"));
        assert_eq!(got, ["E0502 layers.mcon and layers.via are both 67/44"]);
    }

    /// The built-in files with their names.
    fn files() -> Vec<(&'static str, String)> {
        [("sky130", crate::SKY130), ("sky130-via1", crate::SKY130_VIA1), ("sg13g2", crate::SG13G2)]
            .map(|(name, toml)| (name, toml.to_owned()))
            .into()
    }

    #[test]
    fn the_other_built_in_processes_are_consistent() {
        // The cell's area, what weights change (via and, in SG13G2, Via1), and whether there are macros.
        for (toml, area, cut, periphery) in
            [(crate::SKY130_VIA1, 870 * 615, [68, 44], true), (crate::SG13G2, 820 * 510, [19, 0], false)]
        {
            let p = open(toml).unwrap();
            let layer = p.levels().cut.layer;
            assert_eq!((p.bit_area_nm2(), [layer.layer, layer.datatype]), (area, cut));
            assert!(p.periphery == periphery && p.rail_density() < 0.6 && p.pad_density() < 0.6);
        }
    }

    #[test]
    fn variants_of_a_process_have_its_layers_and_rules() {
        let [a, b] = [crate::SKY130, crate::SKY130_VIA1].map(|toml| open(toml).unwrap());
        assert!(a.layers == b.layers && a.rules == b.rules && a.reticle == b.reticle && a.tile == b.tile);
    }

    #[test]
    fn every_key_that_a_file_lacks_is_named() {
        for (name, toml) in files() {
            let mut section = String::new();
            for line in toml.lines() {
                if let Some(head) = line.strip_prefix('[') {
                    section = head.trim_end_matches(']').to_owned();
                }
                let Some((key, _)) = line.split_once(" = ") else { continue };
                // Once a layer is not there, what is said of it may be left out.
                let table: Table = toml.parse().unwrap();
                let mut lacking = table.clone();
                match lacking.get_mut(&section) {
                    None => {
                        lacking.remove(key).unwrap();
                    }
                    Some(inner) => {
                        inner.as_table_mut().unwrap().remove(key).unwrap();
                    }
                }
                let full = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
                let got = messages(&lacking.to_string());
                let missing = format!("E0501 `{full}` is missing");
                assert!(got.contains(&missing), "{name} {full}: {got:#?}");
            }
        }
    }

    /// Rules of a file that no number of the array contradicts, however much they ask for.
    fn idle_rules(toml: &str) -> Vec<String> {
        let table: Table = toml.parse().unwrap();
        let rules = table["rules"].as_table().unwrap();
        let idle = rules.iter().filter(|(key, _)| {
            let hard = match key.as_str() {
                "density_max" => Value::Float(0.01),
                "tap_distance_nm" => Value::Integer(1000),
                key if key.ends_with("_nm2") => Value::Integer(1_000_000_000),
                _ => Value::Integer(500_000),
            };
            let mut changed = table.clone();
            changed["rules"].as_table_mut().unwrap().insert((*key).clone(), hard);
            open(&changed.to_string()).is_ok()
        });
        idle.map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn a_rule_that_the_array_breaks_is_a_contradiction() {
        // Without a stack, met3 and the cuts to it are drawn in macros alone.
        let upper = [
            "met2_enclose_via2_ends_nm",
            "met2_enclose_via2_nm",
            "met34_space_nm",
            "met3_area_nm2",
            "met3_enclose_via2_ends_nm",
            "met3_enclose_via2_nm",
            "met3_width_nm",
            "via23_space_nm",
            "via2_size_nm",
            "via3_size_nm",
            "via_array_space_nm",
        ];
        for (name, toml) in files() {
            let mut idle = idle_rules(&toml);
            idle.sort_unstable();
            let want: Vec<&str> = match name {
                "sky130-via1" => vec!["via3_size_nm"],
                // Pins of dies.
                "sky130" => upper.iter().copied().filter(|rule| *rule != "met34_space_nm").collect(),
                _ => upper.to_vec(),
            };
            assert_eq!(idle, want, "{name}");
        }
    }

    #[test]
    fn sections_of_the_periphery_are_all_there_or_none() {
        let whole: Table = builtin().parse().unwrap();
        for part in PERIPHERY {
            let mut lacking = whole.clone();
            lacking.remove(*part).unwrap();
            let got = messages(&lacking.to_string());
            assert!(
                !got.is_empty() && got.iter().all(|m| m.starts_with(&format!("E0501 `{part}."))),
                "{got:#?}"
            );
        }
        let mut none = whole;
        PERIPHERY.iter().for_each(|part| drop(none.remove(*part)));
        let process = open(&none.to_string()).unwrap();
        assert!(!process.periphery);
        // A macro cannot be built of it.
        let shape = crate::macros::MacroShape { word_lines: 64, bit_lines: 64, mux: 16 };
        let refused = crate::macros::Macro::new(&process, shape).err().unwrap();
        assert_eq!(refused.0[0].code.id, "E0523");
        assert!(refused.0[0].message.contains("describes no periphery"), "{refused}");
    }

    #[test]
    fn a_stack_that_misses_its_contact_or_pad_is_a_contradiction() {
        for (change, to, expected) in [
            ("li1_x_nm = [165, 495]", "li1_x_nm = [265, 595]", "li1 around the contact is -20 along x"),
            ("mcon_x_nm = [245, 415]", "mcon_x_nm = [245, 405]", "cut of a stack is 160, rules.mcon_size_nm"),
            (
                "pad_x_nm = [-30, 690]",
                "pad_x_nm = [-30, 650]",
                "node pad around the cut under the ground rail",
            ),
            (
                "pad_x_nm = [-30, 690]",
                "pad_x_nm = [-30, 705]",
                "space of node pads is 135, rules.met1_space_nm",
            ),
            ("pitch_x_nm = 870", "pitch_x_nm = 860", "met2 covers 60.47 % of the array"),
            ("via_offset_nm = 205", "via_offset_nm = 195", "space of the via2s of a ground pad is 190"),
            ("mcon_y_nm = [-85, 85]", "mcon_y_nm = [-80, 90]", "must be centred on the node"),
        ] {
            assert!(crate::SKY130_VIA1.contains(change), "{change}");
            let got = messages(&crate::SKY130_VIA1.replace(change, to));
            assert!(got.iter().any(|m| m.contains(expected)), "{expected}: {got:#?}");
        }
    }

    #[test]
    fn word_lines_that_cannot_be_strapped_are_a_contradiction() {
        for (change, to, expected) in [
            // 600 - 165 of a pad - 150 of a line.
            (
                "pitch_y_nm = 615",
                "pitch_y_nm = 600",
                "space of word-line straps is 285, rules.met34_space_nm asks",
            ),
            ("met3_half_width_nm = 165", "met3_half_width_nm = 160", "word-line strap around its via2 is 60"),
            ("word_lines = 40", "word_lines = 36", "must be a multiple of `logic.word_lines` = 8"),
        ] {
            assert!(crate::SKY130_VIA1.contains(change), "{change}");
            let got = messages(&crate::SKY130_VIA1.replace(change, to));
            assert!(got.iter().any(|m| m.contains(expected)), "{expected}: {got:#?}");
        }
    }

    #[test]
    fn a_die_without_room_for_the_largest_array_is_a_contradiction() {
        // 512 x 1024: 8 row groups of 64 word lines with two tap offsets each are 232.00 um, and 788.48 um wide. `die.edge_nm` is on
        // either side.
        for (change, to, expected) in [
            (
                "width_nm = 26_000_000",
                "width_nm = 890_000",
                "needs 892180 nm, more than `reticle.width_nm` = 890000",
            ),
            (
                "height_nm = 33_000_000",
                "height_nm = 200_000",
                "more than `reticle.height_nm` = 200000: lower `tile.word_lines`",
            ),
        ] {
            let got = messages(&builtin().replace(change, to));
            assert!(got.len() == 1 && got[0].contains(expected), "{expected}: {got:#?}");
        }
        // Smaller tiles have room.
        let small = builtin().replace("width_nm = 26_000_000", "width_nm = 890_000");
        assert!(open(&small.replace("bit_lines = 1024", "bit_lines = 1016")).is_ok());
    }

    #[test]
    fn rules_that_sg13g2_alone_has_are_checked() {
        for (change, to, expected) in [
            ("pitch_y_nm = 510", "pitch_y_nm = 470", "rules.mcon_array_space_nm asks for at least 290"),
            (
                "implant_to_gate_nm = 300",
                "implant_to_gate_nm = 700",
                "implant of the taps to the nearest gate is 530",
            ),
            (
                "contact_x_nm = [-700, -1250]",
                "contact_x_nm = [-100, -650]",
                "word-line contact to the first diffusion is 120",
            ),
        ] {
            assert!(crate::SG13G2.contains(change), "{change}");
            let got = messages(&crate::SG13G2.replace(change, to));
            assert!(got.iter().any(|m| m.contains(expected)), "{expected}: {got:#?}");
        }
    }

    #[test]
    fn layers_may_be_absent_by_name_alone() {
        // Diffusion and taps may share a layer, no others; a layer that every process needs cannot be absent.
        let got = messages(&crate::SG13G2.replace("psdm = [14, 0]", "psdm = \"none\""));
        assert!(got[0].starts_with("E0501 `layers.psdm` is \"none\""), "{got:#?}");
        let got = messages(&crate::SG13G2.replace("poly = [5, 0]", "poly = [1, 0]"));
        assert_eq!(got, ["E0502 layers.diff and layers.poly are both 1/0"]);
        // With the layer its rules are asked for.
        let got = messages(&crate::SG13G2.replace("npc = \"none\"", "npc = [95, 20]"));
        assert!(got.iter().any(|m| m == "E0501 `rules.npc_width_nm` is missing"), "{got:#?}");
    }
}
