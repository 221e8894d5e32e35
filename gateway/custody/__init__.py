"""Custody of keys: changing data keys and key-encryption keys while payments run."""
