"""Scenes as data: the embedded ones, meshes in a folder, and their way through the bench."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import advbench
from advbench import data
from advbench.attacks import PGD, Ball, Euler, Linf, Mesh, Pose, RandomNoise, SceneModel
from advbench.attacks.rendering.scene import WIDTH, unpack
from advbench.bench.judge import judge
from advbench.bench.plan import Cell, Selection, Victim
from advbench.bench.run import Runner
from advbench.data import Samples
from advbench.data.dataset import SPLITS
from advbench.data.objects import CLASSES, VARIANTS
from advbench.data.view import View
from advbench.document import ConfigError
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Recipe, Train
from advbench.training.trainer import measured, train

CUBE = """
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 1
v 1 0 1
v 1 1 1
v 0 1 1
f 4 3 2 1
f 5 6 7 8
f 1 2 6 5
f 2 3 7 6
f 3 4 8 7
f 4 1 5 8
"""


@pytest.fixture(scope="module")
def scenes() -> Samples:
    return data.load("scenes", samples=40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b_cube", "a_box"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.obj").write_text(CUBE)
    return tmp_path


class Brightness(nn.Module):
    """Two classes divided by the mean of the picture."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images: Tensor) -> Tensor:
        lead = 50 * (images.flatten(1).mean(1) - self.threshold)
        return torch.stack([-lead, lead], 1)


@pytest.mark.parametrize(("split", "n"), [("train", 6000), ("validation", 500), ("test", 2000)])
def test_scenes_are_embedded(split: str, n: int) -> None:
    samples = data.load("scenes", split)
    assert samples.x.shape == (n, WIDTH)
    assert samples.x.dtype == torch.float32
    assert samples.classes == tuple(CLASSES)
    assert samples.y.bincount().tolist() == [n // 10] * 10
    assert len(samples.ids.unique()) == n
    images = samples.images(samples.x[:20])
    assert images.shape == (20, 1, 32, 32)
    assert samples.image_shape == (1, 32, 32)
    assert ((images >= 0) & (images <= 1)).all()


def test_no_individual_and_no_sample_is_in_two_splits() -> None:
    loaded = [data.load("scenes", split) for split in SPLITS]
    ids = torch.cat([samples.ids for samples in loaded])
    assert len(ids.unique()) == len(ids)
    firsts = [one.renderer.vertices[one.renderer.vertex_starts[:-1]] for one in loaded]
    corners = torch.cat(firsts).mul(1e5).round().long()
    assert len(corners.unique(dim=0)) == len(corners) == 600 + 100 + 400


def test_canonical_poses_lie_in_their_ranges(scenes: Samples) -> None:
    samples = data.load("scenes")
    scene = unpack(samples.x)
    gram = scene.rotation @ scene.rotation.mT
    torch.testing.assert_close(gram, torch.eye(3).expand_as(gram), rtol=0, atol=1e-5)
    torch.testing.assert_close(scene.light.norm(dim=1), torch.ones(len(samples)))
    x, y, z = scene.position.unbind(1)
    for found, low, high in ((x, -0.12, 0.12), (y, -0.12, 0.12), (z, -4.7, -3.7)):
        assert low - 1e-5 <= float(found.min()) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < float(found.max()) <= high + 1e-5
    upright = scene.rotation[:, 1, 1]  # cosine of the lean, from elevation and roll
    assert (upright > 0.85).all()
    # The camera looks down: the top of the object leans towards it.
    assert (scene.rotation[:, 2, 1] > 0).all()


def test_selections_of_scenes_are_nested(scenes: Samples) -> None:
    more = data.load("scenes", samples=60)
    assert torch.equal(more.x[:40], scenes.x)
    assert torch.equal(more.images(more.x[:40]), scenes.images(scenes.x))


def test_the_renderer_is_part_of_the_digest(scenes: Samples) -> None:
    other = data.load("scenes:variants", samples=40)
    assert torch.equal(other.x, scenes.x)
    assert other.digest() != scenes.digest()
    again = data.load("scenes", samples=40)
    assert again.digest() == scenes.digest()
    again.renderer.ambient = 0.3
    assert again.digest() != scenes.digest()
    assert tuple(VARIANTS) == scenes.classes


def test_an_unknown_set_of_objects_is_refused() -> None:
    with pytest.raises(ValueError, match="scenes:cars: expected 'classes' or 'variants'"):
        data.load("scenes:cars")


def test_a_folder_of_meshes(folder: Path) -> None:
    samples = data.load(f"meshes:{folder}", samples=6)
    assert samples.classes == ("a_box", "b_cube")
    assert samples.y.tolist() == [0, 1] * 3
    assert samples.image_shape == (3, 64, 64)
    view, scene = View(), unpack(samples.x)
    for row in (0, 1):  # the canonical pose itself comes first
        assert scene.position[row].tolist() == pytest.approx([0, 0, -view.distance])
        torch.testing.assert_close(scene.rotation[row], scene.rotation[0])
    assert (scene.rotation[2:] - scene.rotation[0]).abs().amax((1, 2)).min() > 0.01
    trained = data.load(f"meshes:{folder}", "train", samples=2)
    assert (unpack(trained.x).position[:, :2] != 0).all()
    assert len(data.load(f"meshes:{folder}")) == 200
    image = samples.images(samples.x)[0]
    assert 0.05 < float((image != 0.5).any(0).float().mean()) < 0.6


def test_numbered_folders_are_numbers_of_classes(folder: Path) -> None:
    (folder / "a_box").rename(folder / "7_box")
    (folder / "b_cube").rename(folder / "3")
    samples = data.load(f"meshes:{folder}", samples=2)
    assert sorted(samples.y.tolist()) == [3, 7]
    assert samples.classes[7] == "7_box"
    assert samples.classes[0] == "class 0"
    assert len(samples.classes) == 8


def test_a_view_of_ones_own(folder: Path) -> None:
    text = "[view]\nsize = [20, 30]\nbackground = [1, 0, 0]\nyaw = 0\n[view.spread]\nyaw = 0\n"
    (folder / "view.toml").write_text(text)
    samples = data.load(f"meshes:{folder}", samples=4)
    assert samples.image_shape == (3, 20, 30)
    assert samples.images(samples.x)[:, :, 0, 0].tolist() == [[1, 0, 0]] * 4
    assert float(unpack(samples.x).rotation[:, 0, 2].abs().max()) < 0.1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[view]\nsise = [2, 2]\n", r"view.toml:2: view.sise: .*Did you mean 'size'"),
        ("[view]\nsize = [0, 2]\n", "size must be a height and a width"),
        ("[view]\nbackground = [2.0]\n", "background must be numbers in"),
        ("[view]\nbackground = [0.1, 0.2]\n", "background must be a grey"),
        ("[view]\nlight = [0, 0, 0]\n", "light must not be"),
        ("[view]\nfov = 180\n", "fov must lie in"),
        ("[view]\ndistance = 0\n", "distance must be above 0"),
    ],
)
def test_a_wrong_view_is_refused(folder: Path, text: str, complaint: str) -> None:
    (folder / "view.toml").write_text(text)
    with pytest.raises((ConfigError, ValueError), match=complaint):
        data.load(f"meshes:{folder}")


