"""What can be named in a configuration: a line from its source, or a page on what it is."""

import ast
import dataclasses
import inspect
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from advbench import registry
from advbench.registry import Plugin
from advbench.schema import plain

_FACTS = ("access", "finds", "version", "adaptive", "broken", "random")
"""Class variables that say what a plugin is."""


def first_line(plugin: Plugin) -> str:
    """Return the first line of a plugin's docstring, read without importing it."""
    source = _source(plugin.module)
    try:
        tree: ast.AST = ast.parse(source.read_bytes()) if source else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return ""
    for name in plugin.attribute.split("."):
        inner = getattr(tree, "body", [])
        found = [n for n in inner if isinstance(n, ast.ClassDef) and n.name == name]
        if not found:
            return ""
        tree = found[0]
    text = ast.get_docstring(tree) if isinstance(tree, ast.ClassDef) else None
    return (text or "").partition("\n")[0]


def page(kind: str, name: str) -> str:
    """Return everything known of one plugin; imports it.

    Raises ValueError or ImportError as `registry.get` does.
    """
    plugin = registry.describe(kind, name)
    cls = registry.get(kind, name)
    lines = [
        f"{name} ({kind})",
        f"{plugin.value}, {plugin.distribution} {plugin.version}",
        "",
        inspect.getdoc(cls) or "",
        "",
    ]
    facts = {fact: getattr(cls, fact) for fact in _FACTS if fact in dir(cls)}
    if kind == "attacks":
        from advbench.attack_facts import told

        facts |= told(name)
    lines += [f"{fact}: {value}" for fact, value in facts.items() if value not in ("", False)]
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    lines += ["", "fields:"] if fields else []
    for field in fields:
        default = field.default
        kept = "required" if default is dataclasses.MISSING else _toml(plain(default))
        lines.append(f"  {field.name} = {kept}  ({_type(field.type)})")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Return a default as a configuration would give it."""
    if value is None:
        return "(not given)"
    if isinstance(value, dict):
        rest = {key: v for key, v in value.items() if key not in ("name", "version")}
        inner = [f"{key} = {_toml(v)}" for key, v in rest.items() if v is not None]
        if "name" not in value:
            return f"{{{', '.join(inner)}}}"
        name = json.dumps(value["name"])
        return f"{{{', '.join([f'name = {name}', *inner])}}}" if inner else name
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"[\w.]+\.(\w+)", r"\1", text)


def _source(module: str) -> Path | None:
    """File of a module; only packages above it that are imported already are touched."""
    top, *inner = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *inner)
        for candidate in (place.with_suffix(".py"), place / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None
