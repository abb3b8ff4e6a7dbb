"""DeepFool and SuperDeepFool: exact distances, the first steps by hand, and what rows cost."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L1, L2, DeepFool, Linf, Perturbation, SuperDeepFool
from advbench.attacks.criterion import Criterion, likeliest
from advbench.attacks.flags import Flag
from advbench.attacks.losses import CrossEntropy
from advbench.attacks.query import Problem, Query, Record, Rules
from advbench.attacks.randomness import Draws
from advbench.attacks.victim import Victim
from advbench.testing.strength import half_space
from advbench.testing.victims import Watched, linear, smooth
from tests.attacks.closed_form import assert_smallest


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(
    "attack", [DeepFool(), DeepFool(perturbation=Linf()), SuperDeepFool()], ids=repr
)
def test_the_smallest_change(attack: DeepFool | SuperDeepFool, classes: int) -> None:
    assert_smallest(attack, classes, within=1.005)


def test_published_defaults() -> None:
    first, second = DeepFool(), SuperDeepFool()
    assert (first.steps, first.overshoot, first.candidates) == (50, 0.02, 10)
    assert (second.steps, second.overshoot, second.candidates) == (100, 0.02, 10)
    assert first.perturbation == second.perturbation == L2()


@pytest.mark.parametrize("perturbation", [L2(), Linf()], ids=repr)
def test_one_step_on_a_half_space_goes_the_distance_and_a_fiftieth(
    perturbation: Perturbation,
) -> None:
    (model, x, y, _), w, lead = half_space((6,), count=4)
    watched = Watched(model)
    DeepFool(perturbation=perturbation, steps=1).run(watched, x, y)
    asked = (watched.seen[2][0] - x).flatten(1)  # after the clean images, and these once more
    towards = torch.where(y == 1, -1, 1).unsqueeze(1)
    if perturbation == L2():
        length, direction = lead / w.norm(), w / w.norm()
    else:
        length, direction = lead / w.abs().sum(), w.sign()
    step = (length + 1e-4).unsqueeze(1) * direction * towards
    torch.testing.assert_close(asked, 1.02 * step)


class Bent(nn.Module):
    """Two classes in the plane; the boundary is a parabola away from the corner (0, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2)."""
        lead = x[:, 1] + 2 * x[:, 0] ** 2 - 0.5
        return torch.stack([torch.zeros_like(lead), lead], 1)


def test_super_ends_nearer_where_the_boundary_is_bent() -> None:
    """From (0.2, 0.1): the nearest point of the parabola, found on a fine grid."""
    x, y = torch.tensor([[0.2, 0.1]], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    a = torch.linspace(0, 0.5, 100001, dtype=torch.float64)
    nearest = (torch.stack([a, 0.5 - 2 * a**2], 1) - x).norm(dim=1).amin()
    first = DeepFool(refinements=5).run(Bent(), x, y).size
    second = SuperDeepFool().run(Bent(), x, y).size
    assert nearest * 0.999 < second < nearest * 1.005
    assert second < first


def test_passes_of_every_row_are_its_own() -> None:
    """Steps until the class is crossed, then the way back, and no pass for any other row."""
    model, x, y, targets = smooth(classes=4, count=12)
    for attack in (DeepFool(refinements=2), SuperDeepFool(refinements=2)):
        whole = attack.run(model, x, y)
        assert whole.success.all()
        assert whole.forwards.unique().numel() > 1
        alone = attack.run(model, x, y, batch_size=1)
        assert torch.equal(alone.forwards, whole.forwards)
        assert torch.equal(alone.backwards, whole.backwards)
        aimed = attack.run(model, x, y, targets=targets)
        assert (aimed.backwards < whole.backwards).all()


def test_fewer_candidates_cost_less_and_end_at_one_of_them() -> None:
    model, x, y, _ = linear(classes=10, count=8)
    few = DeepFool(candidates=3).run(model, x, y)
    many = DeepFool().run(model, x, y)
    assert few.success.all()
    assert torch.equal(few.backwards * 10, many.backwards * 3)
    with torch.no_grad():
        allowed = model(x).topk(3).indices
        ends = model(few.x_adv).argmax(1)
    assert (allowed == ends.unsqueeze(1)).any(1).all()


def test_taking_back_never_hurts() -> None:
    model, x, y, _ = smooth(classes=3, count=12)
    sizes = [DeepFool(refinements=k, overshoot=0.3).run(model, x, y).size for k in (1, 3, 8)]
    assert (sizes[1] <= sizes[0]).all()
    assert (sizes[2] <= sizes[1]).all()
    assert (sizes[2] < 0.99 * sizes[0]).any()


def test_a_dead_gradient_is_finite_and_no_success() -> None:
    dead = nn.Linear(5, 3).double()
    nn.init.zeros_(dead.weight)
    x = torch.full((2, 5), 0.5, dtype=torch.float64)
    for attack in (DeepFool(steps=4), SuperDeepFool(steps=4)):
        found = attack.run(dead, x, dead(x).argmax(1))
        assert torch.equal(found.x_adv, x)
        assert ((found.flags & Flag.ZERO_GRADIENT) != 0).all()


@pytest.mark.parametrize("kind", [DeepFool, SuperDeepFool])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"overshoot": -0.1}, "overshoot must be at least 0; got -0.1"),
        ({"candidates": 1}, "candidates must be a whole number of at least 2"),
        ({"perturbation": L1()}, r"perturbation must be one of L2\(\).*; got L1\(\)"),
    ],
)
def test_fields_out_of_range(
    kind: type[DeepFool | SuperDeepFool], fields: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        kind(**fields)  # type: ignore[arg-type]


def test_the_label_comes_first_among_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    y = torch.tensor([0, 3])
    assert likeliest(logits, y, 3).tolist() == [[0, 1, 2], [3, 2, 1]]
    assert likeliest(logits, y, 9).shape == (2, 4)


def test_rows_that_do_not_ask_pay_nothing() -> None:
    model, x, y, _ = smooth(classes=4, count=5)
    zero = torch.zeros(5, dtype=torch.int64)
    problem = Problem(x, torch.full((5,), 0.1).double(), Criterion(y), Draws(*[zero] * 4), zero)
    victim = Victim(model, x, Criterion(y))
    victim(x)
    rules = Rules(victim, L2(), CrossEntropy(), "gradient", "inside")
    p = torch.zeros_like(x)
    some = torch.tensor([True, False, True, True, False])
    ask, everybody = (Query(rules, problem, Record.blank(p)) for _ in range(2))
    probe, whole = ask(p, grad=True, rows=some), everybody(p, grad=True)
    torch.testing.assert_close(probe.grad[some], whole.grad[some])
    torch.testing.assert_close(probe.logits[some], whole.logits[some])
    assert (probe.grad[~some] == 0).all()
    found, full = ask.jacobian(p, 3, rows=some), everybody.jacobian(p)
    assert found.grads.shape[:2] == (5, 3)
    chosen = likeliest(full.logits, y, 3)[some]
    index = torch.arange(5)[some].unsqueeze(1)
    torch.testing.assert_close(found.grads[some], full.grads[index, chosen])
    assert ask.record.forwards.tolist() == [2, 0, 2, 2, 0]
    assert ask.record.backwards.tolist() == [4, 0, 4, 4, 0]
    assert (ask.record.flags[~some] == 0).all()