def test_no_meshes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="meshes:nowhere not found"):
        data.load("meshes:nowhere", root=tmp_path)
    (tmp_path / "car").mkdir()
    (tmp_path / "car" / "notes.txt").write_text("v 0 0 0")
    with pytest.raises(ValueError, match=r"no meshes in .*one folder per class"):
        data.load(f"meshes:{tmp_path}")


def test_the_bench_attacks_scenes(scenes: Samples) -> None:
    model = Brightness(float(scenes.images(scenes.x).mean()))
    y = model(scenes.images(scenes.x)).argmax(1)
    two = Samples("two", "test", scenes.x, y, scenes.ids, ("dark", "bright"), scenes.renderer)
    attacks = [
        PGD(perturbation=Pose(rotation=Euler(40, 40, 40), z=1.0), steps=5),
        RandomNoise(perturbation=Pose(rotation=Ball(180)), steps=1),
    ]
    results = advbench.evaluate(model, two, attacks, eps=1.0)
    assert not results.errors
    rows = results.samples
    assert rows.clean_correct.all()
    assert 0 < rows.success.mean() < 1
    assert not rows.invalid.any()
    assert {"yaw", "z", "turned", "turn_x"} <= set(rows.columns)
    first = rows[rows.attack == "pgd"]
    assert first[["yaw", "pitch", "roll"]].abs().max().max() <= 40 + 1e-3
    assert (first.confidence >= 0.5).all()
    # The row can be made again: the pose, seen and judged by hand.
    outcome = attacks[0].run(two.seen_by(model), two.x, y, eps=1.0, ids=two.ids)
    seen = model(two.images(outcome.x_adv)).argmax(1)
    fell = torch.tensor(first.success.tolist())
    assert torch.equal(seen != y, fell)
    assert outcome.x_adv.shape == two.x.shape


