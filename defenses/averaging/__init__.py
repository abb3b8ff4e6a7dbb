"""Many sets of weights, or many networks, made into one."""
