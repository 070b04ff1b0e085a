"""The cost model: what a mapping takes, counted from its loops."""
