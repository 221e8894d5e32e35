"""Tests of what measures: a check that could not fail would prove every run."""
