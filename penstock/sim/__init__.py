"""Cycle-level simulation of a mapped design, with values."""
