"""The clocked machine: programs for it, and what each cycle does."""
