"""Loops in time: recurrences, ports and operator latencies give intervals and cycles."""
