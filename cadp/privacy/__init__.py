"""The privacy core: exact noise, clips on a lattice, local mechanisms, accounting and the privacy statement.

Pure numpy and integers; it knows no storage, no model and no ledger.
"""
