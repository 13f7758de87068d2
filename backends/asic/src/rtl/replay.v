// Keeps a vector of K int8 activations and hands it on SWEEPS times.
module pfmc_replay #(
    parameter K = 8,
    parameter SWEEPS = 4
) (
    input wire clk,
    input wire rst,
    input wire in_valid,
    output wire in_ready,
    input wire [7:0] in_data,
    output wire out_valid,
    input wire out_ready,
    output wire [7:0] out_data
);
    reg [7:0] values [0:K-1];
    reg [15:0] at;
    reg [7:0] sweeps_left;      // 0: loading

    assign in_ready = sweeps_left == 0;
    assign out_valid = sweeps_left != 0;
    assign out_data = values[at];

    always @(posedge clk) begin
        if (in_valid && in_ready) values[at] <= in_data;
        if (rst) begin
            at <= 0;
            sweeps_left <= 0;
        end else if ((in_valid && in_ready) || (out_valid && out_ready)) begin
            at <= at == K - 1 ? 16'd0 : at + 16'd1;
            if (at == K - 1) sweeps_left <= in_ready ? SWEEPS : sweeps_left - 8'd1;
        end
    end
endmodule
