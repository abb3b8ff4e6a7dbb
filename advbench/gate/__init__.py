"""The gate: whether a model has become less robust than the one that a baseline was made with."""
