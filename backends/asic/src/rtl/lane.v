// One lane: the sums of CPL neighbouring columns of a tile, one after the other.
//
// A lane reads OPL neighbouring outputs of the ROM, which carry its columns' bits one a cycle, least
// significant first. It adds the products of a group of rows in `group_sum`, then multiplies that sum
// with the group's scale while the scale's eight bits arrive: `sum` takes the group sum where the bit is
// 1, and the group sum moves up by one. All arithmetic is exact.
module pfmc_lane #(
    parameter OPL = 1,        // ROM outputs of a lane
    parameter SELW = 1,       // bits that choose one of them
    parameter CODEBOOK = 1,   // 1: a code selects a shared product. 0: a code is two's complement
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
    input wire [BUSW-1:0] bus,       // stage 2: products, or the shifted activation
    input wire add,                  // stage 2: add to the group sum
    input wire scale,                // stage 2: the bit is one of a scale
    input wire scale_last,           // stage 2: it is the last one
    input wire shift,                // hand the sum to the neighbour
    input wire [SUMW-1:0] sum_in,
    output reg [SUMW-1:0] sum
);
    reg [CODEW-1:0] code;
    reg signed [GROUPW-1:0] group_sum;
    wire latest = code[CODEW-1];

    // The chosen product: bit b of all products lies together on the bus, in the order of the codes; or the
    // activation where the bit is 1.
    function signed [PRODW-1:0] product;
        input [BUSW-1:0] on_bus;
        input [CODEW-1:0] selected;
        integer b;
        for (b = 0; b < PRODW; b = b + 1)
            product[b] = CODEBOOK ? on_bus[b*(1<<CODEW) + selected] : on_bus[b] & selected[0];
    endfunction

    generate
        if (CODEBOOK) begin : gather
            always @(posedge clk)
                if (take) code <= {q[select], code[CODEW-1:1]};
        end else begin : latest_bit
            always @(posedge clk)
                if (take) code <= q[select];
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
        else if (add) group_sum <= group_sum + product(bus, code);
        else if (scale) group_sum <= group_sum << 1;
        if (shift) sum <= sum_in;
        else if (scale & latest) sum <= sum + wide_group;
    end
endmodule
