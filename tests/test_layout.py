"""The house rules that a reader of one file cannot see: direction of imports, words, registration.

Every rule is a function from source text to complaints, so that each also meets a planted fault.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from advbench import registry
from advbench.testing import interface

PACKAGE = Path(__file__).parents[1] / "advbench"
ALLOWED = {
    "attacks": ("torch", "advbench.attacks"),
    "defenses": ("torch", "torchvision", "advbench.attacks", "advbench.defenses"),
}
# Parameters of functions may have names that fields of a plugin may not.
FOREIGN_WORDS = {
    word: house
    for word, house in interface.FOREIGN_WORDS.items()
    if word not in ("criterion", "norm", "p", "target")
}


def sources(room: str = "") -> list[Path]:
    """Every Python file of a room, links included."""
    rooms = [PACKAGE / room] if room else [PACKAGE, PACKAGE / "attacks", PACKAGE / "defenses"]
    return sorted({file for folder in rooms for file in folder.rglob("*.py")})


def module_name(file: Path) -> str:
    parts = ("advbench", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that is imported at any depth; a relative one begins with a dot.

    `from a import b` is given as a.b: b may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def wrong_imports(source: str, allowed: tuple[str, ...]) -> list[str]:
    """Imports of anything but the standard library and `allowed`, and all relative ones."""
    return [
        f"line {line}: {name}"
        for line, name in imports(ast.parse(source))
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(f"{name}.".startswith(f"{start}.") for start in allowed)
    ]


def second_copies(source: str) -> list[str]:
    """Imports by the folders' own names, which would load every class a second time."""
    tops = ("attacks", "defenses")
    return [n for _, n in imports(ast.parse(source)) if n.partition(".")[0] in tops]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a graph of imports, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def import_graph(files: dict[str, str], depth: int) -> dict[str, set[str]]:
    """Who imports whom among `files` (name to source), names cut to `depth` parts."""

    def cut(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    def target(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    graph: dict[str, set[str]] = {}
    for name, source in files.items():
        found = {target(imported) for _, imported in imports(ast.parse(source))}
        below = {cut(other) for other in found if other in files and other != "advbench"}
        graph.setdefault(cut(name), set()).update(below - {cut(name)})
    return graph


def fields_and_parameters(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of dataclass fields and of parameters of public functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    yield statement.lineno, statement.target.id
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = node.args
            for given in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                yield given.lineno, given.arg


def foreign_words(source: str) -> list[str]:
    """Hyper-parameters and arguments that the glossary spells otherwise."""
    return [
        f"line {line}: '{name}' is called '{FOREIGN_WORDS[name]}' here"
        for line, name in fields_and_parameters(ast.parse(source))
        if name in FOREIGN_WORDS
    ]


def hidden_interfaces(source: str) -> list[str]:
    """Uses of **kwargs and hasattr."""
    return [
        f"line {node.lineno}"
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.FunctionDef) and node.args.kwarg)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr")
    ]


def unregistered(files: dict[str, str], registered: set[str]) -> list[str]:
    """Final plugin classes (module:Class) without an entry point, and entry points without one."""
    classes = {
        f"{name}:{node.name}": node
        for name, source in files.items()
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }
    plugins, known = set[str](), 0
    family = {"Attack", "Fittable", "Perturbation", "Rotation", "Mask", "Penalty", "Loss", "View"}
    family |= {"Defense", "Architecture", "Dataset"}
    while known != len(family):
        known = len(family)
        for name, node in classes.items():
            if family & {ast.unparse(base).partition("[")[0] for base in node.bases}:
                family.add(node.name)
                if "final" in map(ast.unparse, node.decorator_list):
                    plugins.add(name)
    return sorted(plugins ^ registered)


@pytest.fixture(scope="module")
def entry_points(repository: Path) -> set[str]:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    groups = tomllib.loads(text)["project"]["entry-points"]
    assert {group.removeprefix("advbench.") for group in groups} >= set(registry.KINDS)
    return {value for part in registry.KINDS for value in groups[f"advbench.{part}"].values()}


@pytest.mark.parametrize("room", ALLOWED)
def test_lower_floors_import_only_what_lies_below(room: str) -> None:
    files = sources(room)
    assert files
    for file in files:
        assert not wrong_imports(file.read_text(encoding="utf-8"), ALLOWED[room]), file


@pytest.mark.parametrize(
    "line",
    [
        "import numpy",
        "import torchvision",
        "from advbench import registry",
        "from advbench.bench import plan",
        "import advbench",
        "from .search import search",
        "def f():\n    import pandas as pd",
        "import advbench.attacks_elsewhere",
    ],
)
def test_planted_wrong_import_is_seen(line: str) -> None:
    assert wrong_imports(f"import math\nimport torch.nn\n{line}\n", ALLOWED["attacks"])


def test_allowed_imports_pass() -> None:
    text = "import math\nfrom torch import nn\nfrom advbench.attacks.search import search\n"
    assert not wrong_imports(text, ALLOWED["attacks"])
    assert wrong_imports("from advbench.defenses import defense\n", ALLOWED["attacks"])


@pytest.mark.parametrize("depth", [2, 9], ids=["rooms", "modules"])
def test_no_module_reaches_back_up(depth: int) -> None:
    files = {module_name(file): file.read_text(encoding="utf-8") for file in sources()}
    assert not cycle(import_graph(files, depth))


def test_planted_cycle_is_seen() -> None:
    files = {
        "advbench": "",
        "advbench.cli": "def run():\n    from advbench.bench import plan",
        "advbench.bench": "",
        "advbench.bench.plan": "from advbench.bench.run import go",
        "advbench.bench.run": "",
    }
    assert not cycle(import_graph(files, 2))
    assert not cycle(import_graph(files, 9))
    up = {**files, "advbench.bench.run": "from advbench.cli import run"}
    assert cycle(import_graph(up, 2))
    back = {**files, "advbench.bench.run": "import advbench.bench.plan"}
    assert not cycle(import_graph(back, 2))
    assert cycle(import_graph(back, 9))


def test_nothing_imports_a_second_copy(repository: Path) -> None:
    for file in (*sources(), *(repository / "tests").rglob("*.py")):
        assert not second_copies(file.read_text(encoding="utf-8")), file
    assert second_copies("import attacks.search")
    assert second_copies("from defenses import defense")
    assert not second_copies("from advbench import attacks")


@pytest.mark.parametrize("room", ALLOWED)
def test_one_spelling_per_concept(room: str) -> None:
    for file in sources(room):
        assert not foreign_words(file.read_text(encoding="utf-8")), file


def test_planted_words_are_seen() -> None:
    assert foreign_words("class A:\n    n_iter: int = 3")
    assert foreign_words("def project(p, radius): ...")
    assert foreign_words("def project(p, *, epsilon=0.1): ...")
    assert not foreign_words("class A:\n    steps: int = 3\n\ndef _draw(alpha): ...")


def test_nothing_hides_its_interface() -> None:
    for file in sources():
        assert not hidden_interfaces(file.read_text(encoding="utf-8")), file
    assert hidden_interfaces("def f(**kwargs): ...")
    assert hidden_interfaces("hasattr(model, 'eval')")
    assert not hidden_interfaces("f(**settings)")


def test_every_plugin_is_registered(entry_points: set[str]) -> None:
    files = {module_name(file): file.read_text(encoding="utf-8") for file in sources()}
    assert not unregistered(files, entry_points)


def test_planted_registration_faults_are_seen() -> None:
    text = "@final\n@dataclass(frozen=True)\nclass Sly(Attack): ..."
    assert unregistered({"advbench.attacks.sly": text}, set()) == ["advbench.attacks.sly:Sly"]
    distant = {
        "advbench.b": "@final\nclass Sly(Rule): ...",
        "advbench.c": "class Rule(Attack): ...",
    }
    assert unregistered(distant, set()) == ["advbench.b:Sly"]
    assert unregistered({}, {"advbench.attacks.gone:Gone"})
    assert not unregistered({"advbench.attacks.sly": text}, {"advbench.attacks.sly:Sly"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "first", "banned"),
    [
        (
            "import advbench, advbench.cli, advbench.config, advbench.registry",
            "sys",
            "torch torchvision numpy pandas",
        ),
        ("import advbench.attacks", "torch", "torchvision pandas click tqdm"),
    ],
    ids=["package", "attacks"],
)
def test_import_stays_light(statement: str, first: str, banned: str, tmp_path: Path) -> None:
    probe = f"import sys, {first}; before = set(sys.modules); {statement}; "
    probe += f"print(sorted(set({banned.split()}) & (set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
