"""What lists, pages and docs/attacks.md tell of an attack is read from its class, and true."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Self, final

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import advbench.attacks
from advbench import attack_facts, registry
from advbench.attack_facts import AttackFacts, accepted, backwards, citation, facts, short
from advbench.attacks import (
    L0,
    L1,
    L2,
    PGD,
    Fittable,
    Linf,
    Loss,
    Margin,
    MinimumEps,
    Perturbation,
)
from advbench.attacks.attack import Adversary, Attack
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule
from advbench.cli import main

ATTACKS = registry.names("attacks")
SETS = {"linf": Linf(), "l2": L2(), "l1": L1(), "l0": L0()}


class Point(NamedTuple):
    p: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Picky(Rule[Point]):
    """Ask twice with a gradient and once without, in L1 and L2 alone."""

    access: ClassVar[Access] = "gradient"
    queries_per_step: ClassVar[int] = 3

    perturbation: Perturbation = L2()
    loss: Loss = Margin()
    steps: int = 1000
    restarts: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.perturbation, L1 | L2):
            raise ValueError(f"Picky: perturbation must be L1() or L2(); got {self.perturbation!r}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(steps=1), cls(steps=2)

    def init(self, problem: Problem) -> Point:
        return Point(self.perturbation.zero(problem.x))

    def step(self, state: Point, query: Query, problem: Problem) -> Point:
        query(state.p, grad=True)
        query(state.p, grad=True)
        query(state.p)
        return state


def test_sets_are_those_that_the_class_can_be_built_with() -> None:
    assert accepted(Picky()) == ("l1", "l2")
    assert set(accepted(PGD())) >= {"linf", "l2", "l1", "l0", "affine", "patch", "flow"}
    assert set(accepted(MinimumEps())) >= {"linf", "l2", "l1", "l0", "affine"}
    assert accepted(MinimumEps(attack=Picky())) == ("l1", "l2")


@pytest.mark.parametrize(
    ("name", "norms", "sets"),
    [("ddn", ("l2",), ()), ("stadv", (), ("flow",)), ("grey_sticker", (), ("patch",))],
)
def test_an_attack_of_one_set_has_that_one(
    name: str, norms: tuple[str, ...], sets: tuple[str, ...]
) -> None:
    found = facts(name)
    assert (found.norms, found.sets) == (norms, sets)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_runs_on_the_norms_it_is_said_to_take(name: str) -> None:
    attack = attack_facts.default(registry.get("attacks", name))
    if isinstance(attack, Fittable):
        return
    weights = torch.arange(48.0).view(3, 16).sin()
    x = torch.linspace(0.1, 0.9, 32).view(2, 1, 4, 4)

    def model(images: Tensor) -> Tensor:
        return images.flatten(1) @ weights.T

    y = model(x).argmax(1)
    for norm in set(accepted(attack)) & set(SETS):
        eps = 3.0 if norm == "l0" else 0.2
        one = attack_facts.inside(attack, SETS[norm])
        outcome = one.run(model, x, y, eps=eps, budget=12)
        assert (SETS[norm].size(x, outcome.p) <= eps * 1.001).all(), norm


def test_passes_are_counted_and_go_on_in_proportion() -> None:
    assert backwards(PGD()) == 40
    assert backwards(PGD(steps=1000, restarts=3)) == 3000
    assert Picky().queries == 2 * 3001
    assert backwards(Picky()) == 2 * 2000
    assert backwards(advbench.attacks.RandomSearch()) == 0
    assert abs(backwards(MinimumEps()) - 12 * 40) <= 1
    assert backwards(advbench.attacks.Worst(attacks=(PGD(steps=3), PGD(steps=500)))) == 503


@pytest.mark.parametrize(
    ("docstring", "cited", "paper"),
    [
        (
            'Do.\n\nSource: Ada, Bo, Cy, "A title.\nIn two", ICLR 2018, arXiv:1706.06083, section '
            "2.1. More, arXiv:9999.99999.",
            'Ada, Bo, Cy, "A title. In two", ICLR 2018, arXiv:1706.06083, section 2.1',
            "arXiv:1706.06083",
        ),
        ('Source: Ada et al., "T: u", 2019.', 'Ada et al., "T: u", 2019', "Ada et al. 2019"),
        ('Source: Ada, Bo, "In 1999", X, 2008; its arXiv:1604.00772', None, "Ada, Bo 2008"),
        ('Source: Ada, Bo and Cy, "T", Journal 24, 1963.', None, "Ada et al. 1963"),
        ('Source of the measure: Ada, "T", 2019, arXiv:1902.06705.', None, "arXiv:1902.06705"),
        ("As in Ada, arXiv:1706.06083.", "", ""),
        ("", "", ""),
    ],
)
def test_the_paper_is_the_first_source(docstring: str, cited: str | None, paper: str) -> None:
    found = citation(docstring)
    assert cited is None or found == cited
    assert short(found) == paper


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_has_its_facts(name: str) -> None:
    cls = registry.get("attacks", name)
    assert issubclass(cls, Adversary)
    found = facts(name)
    assert found.summary.endswith(".")
    assert found.norms or found.sets
    assert found.access == cls.access
    assert (found.queries is None) == (found.images is not None) == issubclass(cls, Fittable)
    if issubclass(cls, Attack):
        assert found.family == ("minimum norm" if cls.finds == "smallest" else found.family)
        assert (found.backwards > 0) == (found.access == "gradient")  # type: ignore[operator]
    if "arXiv" in (cls.__doc__ or "") and "Source:" in (cls.__doc__ or ""):
        assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}|\D+(19|20)\d\d", found.paper)


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["list", "attacks", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_list_is_a_table_with_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = listed(capsys)
    assert (code, err) == (0, "")
    heading, *lines = out.splitlines()
    assert heading.split() == ["name", "norms", "access", "kind", "queries", "backwards", "paper"]
    assert [line.split()[0] for line in lines] == ATTACKS
    for title in ("norms", "access", "kind", "paper"):
        place = heading.index(title)
        assert all(line[place - 2 : place] == "  " != line[place] for line in lines)
    (pgd,) = (line for line in lines if line.startswith("pgd "))
    words = "pgd linf l2 l1 l0 +sets gradient fixed budget 41 40 arXiv:1706.06083"
    assert pgd.split() == words.split()
    kinds = {facts(name).family for name in ATTACKS}
    assert kinds == {"fixed budget", "minimum norm", "universal", "ensemble"}


def test_the_list_as_json_has_all_facts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = listed(capsys, "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)["attacks"]}
    assert code == 0
    assert list(entries) == ATTACKS
    assert entries["pgd"]["norms"] == ["linf", "l2", "l1", "l0"]
    assert entries["pgd"]["value"] == "advbench.attacks.gradient.pgd:PGD"
    assert entries["sticker"]["images"] == 1000
    for field in AttackFacts.__dataclass_fields__:
        assert all(field in entry for entry in entries.values())


def test_an_attack_that_cannot_be_imported_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry.get

    def broken(kind: str, name: str) -> type:
        if name == "bim":
            raise ImportError("the attack 'bim' cannot be imported")
        return real(kind, name)

    monkeypatch.setattr(registry, "get", broken)
    code, out, err = listed(capsys)
    assert code == 2
    assert err == "the attack 'bim' cannot be imported\n"
    assert [line.split()[0] for line in out.splitlines()[1:]] == [n for n in ATTACKS if n != "bim"]


def test_the_page_of_an_attack_has_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "pgd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "kind: fixed budget" in lines
    assert "norms: linf l2 l1 l0" in lines
    assert "cost: at most 41 queries and 40 backward passes a sample, of ten classes" in lines
    assert any(line.startswith("paper: Madry, ") and "1706.06083" in line for line in lines)
    assert "  steps = 40  (int)" in lines
    assert main(["show", "sticker"]) == 0
    assert "cost: fitted to 1000 training images\n" in capsys.readouterr().out


def test_the_page_of_docs_is_up_to_date(repository: Path) -> None:
    page = (repository / "docs/attacks.md").read_text(encoding="utf-8")
    assert attack_facts.document(page, attack_facts.ours()) == page, "run make docs"
    assert "(docs/attacks.md)" in (repository / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_a_page_are_written_anew(tmp_path: Path) -> None:
    one = facts("pgd")
    page = "before\n<!-- written by make docs -->\nold\n<!-- up to here -->\nafter\n"
    new = attack_facts.document(page, [one, facts("grey_sticker")])
    assert "old" not in new
    assert new.startswith("before\n<!--")
    assert new.endswith("<!-- up to here -->\nafter\n")
    assert attack_facts.document(new, [one, facts("grey_sticker")]) == new
    assert "| 41 | 40 | [1706.06083](https://arxiv.org/abs/1706.06083) |" in new
    assert new.count("###") == 2
    with pytest.raises(ValueError, match="no line '<!-- written by make docs -->'"):
        attack_facts.document("nothing", [one])
    bare = tmp_path / "page.md"
    bare.write_text(page, encoding="utf-8")
    assert CliRunner().invoke(attack_facts.main, [str(bare)]).exit_code == 0
    written = bare.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in written for name in ATTACKS if "advbench" in of(name))


def of(name: str) -> str:
    return registry.describe("attacks", name).distribution


def test_names_from_elsewhere_lead_to_something(repository: Path) -> None:
    page = (repository / "docs/attacks.md").read_text(encoding="utf-8")
    table = page.partition("## Names you may look for")[2]
    rows = re.findall(r"^\| (?!name |---)([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
    assert len(rows) >= 25
    for name, here in rows:
        pieces = re.findall(r"`([^`]+)`", here)
        assert pieces, name
        for piece in pieces:
            value = eval(piece, dict(vars(advbench.attacks)))
            assert isinstance(value, Adversary | advbench.attacks.EOT | type), piece
