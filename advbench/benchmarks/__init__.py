"""Measurements of advbench itself; `peers` and `stickers` are run with `python -m`."""
