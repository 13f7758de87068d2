// Keeps a vector of int8 activations, K for each of GROUPS groups, and hands it on SWEEPS times. They arrive one group
// after the other and leave a row at a time, that row's of all groups together, group 0 lowest.
module pfmc_replay #(
    parameter K = 8,
    parameter SWEEPS = 4,
    parameter GROUPS = 1
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [7:0] in_data,
    output wire out_valid,
    input wire out_ready,
    output wire [8*GROUPS-1:0] out_data
);
    reg [15:0] at;
    reg [15:0] group;           // that is loaded
    reg [7:0] sweeps_left;      // 0: loading

    assign in_ready = sweeps_left == 0;
    assign out_valid = sweeps_left != 0;

    genvar g;
    generate
        for (g = 0; g < GROUPS; g = g + 1) begin : of_group
            reg [7:0] values [0:K-1];
            assign out_data[8*g +: 8] = values[at];
            always @(posedge clk)
                if (in_valid && in_ready && group == g) values[at] <= in_data;
        end
    endgenerate

    always @(posedge clk)
        if (rst) begin
            at <= 0;
            group <= 0;
            sweeps_left <= 0;
        end else if ((in_valid && in_ready) || (out_valid && out_ready)) begin
            at <= at == K - 1 ? 16'd0 : at + 16'd1;
            if (at == K - 1) begin
                if (!in_ready) sweeps_left <= sweeps_left - 8'd1;
                else begin
                    group <= group == GROUPS - 1 ? 16'd0 : group + 16'd1;
                    if (group == GROUPS - 1) sweeps_left <= SWEEPS;
                end
            end
        end
endmodule
