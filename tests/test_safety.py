"""House rules of what touches the world: files, weights, networks, clocks, processes, chance.

Every rule is a function from source text to complaints, so that each also meets a planted fault.
"""

import ast
from collections.abc import Callable
from functools import cache

import pytest

from tests.test_layout import PACKAGE, sources

Rule = Callable[[str], list[str]]

OTHER_WRITERS = {
    ("files.py", "open"): "the one place that writes",
    ("files.py", "os.replace"): "the one place that writes",
    ("files.py", "tempfile.TemporaryFile"): "asks whether a folder can be written to",
    ("bench/store.py", "os.open"): "the lock, which holds no result",
    ("console.py", "os.open"): "where output goes that nobody reads",
    ("gate/output.py", "?.open"): "adds to the page that a CI system keeps for all its steps",
}
"""Calls outside of ``write_atomic`` that may write, and why."""
_WRITERS = {
    *("write_text", "write_bytes", "savefig", "imsave", "tofile", "save_file", "touch"),
    *("save", "savez", "savez_compressed", "savetxt", "dump", "copy2", "copyfile", "move"),
    *("to_csv", "to_json", "to_pickle", "to_parquet", "to_feather", "to_excel", "to_hdf"),
    *("TemporaryFile", "NamedTemporaryFile", "mkstemp", "symlink_to", "hardlink_to"),
}
_OURS = ("store.save", "Store.save", "table.to_csv")
_READ_ONLY = {"os.O_RDONLY", "os.O_PATH", "os.O_DIRECTORY", "os.O_CLOEXEC"}
_WITH_OPEN = ("", "io", "gzip", "bz2", "lzma", "codecs")


@cache
def calls(source: str) -> tuple[tuple[ast.Call, str], ...]:
    """Every call with the dotted name of what is called."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return tuple((node, dotted(node.func)) for node in found)


def dotted(node: ast.expr) -> str:
    """The name of a function, as in ``os.open``; what is no name in it is a question mark."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((one.value for one in call.keywords if one.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@cache
def buffers(source: str) -> frozenset[str]:
    """Names that stand for memory: what is written to them is no file."""
    return frozenset(
        dotted(target)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if dotted(node.value.func) in ("io.BytesIO", "io.StringIO") and not node.value.args
    )


def writers(source: str) -> list[str]:
    """Names of calls that write to a file, or that may."""
    found = []
    for call, name in calls(source):
        origin, _, last = name.rpartition(".")
        if origin == "os":
            moves = last in ("replace", "rename", "link", "symlink", "truncate")
            found += [name] * (moves or (last == "open" and _may_write(call.args[1])))
        elif last == "open":
            place = 1 if origin in _WITH_OPEN else 0
            modes = [keyword(call, "mode"), *call.args[place : place + 1]]
            found += [name] * any(_is_for_writing(mode) for mode in modes)
        elif last in _WRITERS and origin and name not in _OURS:
            given = {dotted(one) for one in call.args}
            found += [name] * (not buffers(source) & given)
    return found


def _may_write(flags: ast.expr) -> bool:
    return not {part.strip() for part in ast.unparse(flags).split("|")} <= _READ_ONLY


def _is_for_writing(mode: ast.expr | None) -> bool:
    known = isinstance(mode, ast.Constant)
    return mode is not None and not (known and not set("wax+") & set(str(mode.value)))  # type: ignore[attr-defined]


def unsafe_loads(source: str) -> list[str]:
    """Whatever would run or trust what a file says."""
    found = []
    for call, name in calls(source):
        if name == "torch.load":
            safe = is_constant(keyword(call, "weights_only"), True)
            here = is_constant_text(keyword(call, "map_location"), "cpu")
            found += [f"line {call.lineno}: {name}"] * (not (safe and here))
        elif name in ("np.load", "numpy.load"):
            safe = is_constant(keyword(call, "allow_pickle"), False)
            found += [f"line {call.lineno}: {name}"] * (not safe)
        elif name.endswith("load_state_dict"):
            strict = keyword(call, "strict")
            loose = strict is not None and not is_constant(strict, True)
            found += [f"line {call.lineno}: {name}"] * (loose or len(call.args) > 1)
        elif name in ("pickle.load", "pickle.loads", "yaml.load", "eval", "exec"):
            found.append(f"line {call.lineno}: {name}")
    return found


