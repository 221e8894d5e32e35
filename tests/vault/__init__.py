"""Data keys, shares, rotation, and card numbers that are nowhere else."""
