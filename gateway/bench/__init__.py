"""The benchmark: what a payment, a decision and a message cost, against peers in the same run.

Everything it measures runs on this machine. It needs the repository's `loadtests/` folder; imported
by the command line alone.
"""
