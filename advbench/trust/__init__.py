"""How far a number can be trusted: statistics, diagnosis, certificates."""
