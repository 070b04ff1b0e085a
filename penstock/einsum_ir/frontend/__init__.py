"""From text or Python operators to a `Cascade`: both ways build equal objects."""
