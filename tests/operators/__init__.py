"""Operators: logins, roles, four eyes over roles, and who may call what."""
