"""The benchmark of certificates, on one net and few samples."""

from advbench.benchmarks.certificates import markdown, rows


def test_proofs_save_passes_and_change_no_verdict():
    (row,) = rows([("digits/ffn_adv", (0.0333,), 40, 0)])
    assert row["same"]
    assert row["certified"] <= row["robust"] <= row["clean"]
    assert row["gap"] == round(row["robust"] - row["certified"], 4)
    assert row["passes_with"] < row["passes_without"] / 2
    page = markdown([row], {"measured": "today"})
    assert f"| digits/ffn_adv | 0.0333 | 0 | {row['clean']:.4f} |" in page
    assert "- measured: today" in page
