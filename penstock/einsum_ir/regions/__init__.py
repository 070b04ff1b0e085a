"""Where an Einsum has points: conditions, their bounds, exact counts, and tiles."""
