// What a ROM macro does, without its delays: while CE is high, the rise of CLK reads bit line
// o MUX + A mod MUX of word line A / MUX to output o, which stays until the next read. CONTENTS has one
// hexadecimal number a word line, bit line 0 its lowest bit.
module pfmc_rom_model #(
    parameter WORD_LINES = 16,
    parameter BIT_LINES = 16,
    parameter LOG_MUX = 4,
    parameter AW = 8,
    parameter CONTENTS = "rom.hex"
) (
    input wire CLK,
    input wire CE,
    input wire [AW-1:0] A,
    output reg [(BIT_LINES>>LOG_MUX)-1:0] Q
);
    localparam OUTPUTS = BIT_LINES >> LOG_MUX;
    reg [BIT_LINES-1:0] lines [0:WORD_LINES-1];
    reg [BIT_LINES-1:0] line;
    integer o;
    initial $readmemh(CONTENTS, lines);
    always @(posedge CLK)
        if (CE) begin
            line = lines[A >> LOG_MUX] >> (A & ((1 << LOG_MUX) - 1));
            for (o = 0; o < OUTPUTS; o = o + 1) Q[o] <= line[o << LOG_MUX];
        end
endmodule
