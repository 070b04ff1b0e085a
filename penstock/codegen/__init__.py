"""Generated code: one lowering to loops, and one printer for each language."""
