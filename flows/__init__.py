"""The release as Prefect flows: parameters in, one call of `cadp`, artifacts out.

Prefect's database is for people to look at; the ledger's seals are the truth about progress.
"""
