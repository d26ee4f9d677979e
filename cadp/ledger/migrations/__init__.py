"""Alembic's scripts for the ledger's schema; run by `cadp.ledger.migrate` alone."""
