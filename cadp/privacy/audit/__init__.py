"""The audit: does the code that runs lose more than what is charged? Three layers (exact, black box, one run).

It runs on synthetic records only and needs no storage and no network: whoever has them passes the real code path in.
A pass is never a proof: it reads "not refuted at N trials".
"""
