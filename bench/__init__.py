"""Comparisons of bucketry with a peer registry on this machine: `make bench`, or ``python -m bench --help``."""
