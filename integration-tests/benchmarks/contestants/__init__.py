"""One module a contestant, run as ``python -m benchmarks.contestants.NAME JSON`` by `benchmarks.bench`."""
