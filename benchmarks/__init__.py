"""Speed against named peers: one command each, `python -m benchmarks.NAME`; results lie in `results/`."""
