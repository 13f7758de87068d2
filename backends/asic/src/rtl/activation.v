// What a run of lanes multiplies with: the activation of their columns' group of inputs, as the lanes' bus has it.
//
// Uniform codes: the activation times the weight of the code's bit; the last bit counts negative.
// Codebook, SHARED: one product of the activation with each entry, formed once a row; bit b of all products lies
// together, in the order of the codes. Not SHARED: the activation below the entries, for lanes with a multiplier.
module pfmc_activation #(
    parameter CODEBOOK = 1,
    parameter SHARED = 1,
    parameter BITS = 4,         // bits of a code
    parameter PRODW = 15,       // bits of a product or of a shifted activation
    parameter BUSW = 240        // bits of the bus
) (
    input wire clk,
    input wire load,            // stage 0: an activation is there
    input wire [7:0] x_data,    // stage 0: int8 in -127..127
    input wire code,            // stage 1: a bit of a code is read
    input wire first,           // stage 1: it is the first one
    input wire last,            // stage 1: it is the last one
    input wire [(8<<BITS)-1:0] codebook,
    output wire [BUSW-1:0] bus  // stage 2
);
    reg [7:0] x;                // stage 1
    always @(posedge clk) if (load) x <= x_data;

    genvar g, i;
    generate
        if (CODEBOOK && SHARED) begin : products
            for (g = 0; g < (1 << BITS); g = g + 1) begin : entry
                wire signed [7:0] level = codebook[8*g +: 8];
                wire signed [7:0] factor = x;
                reg signed [PRODW-1:0] product;
                always @(posedge clk) if (code && first) product <= factor * level;
                for (i = 0; i < PRODW; i = i + 1) begin : bits
                    assign bus[i*(1<<BITS) + g] = product[i];
                end
            end
        end else if (CODEBOOK) begin : plain
            reg [7:0] kept;
            always @(posedge clk) if (code && first) kept <= x;
            assign bus = {codebook, kept};
        end else begin : shifted
            reg signed [PRODW-1:0] weighted;
            wire signed [PRODW-1:0] twice = weighted << 1;
            always @(posedge clk)
                if (code) weighted <= first ? {{(PRODW-8){x[7]}}, x} : last ? -twice : twice;
            assign bus = weighted;
        end
    endgenerate
endmodule
