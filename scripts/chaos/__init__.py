"""Kills, flushes, restarts and provider faults against the whole product: `make chaos`.

Real processes, real clients, a provider that keeps its own ledger. What must hold is in `verdict`.
"""
