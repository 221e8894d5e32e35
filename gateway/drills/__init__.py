"""Drills: one kind of trouble under load, and whether everything holds.

A drill judges, and mends nothing. It needs the repository's `loadtests/` folder; imported by the
command line alone.
"""
