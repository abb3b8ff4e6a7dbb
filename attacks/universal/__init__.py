"""Attacks that are first fitted: one change for all images."""
