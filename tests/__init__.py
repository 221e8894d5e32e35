"""The tests: `tests/<room>/test_<module>.py`; servers come from `services`."""
