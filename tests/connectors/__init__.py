"""Tests of the connectors, their transports and the ISO 8583 codec."""
