"""The clocked machine: its parts, the program that it runs, and how that is written as bits."""
