"""The library of defences: one technique, one file."""
