"""A second opinion on money: commissions, limits and whole histories, computed the plain way.

Written from the published semantics alone and for reading, not for speed: fractions, dates, and
lists that are summed again at every question. Whoever doubts the core asks here; the tests do it
by the hundred thousand, and `oqim audit commissions` over what is stored.

Imports the standard library and itself. Must never import the gateway or its core, and must never
be made to agree with them by copying from them.
"""
