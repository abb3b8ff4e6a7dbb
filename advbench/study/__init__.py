"""Train networks with every remedy over several seeds, attack them all and compare."""
