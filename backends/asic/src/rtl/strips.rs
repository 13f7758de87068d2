//! Strips: tiles that share columns of a matrix, each with a buffer of its activations, and a requantiser of their sums.

use std::fmt::Write;

use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Activations, MatrixId, TileId, TileKind};

use super::TileRtl;

/// The modules of all matrices' strips.
pub(super) fn all(program: &TileProgram, tiles: &[(TileId, String, TileRtl)]) -> String {
    let mut out = String::new();
    for (matrix, of) in program.matrices() {
        let scaled = matches!(of.activations, Activations::Row);
        let mut of_matrix: Vec<Placed> = tiles
            .iter()
            .filter_map(|(id, name, rtl)| match &program.tiles.get(id.index())?.kind {
                TileKind::Matrix { matrix: m, k, n, .. } if *m == matrix => {
                    Some(Placed { columns: (n.start, n.end), first_row: k.start, name, rtl })
                }
                _ => None,
            })
            .collect();
        of_matrix.sort_by_key(|t| (t.columns, t.first_row));
        for strip in of_matrix.chunk_by(|a, b| a.columns == b.columns && a.rtl.sweeps() == b.rtl.sweeps()) {
            strip_module(&mut out, matrix, scaled, strip);
        }
    }
    out
}

/// A tile and where it lies in its matrix.
struct Placed<'a> {
    columns: (u32, u32),
    first_row: u32,
    name: &'a str,
    rtl: &'a TileRtl,
}

/// Writes the module of tiles that share columns, in ascending order of rows. `scaled` says whether each group of
/// activations has a scale of its own.
fn strip_module(out: &mut String, matrix: MatrixId, scaled: bool, strip: &[Placed]) {
    let Some(first) = strip.first() else { return };
    let (start, end) = first.columns;
    let tiles = strip.len();
    let TileRtl { groups, each, offset, .. } = *first.rtl;
    let (factors, of_column) = match groups {
        2.. if scaled => (groups, format!("(columns[turn*16 +: 16] + {offset}) / {each}")),
        _ => (1, "16'd0".to_owned()),
    };
    let mut starts = Vec::new();
    let mut rows = 0;
    for tile in strip {
        starts.push(rows);
        rows += tile.rtl.k;
    }
    let mut text = format!(
        "// Columns {start} to {} of matrix {matrix}: {rows} activations of each of {groups} groups of columns in, one group \
             after the other;\n// int8 out, in the order of y_column. {factors} multipliers a tile.\n\
         module strip_m{matrix}_n{start} (\n    \
             input wire clk, input wire rst,\n    \
             input wire x_valid, output wire x_ready, input wire [7:0] x_data,\n    \
             input wire set, input wire [15:0] set_index, input wire [23:0] set_data,\n    \
             output wire q_valid, input wire q_ready, output wire [7:0] q_data,\n    \
             output wire [{}:0] units\n);\n    \
             // The row of the next activation, whose tile takes it, and the tile that the next sum comes from.\n    \
             reg [31:0] at;\n    \
             reg [7:0] turn;\n    \
             wire [{}:0] take, offer;\n    \
             wire [{}:0] sums;\n    \
             wire [{}:0] columns;\n    \
             wire sum_valid = offer[turn];\n    \
             wire sum_ready;\n    \
             assign x_ready = |take;\n    \
             always @(posedge clk)\n        \
                 if (rst) at <= 0;\n        \
                 else if (x_valid && x_ready) at <= at == {} ? 0 : at + 1;\n    \
             always @(posedge clk)\n        \
                 if (rst) turn <= 0;\n        \
                 else if (sum_valid && sum_ready) turn <= turn == {} ? 0 : turn + 1;\n    \
             pfmc_requantise #(.TILES({tiles}), .GROUPS({factors})) requantise (\n        \
                 .clk(clk), .rst(rst), .set(set), .set_index(set_index), .set_data(set_data),\n        \
                 .y_valid(sum_valid), .y_ready(sum_ready), .y_data(sums[turn*32 +: 32]),\n        \
                 .y_group({of_column}),\n        \
                 .q_valid(q_valid), .q_ready(q_ready), .q_data(q_data)\n    );\n",
        end - 1,
        32 * tiles - 1,
        tiles - 1,
        32 * tiles - 1,
        16 * tiles - 1,
        rows - 1,
        tiles - 1,
    );
    for (t, (tile, from)) in strip.iter().zip(starts).enumerate() {
        let (name, k, to) = (tile.name, tile.rtl.k, from + tile.rtl.k);
        let low = if from == 0 { String::new() } else { format!("at >= {from} && ") };
        let sweeps = tile.rtl.sweeps();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n    // Rows {from} to {}.\n    \
             wire here{t} = {low}at < {to};\n    \
             wire in_ready{t}, x_valid{t}, x_ready{t};\n    \
             wire [{}:0] x_data{t};\n    \
             assign take[{t}] = here{t} && in_ready{t};\n    \
             pfmc_replay #(.K({k}), .SWEEPS({sweeps}), .GROUPS({groups})) replay{t} (\n        \
                 .clk(clk), .rst(rst), .in_valid(x_valid && here{t}), .in_ready(in_ready{t}), .in_data(x_data),\n        \
                 .out_valid(x_valid{t}), .out_ready(x_ready{t}), .out_data(x_data{t})\n    );\n    \
             {name} tile{t} (\n        \
                 .clk(clk), .rst(rst), .x_valid(x_valid{t}), .x_ready(x_ready{t}), .x_data(x_data{t}),\n        \
                 .y_valid(offer[{t}]), .y_ready(sum_ready && turn == {t}), .y_data(sums[{}:{}]), .y_column(columns[{}:{}]),\n        \
                 .header_valid(), .unit(units[{}:{}]),\n        \
                 .c_valid(1'b0), .c_ready(), .c_column(16'd0), .l_valid(), .l_scale(), .l_data()\n    );\n",
            to - 1,
            8 * groups - 1,
            32 * t + 31,
            32 * t,
            16 * t + 15,
            16 * t,
            32 * t + 31,
            32 * t,
        );
    }
    text.push_str("endmodule\n\n");
    out.push_str(&text);
}
