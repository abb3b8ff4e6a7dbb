"""What may be wrong with the record of a sample, as one bit each."""

from enum import IntFlag


class Flag(IntFlag):
    """Warnings that travel with a sample; several may hold at once."""

    NONE = 0
    ZERO_GRADIENT = 1  # a gradient query returned zero in every coordinate
    NON_FINITE = 2  # a loss, logit or gradient was NaN or infinite
    OUT_OF_BUDGET = 4  # the search ended because the queries ran out
    PROBABILITIES = 8  # the victim returns probabilities where logits are expected
    MASKED_GRADIENT = 16  # a search from a larger ball got much further: gradients mislead
