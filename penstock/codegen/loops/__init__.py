"""The statement IR: nodes, interpreter, printer, and how values and ranges are read from it."""
