// The compute around the ROM of one matrix tile: y = x W with exact integer sums.
//
// Per vector: for each of CPL sweeps, all K activations arrive on x (the same ones each time), and the
// sums of every CPL-th column leave on y in ascending order: columns s, CPL + s, 2 CPL + s, ... in
// sweep s. A column at or past N is left out.
//
// Columns of a group take the same activations: the tile's first EACH - OFFSET columns those of group 0, the next EACH
// those of group 1, and so on. A row's activations, one for each group, arrive together. Neighbouring lanes that take the
// same ones in every sweep are a run and share what is formed of them.
//
// Stages: 0 the state says which bit is read, and the ROM's address follows at the falling edge of clk,
// because the ROM wants it stable while clk is high; 1 the ROM reads; 2 the lanes add, or
// multiply, where they have multipliers of their own, and add in stage 3.
module pfmc_tile #(
    parameter K = 8,            // rows
    parameter N = 8,            // columns
    parameter BITS = 4,         // bits of a code
    parameter GROUP = 8,        // rows that share a scale
    parameter CODEBOOK = 1,     // codes select from a codebook
    parameter HEADER_LINE = 10, // word line of unit and codebook
    parameter HEADER_BITS = 160,
    parameter LOG_MUX = 4,      // log2 of the bit lines that share an output
    parameter OUTPUTS = 10,     // outputs of the ROM
    parameter AW = 8,           // its address bits
    parameter LANES = 2,
    parameter CPL = 4,          // columns of a lane
    parameter LOG_CPL = 2,
    parameter OPL = 1,          // ROM outputs of a lane
    parameter SELW = 1,
    parameter PRODW = 15,
    parameter BUSW = 240,
    parameter GROUPW = 27,
    parameter SUMW = 32,
    parameter GROUPS = 1,       // groups of columns with activations of their own
    parameter EACH = 8,         // columns of a group
    parameter OFFSET = 0,       // columns of group 0 that lie before the tile
    parameter SHARED = 1,       // codebook: 0 where lanes have multipliers of their own
    parameter LOOKUP = 0        // 1: columns can be read, too
) (
    input wire clk,
    input wire rst,             // synchronous

    input wire x_valid,
    output wire x_ready,
    input wire [8*GROUPS-1:0] x_data, // int8 in -127..127, group 0 lowest

    output wire y_valid,
    input wire y_ready,
    output wire [31:0] y_data,
    output wire [15:0] y_column,

    output wire header_valid,   // unit is known
    output wire [31:0] unit,    // IEEE 754 single, a factor of all sums

    // Look-up of a column: its K levels with the scale of a group after the group's levels, nothing
    // waits for the reader.
    input wire c_valid,
    output wire c_ready,
    input wire [15:0] c_column,
    output reg l_valid,
    output reg l_scale,         // l_data is a scale (unsigned), otherwise a level (int8)
    output reg [7:0] l_data,

    output reg rom_ce,
    output reg [AW-1:0] rom_a,
    input wire [OUTPUTS-1:0] rom_q
);
    localparam MUX = 1 << LOG_MUX;
    localparam CODEW = CODEBOOK ? BITS : 1;
    localparam PADDED = LANES * OPL > OUTPUTS ? LANES * OPL : OUTPUTS;
    localparam LINEW = AW - LOG_MUX;
    localparam [2:0] HEADER = 0, CODES = 1, SCALES = 2, FLUSH = 3, DRAIN = 4;

    // Stage 0: where the next read is.
    reg [2:0] state;
    reg [LINEW-1:0] line;       // word line
    reg [15:0] row;             // row of the matrix
    reg [15:0] in_group;        // row of the group
    reg [3:0] digit;            // bit of the code
    reg [3:0] scale_digit;      // bit of the scale, 8 where only padding is left
    reg [LOG_CPL:0] sweep;      // column of each lane
    reg [8:0] base;             // first bit line of that column, counted in its lane
    reg [15:0] drained;         // lanes whose sums have left
    reg [1:0] wait_left;
    reg started;                // the header was read
    reg looking;                // a look-up is going on
    reg [15:0] look_lane;

    wire idle = state == CODES && row == 0 && digit == 0 && !looking;
    wire begin_look = LOOKUP && idle && sweep == 0 && c_valid;
    wire wants_x = state == CODES && digit == 0 && !looking;
    wire issue = state == HEADER || state == SCALES
        || state == CODES && !begin_look && (!wants_x || x_valid);
    wire last_digit = digit == (state == HEADER ? MUX - 1 : BITS - 1);
    wire [8:0] local_line = base + digit;
    wire [3:0] next_scale_digit = scale_digit == 8 ? 4'd8 : scale_digit + 4'd1;

    assign x_ready = wants_x && !begin_look;
    assign c_ready = begin_look;
    assign header_valid = started;

    always @(negedge clk) begin
        rom_ce <= issue;
        rom_a <= {line, local_line[LOG_MUX-1:0]};
    end

    wire [15:0] column = (drained << LOG_CPL) + sweep;
    wire drain_step = state == DRAIN && (y_ready || column >= N);
    assign y_valid = state == DRAIN && column < N;
    assign y_column = column;

    always @(posedge clk) begin
        if (rst) begin
            state <= HEADER;
            line <= HEADER_LINE;
            row <= 0;
            in_group <= 0;
            digit <= 0;
            scale_digit <= 0;
            sweep <= 0;
            base <= 0;
            drained <= 0;
            wait_left <= 0;
            started <= 0;
            looking <= 0;
            look_lane <= 0;
        end else begin
            case (state)
                HEADER: begin
                    digit <= digit + 4'd1;
                    if (last_digit) begin
                        digit <= 0;
                        wait_left <= 3;
                        state <= FLUSH;
                    end
                end
                CODES: begin
                    if (begin_look) begin
                        looking <= 1;
                        look_lane <= c_column >> LOG_CPL;
                        base <= BITS * (c_column & (CPL - 1));
                    end else if (issue) begin
                        digit <= digit + 4'd1;
                        if (last_digit) begin
                            digit <= 0;
                            line <= line + 1'b1;
                            row <= row + 16'd1;
                            in_group <= in_group + 16'd1;
                            if (in_group == GROUP - 1 || row == K - 1) begin
                                in_group <= 0;
                                scale_digit <= 0;
                                state <= SCALES;
                            end
                        end
                    end
                end
                SCALES: begin
                    digit <= digit + 4'd1;
                    scale_digit <= next_scale_digit;
                    if (last_digit) begin
                        digit <= 0;
                        line <= line + 1'b1;
                        if (next_scale_digit == 8) begin
                            wait_left <= 3;
                            state <= row == K ? FLUSH : CODES;
                        end
                    end
                end
                FLUSH: begin
                    wait_left <= wait_left - 2'd1;
                    if (wait_left == 0) begin
                        line <= 0;
                        row <= 0;
                        started <= 1;
                        looking <= 0;
                        if (looking) base <= 0;
                        state <= started && !looking ? DRAIN : CODES;
                    end
                end
                DRAIN: if (drain_step) begin
                    drained <= drained + 16'd1;
                    if (drained == LANES - 1) begin
                        drained <= 0;
                        sweep <= sweep == CPL - 1 ? 0 : sweep + 1'b1;
                        base <= sweep == CPL - 1 ? 9'd0 : base + BITS;
                        state <= CODES;
                    end
                end
                default: state <= HEADER;
            endcase
        end
    end

    // Stage 1: the ROM reads.
    reg s1_header, s1_code, s1_first, s1_last, s1_scale, s1_scale_last, s1_looking;
    reg [SELW-1:0] s1_select;
    always @(posedge clk) begin
        s1_header <= issue && state == HEADER && !rst;
        s1_code <= issue && state == CODES && !rst;
        s1_first <= digit == 0;
        s1_last <= last_digit;
        s1_scale <= issue && state == SCALES && scale_digit != 8 && !rst;
        s1_scale_last <= scale_digit == 7;
        s1_looking <= looking;
        s1_select <= OPL == 1 ? 0 : local_line >> LOG_MUX;
    end

    // The header: unit, then the codebook.
    reg [HEADER_BITS-1:0] header;
    assign unit = header[31:0];
    genvar g, i;
    generate
        for (g = 0; g < HEADER_BITS / MUX; g = g + 1) begin : header_bits
            always @(posedge clk)
                if (s1_header) header[g*MUX +: MUX] <= {rom_q[g], header[g*MUX+1 +: MUX-1]};
        end
    endgenerate

    // Stage 2: what all lanes share.
    reg s2_add, s2_scale, s2_scale_last;
    always @(posedge clk) begin
        s2_add <= s1_code && !s1_looking && (CODEBOOK == 0 || s1_last);
        s2_scale <= s1_scale && !s1_looking;
        s2_scale_last <= s1_scale && s1_scale_last;
    end
    // Lanes with multipliers add in stage 3.
    localparam LATE = CODEBOOK && !SHARED;
    reg s3_add, s3_scale, s3_scale_last;
    always @(posedge clk) begin
        s3_add <= s2_add;
        s3_scale <= s2_scale;
        s3_scale_last <= s2_scale_last;
    end

    // The group of a column, counted with those that lie before the tile; lanes may have columns past the last.
    function integer group_of;
        input integer counted;
        group_of = counted / EACH < GROUPS ? counted / EACH : GROUPS - 1;
    endfunction
    wire [(8<<BITS)-1:0] codebook;
    generate
        if (CODEBOOK) begin : entries
            assign codebook = header[HEADER_BITS-1:32];
        end else begin : none
            assign codebook = 0;
        end
    endgenerate

    generate
        for (g = 0; g < LANES; g = g + 1) begin : activations
            wire [BUSW-1:0] bus;
            // Groups do not descend: all of two lanes' are the same if the first and the last are.
            if (g > 0 && group_of(OFFSET + (g-1)*CPL) == group_of(OFFSET + g*CPL + CPL-1)) begin : same
                assign bus = activations[g-1].bus;
            end else begin : run
                wire [8*CPL-1:0] of_sweep;
                for (i = 0; i < CPL; i = i + 1) begin : choice
                    assign of_sweep[8*i +: 8] = x_data[8*group_of(OFFSET + g*CPL + i) +: 8];
                end
                pfmc_activation #(
                    .CODEBOOK(CODEBOOK), .SHARED(SHARED), .BITS(BITS), .PRODW(PRODW), .BUSW(BUSW)
                ) activation (
                    .clk(clk), .load(x_ready && x_valid), .x_data(of_sweep[8*sweep +: 8]),
                    .code(s1_code && !s1_looking), .first(s1_first), .last(s1_last), .codebook(codebook),
                    .bus(bus)
                );
            end
        end
    endgenerate

    wire [PADDED-1:0] q = rom_q;
    // Sum g of the chain comes from lane g; lane 0 is next to leave. Zeros follow the last one.
    wire [(LANES+1)*SUMW-1:0] chain;
    assign chain[LANES*SUMW +: SUMW] = {SUMW{1'b0}};
    wire signed [SUMW-1:0] leaving = chain[0 +: SUMW];
    assign y_data = leaving;
    generate
        for (g = 0; g < LANES; g = g + 1) begin : lanes
            pfmc_lane #(
                .OPL(OPL), .SELW(SELW), .CODEBOOK(CODEBOOK), .MULTIPLY(LATE), .CODEW(CODEW), .PRODW(PRODW),
                .BUSW(BUSW), .GROUPW(GROUPW), .SUMW(SUMW)
            ) lane (
                .clk(clk), .q(q[g*OPL +: OPL]), .select(s1_select), .take((s1_code || s1_scale) && !s1_looking),
                .bus(activations[g].bus), .add(LATE ? s3_add : s2_add), .scale(LATE ? s3_scale : s2_scale),
                .scale_last(LATE ? s3_scale_last : s2_scale_last),
                .shift(drain_step || !started), .sum_in(chain[(g+1)*SUMW +: SUMW] & {SUMW{started}}),
                .sum(chain[g*SUMW +: SUMW])
            );
        end
    endgenerate

    // Look-up: one bit a read, of the chosen lane; levels and scales as they are complete.
    generate
        if (LOOKUP) begin : look
            reg [7:0] bits;
            reg s2_code_done, s2_scale_done;
            wire [15:0] output_index = look_lane * OPL + s1_select;
            wire [BITS-1:0] code = bits[7 -: BITS];
            wire [7:0] level;
            if (CODEBOOK) begin : entry
                assign level = header[32 + 8*code +: 8];
            end else begin : sign
                assign level = {{(8-BITS+1){code[BITS-1]}}, code[BITS-2:0]};
            end
            always @(posedge clk) begin
                if (s1_code || s1_scale) bits <= {q[output_index], bits[7:1]};
                s2_code_done <= s1_code && s1_last && s1_looking;
                s2_scale_done <= s1_scale && s1_scale_last && s1_looking;
                l_valid <= (s2_code_done || s2_scale_done) && !rst;
                l_scale <= s2_scale_done;
                l_data <= s2_scale_done ? bits : level;
            end
        end else begin : no_look
            always @(posedge clk) begin
                l_valid <= 0;
                l_scale <= 0;
                l_data <= 0;
            end
        end
    endgenerate
endmodule
