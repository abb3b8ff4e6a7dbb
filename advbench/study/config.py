"""The configuration of a study: strict TOML in, frozen dataclasses out.

    [study]      seeds, baseline, test_samples, shown
    [train]      as in a recipe, without seed
    [optimizer]  as in a recipe
    [data]       name, samples: of the training split
    [normalize]  as in a recipe
    [log]        as in a recipe
    [run]        as in a benchmark
    [[network]]  label, architecture
    [[remedy]]   label, defenses, networks
    [[attack]]   as in a benchmark, without targets, surrogate and from_class

Every network is trained with every remedy from every seed, and all are attacked alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, cast

from advbench.config import AttackEntry, AttackGrid, RunSection, Seeds, accepts
from advbench.defenses.defense import Defense, check_together
from advbench.document import Document, Keys, parse_toml
from advbench.models.architecture import Architecture
from advbench.registry import did_you_mean
from advbench.report.output import file_name
from advbench.schema import INVALID, Reader
from advbench.training.recipe import Data, Log, Normalize, Optimizer, Recipe, Train

_HANDFUL = 6
_SHARED = ("optimizer", "data", "normalize", "log")


class _Unseeded:
    """The [train] of a recipe, but for its seed."""

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        if isinstance(given, dict) and "seed" in given:
            reader.fail((*keys, "seed"), "the seeds of a study are those of study.seeds")
        return reader.table(Train, given, keys)


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """What is compared with what.

    Fields:
        seeds: every network is trained once from each.
        baseline: label of the remedy that all others are compared with.
        test_samples: of the test split, the first ones are attacked; None for all.
        shown: labels of the remedies whose learning is drawn; the first few if none is named.
    """

    seeds: Annotated[tuple[int, ...], Seeds()]
    baseline: str
    test_samples: int | None = None
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.test_samples is not None and self.test_samples < 1:
            raise ValueError(f"test_samples must be at least 1; got {self.test_samples}")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network under a name of its own."""

    label: str
    architecture: Architecture


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Defences that act together, none at all for the undefended network.

    Fields:
        networks: labels of those that are trained with it; None for all.
    """

    label: str
    defenses: tuple[Defense, ...]
    networks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_together(self.defenses)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole study."""

    study: StudySection
    train: Annotated[Train, _Unseeded()]
    data: Data
    network: tuple[Network, ...]
    remedy: tuple[Remedy, ...]
    attack: Annotated[tuple[AttackEntry, ...], AttackGrid()]
    optimizer: Optimizer = Optimizer()
    normalize: Normalize | None = None
    log: Log | None = None
    run: RunSection = RunSection()

    @property
    def shown(self) -> tuple[str, ...]:
        """Labels of the remedies whose learning is drawn."""
        return self.study.shown or tuple(remedy.label for remedy in self.remedy[:_HANDFUL])


@dataclass(frozen=True, eq=False)
class Net:
    """One training of a study: a network with a remedy from a seed.

    `given` is its recipe as a file would have it, and `file` the name of its files without their
    ends.
    """

    network: str
    remedy: str
    seed: int
    recipe: Recipe
    given: dict[str, Any]
    file: str

    @property
    def label(self) -> str:
        """What the table of all cells calls it."""
        return f"{self.network}/{self.remedy}/{self.seed}"


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Study, Document]:
    """Read the configuration of a study; returns it with the document it came from.

    Raises ConfigError with every problem found.
    """
    document = parse_toml(path)
    for assignment in overrides:
        document.override(assignment, accepts)
    reader = Reader(document)
    study = reader.table(Study, document.data, ())
    if study is not INVALID:
        _check(reader, study)
    reader.check()
    return cast(Study, study), document


def nets(study: Study, document: Document) -> Iterator[Net]:
    """Yield every training, in the order of the configuration."""
    shared = {key: document.data[key] for key in _SHARED if key in document.data}
    tables = document.data["network"], document.data["remedy"]
    taken: set[str] = set()
    for (network, drawn), (remedy, chosen) in product(
        zip(study.network, tables[0], strict=True), zip(study.remedy, tables[1], strict=True)
    ):
        if remedy.networks is not None and network.label not in remedy.networks:
            continue
        for seed in study.study.seeds:
            given = {
                "train": {**document.data["train"], "seed": seed},
                "model": drawn["architecture"],
                "defenses": chosen["defenses"],
                **shared,
            }
            recipe = Recipe(
                train=replace(study.train, seed=seed),
                data=study.data,
                model=network.architecture,
                optimizer=study.optimizer,
                normalize=study.normalize,
                defenses=remedy.defenses,
                log=study.log,
            )
            file = file_name((network.label, remedy.label, str(seed)), taken)
            taken.add(file)
            yield Net(network.label, remedy.label, seed, recipe, given, file)


def _check(reader: Reader, study: Study) -> None:
    """Note every label that is missing, taken or of nothing."""
    networks = [network.label for network in study.network]
    remedies = [remedy.label for remedy in study.remedy]
    for kind, labels in (("network", networks), ("remedy", remedies)):
        for index, label in enumerate(labels):
            if label in labels[:index]:
                reader.fail((kind, index, "label"), f"two of them are called '{label}'")
            if not label or "/" in label:
                reader.fail((kind, index, "label"), f"expected a name without '/'; got '{label}'")
    for index, remedy in enumerate(study.remedy):
        for name in remedy.networks or ():
            _known(reader, name, networks, "networks", ("remedy", index, "networks"))
    for name in study.study.shown:
        _known(reader, name, remedies, "remedies", ("study", "shown"))
    baseline = study.study.baseline
    if _known(reader, baseline, remedies, "remedies", ("study", "baseline")):
        only = study.remedy[remedies.index(baseline)].networks
        without = [name for name in networks if only is not None and name not in only]
        if without:
            reader.fail(
                ("study", "baseline"),
                f"'{baseline}' leaves out {', '.join(without)}, which would be compared with "
                "nothing",
            )
    for index, table in enumerate(reader.document.data["attack"]):
        for key in ("targets", "surrogate", "from_class"):
            if key in table:
                reader.fail(
                    ("attack", index, key),
                    f"leave it out: a study attacks every network itself, on all classes; "
                    f"use advbench run for {key}",
                )


def _known(reader: Reader, name: str, known: Sequence[str], kind: str, keys: Keys) -> bool:
    if name not in known:
        near = did_you_mean(name, known)
        reader.fail(keys, f"'{name}' is none of the {kind}.{near} Choices: {', '.join(known)}.")
    return name in known
