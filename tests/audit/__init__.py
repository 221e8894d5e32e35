"""The audit log: chains, roots, exports, and what is found in those that were changed."""