def test_what_moves_pixels_is_refused_for_scenes(scenes: Samples) -> None:
    model = Brightness(0.3)
    results = advbench.evaluate(model, scenes.only(0), [PGD(perturbation=Linf())], eps=0.1)
    assert "images must lie in [0, 1]" in results.errors[0]
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"a pose changes scenes.*'affine'"):
        PGD(perturbation=Pose())(model, x, torch.zeros(2).long(), eps=1)


def test_the_judge_rounds_pictures_and_not_poses(scenes: Samples) -> None:
    few, attack = scenes.first(8), RandomNoise(perturbation=Pose(), steps=1)
    images = few.images(few.x)
    step = 0.4 / 255
    model = Brightness(float(images.mean()))
    y = torch.zeros(8, dtype=torch.int64)
    outcome = attack.run(few.seen_by(model), few.x, y, eps=1.0, stop="never")
    verdict = judge(model, attack, few.x, y, 1.0, outcome, 3, few.images)
    rounded = (few.images(outcome.x_adv) * 255).round() / 255
    assert verdict.success_8bit.tolist() == (model(rounded).argmax(1) == 1).tolist()
    assert (rounded - few.images(outcome.x_adv)).abs().max() > step
    assert not verdict.invalid.any()
    turned = outcome._replace(x_adv=few.x)
    verdict = judge(model, attack, few.x, y, 1.0, turned, 3, few.images)
    assert verdict.invalid.all()
    assert "not what their parameters make" in verdict.detail


@dataclass(frozen=True)
class Painted:
    """A renderer that leaves torch: each picture is as bright as the object is far."""

    def __call__(self, scenes: Tensor) -> Tensor:
        depth = torch.from_numpy(-unpack(scenes.detach()).position[:, 2].cpu().numpy())
        return (depth / 10).clamp(0, 1).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).to(scenes)


def test_a_renderer_that_leaves_torch_is_searched_without_gradients(scenes: Samples) -> None:
    model, y = Brightness(0.5), torch.zeros(40, dtype=torch.int64)
    victim = SceneModel(Painted(), model)
    deep = Pose(rotation=Euler(0, 0, 0), z=3.0)
    found = RandomNoise(perturbation=deep, steps=30).run(victim, scenes.x, y, eps=1.0)
    assert found.success.all()
    assert (unpack(found.x_adv).position[:, 2] < -5).all()
    with pytest.raises(ValueError, match="no gradient reaches the input"):
        PGD(perturbation=deep).run(victim, scenes.x, y, eps=1.0)
    cell = Cell(
        Victim("bright", model, "0" * 64),
        Selection(
            "far", Samples("far", "test", scenes.x, y, scenes.ids, ("0", "1"), Painted()), data.load
        ),
        "random",
        RandomNoise(perturbation=deep, steps=30),
        (1.0,),
        0,
    )
    record, rows = Runner().run(cell)
    assert record["status"] == "ok"
    assert rows is not None
    assert rows["success"].all()


def test_a_model_in_half_precision_sees_scenes_in_full(scenes: Samples) -> None:
    model = Brightness(float(scenes.images(scenes.x).mean())).to(torch.bfloat16)
    y = model(scenes.images(scenes.x).to(torch.bfloat16)).argmax(1)
    attack = PGD(perturbation=Pose(rotation=Euler(40, 40, 40)), steps=4)
    found = attack.run(scenes.seen_by(model), scenes.x, y, eps=1.0)
    assert found.x_adv.dtype == torch.float32
    seen = model(scenes.images(found.x_adv).to(torch.bfloat16)).argmax(1)
    assert torch.equal(found.success, seen != y)
    assert found.success.any()


def test_nets_are_trained_on_scenes() -> None:
    scenes, held = data.load("scenes", "train", 200), data.load("scenes", "validation", 50)
    recipe = Recipe(
        train=Train(epochs=6, batch_size=20), data=Data(name="scenes"), model=FFN(hidden=(64,))
    )
    before = scenes.x.clone()
    trained = train(recipe, data=scenes, validation=held)
    assert measured(None, trained.model, scenes, 0).accuracy > 0.5
    told = trained.log[-1].validation
    assert measured(None, trained.model, held, 0).accuracy == told.accuracy
    assert torch.equal(scenes.x, before)
    assert not any("renderer" in name for name in trained.model.state_dict())
    logits = trained.model(scenes.images(scenes.x))
    assert functional.cross_entropy(logits, scenes.y).isfinite()


def test_mesh_is_exported() -> None:
    triangle = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.ones(1, 3))
    assert triangle.faces.shape == (1, 3)
