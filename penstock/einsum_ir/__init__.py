"""Cascades of extended Einsums: nodes, notation, interpreter, analyses. Knows no machines."""
