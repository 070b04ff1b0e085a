"""Mappings of a cascade to a machine: legality, cost model, search."""
