// From exact sums to the next layer's int8:
//     q = clamp((sum over the tiles of y[t] multiplier[g][t] + 2^(shift-1)) >> shift, -127, 127)
// in 64 bits, exact up to the shift, which rounds halves up; g is the group of the sums' column. Every column's sums arrive
// in ascending order of tiles. multiplier and shift are loaded before: index g TILES + t is a multiplier, index
// GROUPS TILES the shift, 1 to 62.
module pfmc_requantise #(
    parameter TILES = 1,
    parameter GROUPS = 1        // groups of columns whose activations have scales of their own
) (
    input wire clk,
    input wire rst,
    input wire set,
    input wire [15:0] set_index,
    input wire [23:0] set_data,
    input wire y_valid,
    output wire y_ready,
    input wire [31:0] y_data,
    input wire [15:0] y_group,
    output reg q_valid,
    input wire q_ready,
    output wire [7:0] q_data
);
    reg [23:0] multipliers [0:GROUPS*TILES-1];
    reg [5:0] shift;
    reg [7:0] tile;
    reg signed [63:0] sum;

    wire signed [24:0] multiplier = {1'b0, multipliers[y_group * TILES + tile]};
    wire signed [31:0] y = y_data;
    wire signed [63:0] product = y * multiplier;
    wire signed [63:0] half = 64'd1 << (shift - 6'd1);
    wire signed [63:0] rounded = (sum + half) >>> shift;
    assign q_data = rounded > 127 ? 8'd127 : rounded < -127 ? 8'h81 : rounded[7:0];
    assign y_ready = !q_valid;

    always @(posedge clk) begin
        if (set) begin
            if (set_index == GROUPS * TILES) shift <= set_data[5:0];
            else multipliers[set_index] <= set_data;
        end
        if (rst) begin
            q_valid <= 0;
            tile <= 0;
        end else if (y_valid && y_ready) begin
            sum <= tile == 0 ? product : sum + product;
            tile <= tile == TILES - 1 ? 8'd0 : tile + 8'd1;
            q_valid <= tile == TILES - 1;
        end else if (q_ready) q_valid <= 0;
    end
endmodule
