"""Audits: what is stored, checked by a computation that is not the one which stored it.

Reads, and never writes. Imported by the command line alone; its SQL stands beside the function that
uses it.
"""
