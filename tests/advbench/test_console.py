"""Progress: what a run says of itself, and when."""

import pytest

from advbench import console
from advbench.bench.run import Runner
from advbench.console import Console
from tests.advbench.fakes import Push, cell


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_goes_by_the_queries_left(clock, capsys):
    one = cell(Push())
    with Console([10, 90], 10, quiet=False) as progress:
        clock[0] = 2.0
        progress.cell(one, *Runner().run(one))
    assert "[1/2] plane fake linf eps 0.1 seed 0" in (line := capsys.readouterr().err)
    assert "(2 s, about 18 s left)" in line


def test_a_long_cell_speaks_up_every_half_minute(clock, capsys):
    with Console([10], 100, quiet=False) as progress:
        for second in range(1, 71):
            clock[0] = float(second)
            progress.rows(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "cell 1/1: 31 samples finished (31 s, time left not known yet)",
        "cell 1/1: 62 samples finished (62 s, time left not known yet)",
    ]


def test_quiet_is_quiet(clock, capsys):
    one = cell(Push())
    with Console([1], 5, quiet=True) as progress:
        clock[0] = 60.0
        progress.rows(1)
        progress.cell(one, *Runner().run(one))
    assert capsys.readouterr().err == ""
