"""What the benchmark and the drills stand on: a seeded sandbox, generators, meters, books, a relay.

A run that breaks the books has no speed. Rows are the benchmark's and trouble the drills':
this room knows neither. It drives the gateway from outside, by its sockets, its database and /proc.
"""