def is_constant_text(node: ast.expr | None, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text


def network(source: str) -> list[str]:
    """Whatever fetches from elsewhere, and would hang where there is no network."""
    banned = ("urllib", "requests", "http", "ftplib", "huggingface_hub", "torch.hub")
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [n for n in names if any(f"{n}.".startswith(f"{one}.") for one in banned)]
    for call, name in calls(source):
        download = keyword(call, "download")
        if download is not None and not is_constant(download, False):
            found.append(f"line {call.lineno}: {name} downloads")
        if name.startswith("torch.hub.") or name.endswith("load_state_dict_from_url"):
            found.append(f"line {call.lineno}: {name}")
    return found


def clocks(source: str) -> list[str]:
    """Clocks that can be set back: durations are those of a monotonic one."""
    wall = ("time.time", "time.time_ns", "time.clock")
    return [f"line {one.lineno}: {name}" for one, name in calls(source) if name in wall]


def forks(source: str) -> list[str]:
    """Processes that are not spawned: a fork has the threads, locks and CUDA state of nobody."""
    found = []
    for call, name in calls(source):
        last = name.rpartition(".")[2]
        if last == "fork" and name.startswith("os."):
            found.append(f"line {call.lineno}: {name}")
        elif last == "get_context":
            spawns = bool(call.args) and is_constant_text(call.args[0], "spawn")
            found += [f"line {call.lineno}: {name}"] * (not spawns)
        elif name in ("multiprocessing.Process", "multiprocessing.Pool"):
            found.append(f"line {call.lineno}: {name}")
        elif last == "ProcessPoolExecutor":
            given = len(call.args) > 1 or keyword(call, "mp_context") is not None
            found += [f"line {call.lineno}: {name} without a context"] * (not given)
    return found


_HARMLESS = {"default_rng", "Generator", "Random"}  # generators of one's own
_HARMLESS |= {"get_state", "getstate", "set_state", "setstate"}  # to put things back


def global_chance(source: str) -> list[str]:
    """Uses of the random states of NumPy and Python, and reseeding of torch's."""
    found = []
    for call, name in calls(source):
        origin, _, last = name.rpartition(".")
        shared = origin in ("random", "np.random", "numpy.random")
        if (shared and last not in _HARMLESS) or name in ("torch.manual_seed", "torch.seed"):
            found.append(f"line {call.lineno}: {name}")
    return found


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """Every file of the package by its path in it."""
    return {
        file.relative_to(PACKAGE).as_posix(): file.read_text(encoding="utf-8") for file in sources()
    }


def complaints(rule: Rule, files: dict[str, str]) -> list[str]:
    return [f"{name}: {one}" for name, text in files.items() for one in rule(text)]


def test_f1_all_that_is_written_goes_through_one_module(files: dict[str, str]) -> None:
    found = {(name, one) for name, text in files.items() for one in writers(text)}
    assert found <= set(OTHER_WRITERS), "write with advbench.files.write_atomic"
    assert found == set(OTHER_WRITERS), "an exception that is none any more"


def test_s2_nothing_in_a_file_is_run_or_trusted(files: dict[str, str]) -> None:
    """S2, F5, F6: No pickle, no half-filled model, no weights put where they were saved."""
    # The contract of a plugin asks for its own repr and pickle back.
    assert complaints(unsafe_loads, files) == [
        f"testing/interface.py: line {line}: {name}"
        for line, name in (
            (_line(files, "eval(repr(one)"), "eval"),
            (_line(files, "pickle.loads(pickle.dumps(one))"), "pickle.loads"),
        )
    ]


def _line(files: dict[str, str], text: str) -> int:
    return files["testing/interface.py"].split(text)[0].count("\n") + 1


def test_f7_nothing_is_fetched(files: dict[str, str]) -> None:
    assert complaints(network, files) == []


def test_x4_durations_are_measured_on_a_monotonic_clock(files: dict[str, str]) -> None:
    assert complaints(clocks, files) == []


def test_x3_processes_are_spawned(files: dict[str, str]) -> None:
    assert complaints(forks, files) == []


def test_n9_no_random_state_of_all_is_used(files: dict[str, str]) -> None:
    others = ("benchmarks/minimal.py", "benchmarks/sticker_contestants.py")
    ours = {name: text for name, text in files.items() if name not in others}
    assert len(ours) == len(files) - len(others)
    assert complaints(global_chance, ours) == []
    for name in others:  # they seed the attacks of other libraries, and put the states back
        assert "fork_rng" in files[name]


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (writers, "open(path, 'w')"),
        (writers, "open(path, mode=mode)"),
        (writers, "path.open('wb')"),
        (writers, "(folder / name).open('a')"),
        (writers, "(folder / name).write_text(page)"),
        (writers, "figure.savefig(path)"),
        (writers, "table.frame.to_csv(path)"),
        (writers, "torch.save(state, path)"),
        (writers, "np.savez(path, x=x)"),
        (writers, "json.dump(value, file)"),
        (writers, "os.open(path, os.O_RDWR | os.O_CREAT)"),
        (writers, "os.replace(one, other)"),
        (unsafe_loads, "torch.load(path)"),
        (unsafe_loads, "torch.load(path, map_location='cpu', weights_only=False)"),
        (unsafe_loads, "torch.load(path, map_location='cpu', weights_only=safe)"),
        (unsafe_loads, "torch.load(path, weights_only=True)"),
        (unsafe_loads, "np.load(path)"),
        (unsafe_loads, "np.load(path, allow_pickle=True)"),
        (unsafe_loads, "model.load_state_dict(state, strict=False)"),
        (unsafe_loads, "model.load_state_dict(state, False)"),
        (unsafe_loads, "pickle.load(file)"),
        (unsafe_loads, "yaml.load(file)"),
        (unsafe_loads, "eval(text)"),
        (network, "import urllib.request"),
        (network, "from huggingface_hub import hf_hub_download"),
        (network, "from torch import hub"),
        (network, "datasets.MNIST(root, download=True)"),
        (network, "torch.hub.load(name)"),
        (clocks, "started = time.time()"),
        (forks, "multiprocessing.get_context('fork')"),
        (forks, "multiprocessing.get_context()"),
        (forks, "ProcessPoolExecutor(jobs)"),
        (forks, "multiprocessing.Process(target=go)"),
        (forks, "os.fork()"),
        (global_chance, "torch.manual_seed(0)"),
        (global_chance, "np.random.seed(0)"),
        (global_chance, "random.shuffle(order)"),
    ],
)
def test_planted_faults_are_seen(rule: Rule, fault: str) -> None:
    assert rule(f"def f():\n    {fault}\n")


def test_honest_lines_pass() -> None:
    text = """
with open(path) as one, path.open("rb") as other, gzip.open(path) as third:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    torch.save(state, buffer)
    store.save(record, rows)
    folder = os.open(path, os.O_RDONLY)
    name.replace("a", "b")
    torch.load(buffer, map_location="cpu", weights_only=True)
    np.load(buffer, allow_pickle=False)
    model.load_state_dict(state, strict=True)
    datasets.MNIST(root, download=False)
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    ProcessPoolExecutor(jobs, context)
    np.random.default_rng(0).random()
    random.Random(0).random()
    torch.default_generator.manual_seed(0)
"""
    rules = (writers, unsafe_loads, network, clocks, forks, global_chance)
    assert [one for rule in rules for one in rule(text)] == []
