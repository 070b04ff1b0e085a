"""SystemVerilog of a programmable array, its runs in Verilator, and synthesis."""
