"""What is shipped: the same files as in git, under one name, and a broken checkout that says so."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
LINKS = ("attacks", "defenses")


def call(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command in `cwd`, with nothing but `path` put before the installed packages."""
    environment = {**os.environ, "PYTHONPATH": str(path) if path else ""}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[str]:
    """What the next commit of everything would hold."""
    if not (repository / ".git").exists():
        pytest.skip("needs a git checkout: the archives are compared with what git tracks")
    asked = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    found = sorted({name for name in call(*asked, cwd=repository).split("\0") if name})
    return [name for name in found if os.path.lexists(repository / name)]


@pytest.fixture(scope="module")
def checkout(
    repository: Path, tracked: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A clean copy of the tracked files with the links as they are, and ignored rubbish in it."""
    root = tmp_path_factory.mktemp("checkout") / "advbench"
    for name in tracked:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, root / name, follow_symlinks=False)
    call("git", "init", "--quiet", cwd=root)
    for ignored in ("attacks/build/run.log", "attacks/__pycache__/x.pyc", "results/mine/rows.npz"):
        (root / ignored).parent.mkdir(parents=True, exist_ok=True)
        (root / ignored).write_text("not for shipping", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def archives(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel built from it (sdist/) and the one from the checkout."""
    out = tmp_path_factory.mktemp("archives")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir")
    call(*build, out / "sdist", checkout, cwd=out)
    call(*build, out / "wheel", "--wheel", checkout, cwd=out)
    return out


def shipped(tracked: list[str]) -> set[str]:
    """Where tracked files have to be in an archive: both libraries inside the package, no links."""
    links = {f"advbench/{link}" for link in LINKS}
    return {
        f"advbench/{name}" if name.startswith(tuple(f"{link}/" for link in LINKS)) else name
        for name in tracked
        if name not in links
    }


def wheel_files(folder: Path) -> set[str]:
    (wheel,) = folder.glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_sdist_holds_the_tracked_files(archives: Path, tracked: list[str]) -> None:
    (archive,) = (archives / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        members = sdist.getmembers()
    assert all(member.isfile() for member in members)
    names = {member.name.partition("/")[2] for member in members}
    assert names == shipped(tracked) | {"PKG-INFO"}


@pytest.mark.parametrize("origin", ["wheel", "sdist"])
def test_wheel_holds_the_package(archives: Path, tracked: list[str], origin: str) -> None:
    names = wheel_files(archives / origin)
    assert names == {name for name in shipped(tracked) if name.startswith("advbench/")}
    for needed in ("py.typed", "data/digits.npz", "attacks/attack.py", "defenses/defense.py"):
        assert f"advbench/{needed}" in names
    weights = {name for name in names if name.endswith(".safetensors")}
    assert weights
    assert {name.replace(".safetensors", ".json") for name in weights} <= names


def test_editable_install_adds_one_path_and_no_copy(checkout: Path, tmp_path: Path) -> None:
    build = "import sys, hatchling.build; hatchling.build.build_editable(sys.argv[1])"
    call(sys.executable, "-c", build, tmp_path, cwd=checkout)
    assert wheel_files(tmp_path) == {"_advbench.pth"}


def test_wheel_works_away_from_the_checkout(archives: Path, tmp_path: Path) -> None:
    (wheel,) = (archives / "sdist").glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    probe = (
        "import advbench.attacks, advbench.defenses, advbench.models.zoo as zoo\n"
        "from advbench import data, registry\n"
        "loaded = [registry.get(kind, name) for kind in registry.KINDS"
        " for name in registry.names(kind)]\n"
        "print(advbench.attacks.__file__, len(data.load('digits')), len(zoo.names()), len(loaded))"
    )
    file, *counts = call(sys.executable, "-P", "-c", probe, cwd=empty, path=site).split()
    assert Path(file).is_relative_to(site)
    assert all(int(count) > 0 for count in counts)
    assert "pgd" in call(
        sys.executable, "-P", "-m", "advbench", "list", "attacks", cwd=empty, path=site
    )


@pytest.mark.parametrize("kind", ["missing", "text file"])
@pytest.mark.parametrize("link", LINKS)
def test_broken_link_says_so(checkout: Path, tmp_path: Path, link: str, kind: str) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(checkout, root, symlinks=True, ignore=shutil.ignore_patterns(".git", "tests"))
    (root / "advbench" / link).unlink()
    if kind == "text file":
        (root / "advbench" / link).write_text(f"../{link}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import advbench"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"advbench/{link} must be a link to ../{link}" in done.stderr
    assert "core.symlinks" in done.stderr
