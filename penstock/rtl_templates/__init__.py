"""Templates of the RTL: SystemVerilog of the machine, and the C++ that drives it in Verilator."""
