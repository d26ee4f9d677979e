"""The steps of a release: each has ranges of work, may be run again after any crash, and reports to whoever watches."""
