"""The registry: names, suggestions, and errors that name the plugin and its owner."""

import dataclasses
import inspect
from importlib.metadata import EntryPoint

import pytest

from advbench import registry


class _Owner:
    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1.0"


class _Point:
    """Stands in for an entry point of some distribution."""

    def __init__(self, name: str, value: str, owner: str) -> None:
        self.name, self.value, self.dist = name, value, _Owner(owner)


@pytest.fixture
def installed(monkeypatch):
    """Replace what is installed by the points given."""

    def install(*points):
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        registry._plugins.cache_clear()
        registry.get.cache_clear()

    yield install
    monkeypatch.undo()
    registry._plugins.cache_clear()
    registry.get.cache_clear()


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_name_loads_and_is_found_again(kind):
    assert registry.names(kind)
    for name in registry.names(kind):
        cls = registry.get(kind, name)
        assert dataclasses.is_dataclass(cls)
        assert registry.name_of(cls) == name
        assert inspect.getdoc(cls)


def test_unknown_names_get_a_suggestion_and_the_choices():
    with pytest.raises(ValueError, match=r"no attack named 'pgb'. Did you mean 'pgd'\? Choices: "):
        registry.get("attacks", "pgb")
    with pytest.raises(ValueError, match=r"no loss named 'x'"):
        registry.get("losses", "x")
    with pytest.raises(ValueError, match=r"no kind 'attack'. Did you mean 'attacks'"):
        registry.names("attack")


def test_two_owners_of_a_name_are_both_named(installed):
    installed(_Point("pgd", "a:PGD", "first"), _Point("pgd", "b:PGD", "second"))
    with pytest.raises(ValueError, match=r"'pgd' is claimed by first 1.0 .* and second 1.0"):
        registry.get("attacks", "pgd")
    assert registry.names("attacks") == ["pgd"]


def test_one_owner_found_twice_on_the_path_is_one(installed):
    twice = _Point("pgd", "collections:OrderedDict", "ours")
    installed(twice, twice)
    assert registry.get("attacks", "pgd").__name__ == "OrderedDict"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:X", "ModuleNotFoundError"),
        ("collections:Missing", "AttributeError"),
        ("math:pi", "is not a class"),
    ],
)
def test_a_plugin_that_does_not_load_is_named_with_its_distribution(installed, value, reason):
    installed(_Point("theirs", value, "their-package"))
    with pytest.raises(ImportError, match=r"'theirs' \(.*\) of their-package 1.0 .*" + reason):
        registry.get("attacks", "theirs")


def test_a_class_without_a_name_is_called_by_its_address():
    assert registry.name_of(EntryPoint) == "importlib.metadata:EntryPoint"


def test_a_class_behind_another_name_is_found(installed):
    installed(_Point("ordered", "typing:OrderedDict", "x"), _Point("od", "os:abc.ABC", "x"))
    import abc

    assert registry.name_of(abc.ABC) == "od"


def test_describing_imports_nothing(installed):
    installed(_Point("theirs", "no_such_module:X", "their-package"))
    plugin = registry.describe("attacks", "theirs")
    assert (plugin.module, plugin.attribute) == ("no_such_module", "X")
    assert (plugin.distribution, plugin.version) == ("their-package", "1.0")
