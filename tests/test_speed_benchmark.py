"""The benchmark of the speed options measures what it says and names what it does not know."""

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from advbench.benchmarks import speed


@pytest.mark.slow
def test_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "OPTIONS", (("channels_last",), ("bf16",)))
    options = ["--out", str(tmp_path), "--repetitions", "5", "--victim", "zoo:digits/ffn_relu"]
    result = CliRunner().invoke(speed.main, options)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "speed.csv")
    assert list(table.options) == ["channels_last", "bf16"]
    assert ((table.ratio_low <= table.ratio) & (table.ratio <= table.ratio_high)).all()
    # Every success is confirmed by the model: an option loses successes and invents none.
    assert (table.robust_accuracy >= table.without).all()
    assert 0 < table.without[0] < 1
    page = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert page.count("| zoo:digits/ffn_relu |") == 2


def test_an_unknown_victim_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(speed.main, ["--victim", "mnist", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "choose from zoo:digits/ffn_relu" in result.output
    assert not list(tmp_path.iterdir())
