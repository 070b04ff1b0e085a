"""Rewrites: a cascade becomes another one of equal meaning, or is refused with a reason."""
