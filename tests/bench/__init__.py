"""Tests of the benchmark: its rows, its peers, its pages."""
