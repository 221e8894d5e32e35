"""Payments through the public door: what the API says against what the processors hold."""
