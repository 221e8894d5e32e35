"""The composition root: it alone knows everything, and builds every object once."""
