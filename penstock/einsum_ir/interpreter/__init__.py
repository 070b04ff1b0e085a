"""What a cascade means, in NumPy: values, number formats, absent points, blocks."""
