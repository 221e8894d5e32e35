"""Shared transports of the connectors: pooled HTTP and ISO 8583 over TCP.

A transport carries bytes and says honestly whether any may have left. It knows no processor, no
status code and no money.
"""
