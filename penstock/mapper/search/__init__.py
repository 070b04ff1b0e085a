"""The space of mappings of a cascade to a machine, and the search of it."""
