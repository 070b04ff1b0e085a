"""Lowering: cascade and mapping become loops, the only way there is."""
