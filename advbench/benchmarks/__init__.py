"""Measurements of advbench itself; `python -m advbench.benchmarks.peers` is the way in."""
