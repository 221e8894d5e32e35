"""Faults on purpose, at every step of a payment, and what must hold after each of them."""
