"""The rules of money, decided by the core's engine and by the oracle, which must always agree."""
