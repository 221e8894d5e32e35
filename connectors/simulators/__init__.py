"""The other side of each protocol: UZCARD, HUMO and VISA processors with ledgers of their own.

One process (`python -m connectors.simulators`) that answers as the processors do, from the protocol
alone. It imports nothing of the platform, so that a mistake of ours cannot be made twice; what it
holds to have happened is readable at `GET /_sim/ledger`, and the platform is judged by it.
"""
