"""What a check is, and what it found."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check found about a model.

    Fields:
        id: of the check, as in the literature on failed evaluations: G0, BB1, W1, …
        name: the same for people; the flag that tables show when it fired.
        measured: the numbers, by name, the one that is compared first; empty where not asked.
        threshold: what they are compared with, in words.
        fired: whether the check says that something is wrong.
        stop: whether it does, and so that no number from an attack that follows gradients can be
            trusted before it is remedied.
        masked: whether it does, and so that gradients mislead, or that the model answers at random
            or changes.
        sentence: what was found, with its numbers; or why it was not asked.
        remedy: what to do when it fired.
    """

    id: str
    name: str
    measured: Mapping[str, float]
    threshold: str
    fired: bool
    stop: bool
    masked: bool
    sentence: str
    remedy: str

    @property
    def asked(self) -> bool:
        """Whether the check could be made."""
        return bool(self.measured)

    @property
    def verdict(self) -> str:
        """One word: ok, stop, masked, note (it fired, but means less), or not asked."""
        if not self.asked:
            return "not asked"
        if not self.fired:
            return "ok"
        return "stop" if self.stop else "masked" if self.masked else "note"


@dataclass(frozen=True)
class Check:
    """A check: what it is called, what it means when it fires, and what is to be done then.

    `gradient` says that it needs a model that can be differentiated, `repeatable` that it needs one
    that answers the same twice.
    """

    id: str
    name: str
    threshold: str
    remedy: str
    stops: bool = False
    masks: bool = False
    gradient: bool = False
    repeatable: bool = False

    def found(self, fired: bool, measured: Mapping[str, float], sentence: str) -> Finding:
        """Return what the check found; the first number is the one that is compared."""
        return self._finding(measured, fired, sentence)

    def not_asked(self, reason: str) -> Finding:
        """Return that the check could not be made."""
        return self._finding({}, False, f"Not asked: {reason}.")

    def _finding(self, measured: Mapping[str, float], fired: bool, sentence: str) -> Finding:
        return Finding(
            self.id,
            self.name,
            measured,
            self.threshold,
            fired,
            fired and self.stops,
            fired and (self.stops or self.masks),
            sentence,
            self.remedy,
        )
