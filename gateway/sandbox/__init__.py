"""The sandbox: embedded PostgreSQL and Valkey, supervised children, and what the person sees of it.

Everything runs in one data directory. Production code never imports this room.
"""
