// One lane: the sums of CPL neighbouring columns of a tile, one after the other.
//
// A lane reads OPL neighbouring outputs of the ROM, which carry its columns' bits one a cycle, least
// significant first. It adds the products of a group of rows in `group_sum`, then multiplies that sum
// with the group's scale while the scale's eight bits arrive: `sum` takes the group sum where the bit is
// 1, and the group sum moves up by one. All arithmetic is exact.
module pfmc_lane #(
    parameter OPL = 1,        // ROM outputs of a lane
    parameter SELW = 1,       // bits that choose one of them
    parameter CODEBOOK = 1,   // 1: a code selects from a codebook. 0: a code is two's complement
    parameter MULTIPLY = 0,   // codebook: 0: it selects a product. 1: an entry, which the lane multiplies
    parameter CODEW = 4,      // bits that are kept: those of a code, or 1
    parameter PRODW = 15,     // bits of a product or of a shifted activation
    parameter BUSW = 240,     // bits of the shared bus
    parameter GROUPW = 27,    // bits of a group sum, shifted up by 7
    parameter SUMW = 32       // bits of a sum
) (
    input wire clk,
    input wire [OPL-1:0] q,          // stage 1: what the ROM reads
    input wire [SELW-1:0] select,    // stage 1: which of it
    input wire take,                 // stage 1: a bit is there
    input wire [BUSW-1:0] bus,       // stage 2: products, entries and the activation, or the shifted activation
    // Stage 2, of a lane that multiplies stage 3:
    input wire add,                  // add to the group sum
    input wire scale,                // the bit is one of a scale
    input wire scale_last,           // it is the last one
    input wire shift,                // hand the sum to the neighbour
    input wire [SUMW-1:0] sum_in,
    output reg [SUMW-1:0] sum
);
    reg [CODEW-1:0] code;
    reg signed [GROUPW-1:0] group_sum;
    generate
        if (CODEBOOK) begin : gather
            always @(posedge clk)
                if (take) code <= {q[select], code[CODEW-1:1]};
        end else begin : latest_bit
            always @(posedge clk)
                if (take) code <= q[select];
        end
    endgenerate

    // What is added to the group sum, and the bit of a scale: bit b of all products lies together on the bus, in the
    // order of the codes.
    wire signed [PRODW-1:0] product;
    wire latest;
    genvar b;
    generate
        if (CODEBOOK && MULTIPLY) begin : multiplier
            wire signed [7:0] factor = bus[7:0];
            wire signed [7:0] level = bus[8 + 8*code +: 8];
            reg signed [PRODW-1:0] multiplied;
            reg bit_of_scale;
            always @(posedge clk) begin
                multiplied <= factor * level;
                bit_of_scale <= code[CODEW-1];
            end
            assign product = multiplied;
            assign latest = bit_of_scale;
        end else begin : selected
            for (b = 0; b < PRODW; b = b + 1) begin : bits
                if (CODEBOOK) begin : chosen
                    assign product[b] = bus[b*(1<<CODEW) + code];
                end else begin : gated
                    assign product[b] = bus[b] & code[0];
                end
            end
            assign latest = code[CODEW-1];
        end
    endgenerate

    wire [SUMW-1:0] wide_group;
    generate
        if (SUMW > GROUPW) begin : extend
            assign wide_group = {{(SUMW-GROUPW){group_sum[GROUPW-1]}}, group_sum};
        end else begin : same
            assign wide_group = group_sum;
        end
    endgenerate

    always @(posedge clk) begin
        if (scale_last | shift) group_sum <= 0;
        else if (add) group_sum <= group_sum + product;
        else if (scale) group_sum <= group_sum << 1;
        if (shift) sum <= sum_in;
        else if (scale & latest) sum <= sum + wide_group;
    end
endmodule
