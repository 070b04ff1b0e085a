"""Studies of a finished design: RTL against the clock, FPGA resources, word lengths."""
