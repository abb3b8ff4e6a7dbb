"""Defences that are known to be broken, to show what that looks like."""
