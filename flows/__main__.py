"""`python -m flows`: releases as Prefect flows on a server of this machine."""

from flows.cli import main

if __name__ == "__main__":
    main()
