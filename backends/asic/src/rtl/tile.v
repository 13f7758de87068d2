// The compute around the ROM of one matrix tile: y = x W with exact integer sums.
//
// Per vector: for each of CPL sweeps, all K activations arrive on x (the same ones each time), and the
// sums of every CPL-th column leave on y in ascending order: columns s, CPL + s, 2 CPL + s, ... in
// sweep s. A column at or past N is left out.
//
// Stages: 0 the state says which bit is read, and the ROM's address follows at the falling edge of clk,
// because the ROM wants it stable while clk is high; 1 the ROM reads; 2 the lanes add.
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
    parameter LOOKUP = 0        // 1: columns can be read, too
) (
    input wire clk,
    input wire rst,             // synchronous

    input wire x_valid,
    output wire x_ready,
    input wire [7:0] x_data,    // int8 in -127..127

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
    reg [7:0] x;
    reg s1_header, s1_code, s1_first, s1_last, s1_scale, s1_scale_last, s1_looking;
    reg [SELW-1:0] s1_select;
    always @(posedge clk) begin
        if (x_ready && x_valid) x <= x_data;
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
    wire [BUSW-1:0] bus;
    generate
        if (CODEBOOK) begin : products
            // One product of the activation with each entry of the codebook, formed once a row.
            for (g = 0; g < (1 << BITS); g = g + 1) begin : entry
                wire signed [7:0] level = header[32 + 8*g +: 8];
                wire signed [7:0] factor = x;
                reg signed [PRODW-1:0] product;
                always @(posedge clk)
                    if (s1_code && s1_first && !s1_looking) product <= factor * level;
                for (i = 0; i < PRODW; i = i + 1) begin : bits
                    assign bus[i*(1<<BITS) + g] = product[i];
                end
            end
        end else begin : shifted
            // The activation times the weight of the code's bit; the last bit counts negative.
            reg signed [PRODW-1:0] weighted;
            wire signed [PRODW-1:0] twice = weighted << 1;
            always @(posedge clk)
                if (s1_code && !s1_looking)
                    weighted <= s1_first ? {{(PRODW-8){x[7]}}, x} : s1_last ? -twice : twice;
            assign bus = weighted;
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
                .OPL(OPL), .SELW(SELW), .CODEBOOK(CODEBOOK), .CODEW(CODEW), .PRODW(PRODW), .BUSW(BUSW),
                .GROUPW(GROUPW), .SUMW(SUMW)
            ) lane (
                .clk(clk), .q(q[g*OPL +: OPL]), .select(s1_select), .take((s1_code || s1_scale) && !s1_looking),
                .bus(bus), .add(s2_add), .scale(s2_scale), .scale_last(s2_scale_last),
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
