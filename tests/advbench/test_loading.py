import argparse
import logging
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from advbench import data
from advbench.defenses.controls.bit_depth import BitDepth
from advbench.defenses.fit import Split, score
from advbench.defenses.randomized_smoothing import RandomizedSmoothing
from advbench.defenses.regularization.weight_decay import WeightDecay
from advbench.document import ConfigError
from advbench.models.architecture import Architecture
from advbench.models.cifar_resnet import CifarResNet
from advbench.models.ffn import FFN, Linear
from advbench.models.loading import ModelSpec, content_address, load_model
from advbench.models.normalized import Normalized
from advbench.training.produce import run_recipe
from tests.faults import Payload

NET = FFN(hidden=(4,))


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return NET.build((3,), 2).state_dict()


def spec(path: Path, architecture: Architecture = NET, sha256: str | None = None) -> ModelSpec:
    return ModelSpec(
        name=f"file:{path}", architecture=architecture, shape=(3,), classes=2, sha256=sha256
    )


def check_same(model: nn.Module, state: dict[str, Tensor]) -> None:
    loaded = model.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "checkpoint", "parallel"])
def test_weights_files(
    kind: str, state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F5: Prefixes that wrappers leave are stripped with a notice."""
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "zip":
        torch.save(state, path)
    elif kind == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "checkpoint":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save({f"_orig_mod.module.{key}": value for key, value in state.items()}, path)
    with caplog.at_level(logging.INFO, "advbench"):
        check_same(load_model(spec(path)).model, state)
    notices = {
        "checkpoint": ["took the entry 'state_dict'"],
        "parallel": ["stripped the prefix '_orig_mod.'", "stripped the prefix 'module.'"],
    }
    for notice in notices.get(kind, []):
        assert notice in caplog.text


def test_the_random_state_is_left_alone(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights")
    before = torch.random.get_rng_state()
    load_model(spec(tmp_path / "weights"))
    assert torch.equal(before, torch.random.get_rng_state())


def damaged(kind: str, state: dict[str, Tensor], path: Path) -> None:
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "page":
        path.write_bytes(b"\n <!DOCTYPE html><html>not found</html>")
    elif kind == "pointer":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    elif kind == "text":
        path.write_bytes(b"0123456789 these are no weights")
    elif kind.startswith("torch"):
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch zip")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind.startswith("safetensors"):
        save_file(state, path)
        kept = {"safetensors tensors": -5, "safetensors header": 20, "safetensors length": 4}[kind]
        path.write_bytes(path.read_bytes()[:kept])
    elif kind == "namespace":
        torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, path)
    elif kind == "module":
        torch.save(NET.build((3,), 2), path)
    elif kind == "scalar":
        torch.save({"state_dict": state, "accuracy": np.float64(0.5)}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        torch.save({**state, "epoch": 3}, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "the file is empty"),
        ("page", "an HTML page, not weights"),
        ("pointer", "a git-LFS pointer, not weights; run git lfs pull"),
        ("text", "neither a safetensors nor a torch file"),
        ("torch zip", r"the file is truncated \(\d+ bytes\)"),
        ("torch legacy", "truncated|cannot read it"),
        ("safetensors tensors", r"the file is truncated \(\d+ bytes\)"),
        ("safetensors header", r"the file is truncated \(20 bytes\)"),
        ("safetensors length", "truncated"),
        ("namespace", r"contains Python objects \(argparse.Namespace\)"),
        ("module", r"contains Python objects \(torch"),
        ("scalar", r"contains Python objects \(numpy.*\).*re-save only the weights"),
        ("list", "expected a state dict, found list"),
        ("number", "not tensors: epoch"),
    ],
)
def test_damaged_files(kind: str, message: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    """S1: What is in a file that holds no weights is said by its first bytes."""
    path = tmp_path / "weights"
    damaged(kind, state, path)
    with pytest.raises(ValueError, match=message) as raised:
        load_model(spec(path))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("form", ["zip", "raw"])
def test_a_malicious_pickle_does_not_run(form: str, tmp_path: Path) -> None:
    """S2: Refused, with the name of the file; what it would have made is not there."""
    path, sentinel = tmp_path / "weights", tmp_path / "sentinel"
    if form == "zip":
        torch.save({"weight": Payload(sentinel)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(sentinel)))
    with pytest.raises(ValueError, match="contains Python objects") as raised:
        load_model(spec(path))
    assert str(path) in str(raised.value)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(Payload(sentinel)))
    assert sentinel.exists(), "the payload is real"


@pytest.mark.parametrize("refusal", [pickle.UnpicklingError, RuntimeError, EOFError])
def test_s2_what_torch_refuses_is_never_asked_for_again(
    refusal: type[Exception],
    state: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, asked = tmp_path / "weights", list[object]()

    def refusing(file: object, **terms: object) -> object:
        asked.append(terms["weights_only"])
        raise refusal("no")

    torch.save(state, path)
    monkeypatch.setattr(torch, "load", refusing)
    with pytest.raises(ValueError, match=str(path)):
        load_model(spec(path))
    assert asked == [True]


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_a_flipped_byte_is_found_by_the_sha256(
    save: Callable[[dict[str, Tensor], Path], None], state: dict[str, Tensor], tmp_path: Path
) -> None:
    """S1: Both formats load it in silence, which only a sha256 can tell."""
    path = tmp_path / "weights"
    save(state, path)
    good = load_model(spec(path))
    content = bytearray(path.read_bytes())
    weight = state["1.weight"].numpy().tobytes()
    content[bytes(content).index(weight) + len(weight) - 1] ^= 1
    path.write_bytes(content)
    assert load_model(spec(path)).sha256 != good.sha256
    with pytest.raises(ValueError, match=r"sha256 mismatch: expected 00, found [0-9a-f]{64}"):
        load_model(spec(path, sha256="00"))


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Write a torch file anew, each of its parts changed."""
    with zipfile.ZipFile(path) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts:
            archive.writestr(name, change(name, content))


def test_f6_weights_that_were_on_another_device_come_to_this_one(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    """The format holds a device with each tensor, a text with its length in front."""
    path = tmp_path / "weights"
    torch.save(state, path)
    here, there = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:7"
    rewritten(path, lambda _, part: part.replace(here, there))
    assert b"cuda:7" in path.read_bytes()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.load(path, weights_only=True)
    check_same(load_model(spec(path)).model, state)


def test_f6_a_file_of_another_version_is_told_with_ours(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    torch.save(state, path)
    rewritten(path, lambda name, part: b"999" if name.endswith("/version") else part)
    with pytest.raises(ValueError, match=r"torch .* cannot read it: .*999") as raised:
        load_model(spec(path))
    assert torch.__version__ in str(raised.value)
    assert str(path) in str(raised.value)


def test_keys_that_do_not_fit_are_listed(state: dict[str, Tensor], tmp_path: Path) -> None:
    """F5: The first five of them; nothing is filled in part."""
    path = tmp_path / "weights"
    save_file(state, path)
    with pytest.raises(ValueError, match=r"4 missing: 5.weight, 5.bias, 7.weight, 7.bias"):
        load_model(spec(path, FFN(hidden=(4, 2, 2))))
    with pytest.raises(ValueError, match=r"2 unexpected: 3.bias, 3.weight"):
        load_model(spec(path, Linear()))
    with pytest.raises(ValueError, match=r"1.weight \(file \(4, 3\), model \(9, 3\)\)"):
        load_model(spec(path, FFN(hidden=(9,))))
    with pytest.raises(ValueError, match=r"6 missing: (.*, ){5}…"):
        load_model(spec(path, FFN(hidden=(4, 2, 2, 2))))


def test_files_are_looked_for_under_the_data_root(state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    save_file(state, tmp_path / "models" / "net")
    given = ModelSpec(
        name="file:models/net", architecture=NET, shape=(3,), classes=2, root=tmp_path, label="n"
    )
    assert load_model(given).label == "n"
    with pytest.raises(FileNotFoundError, match=r"looked for 'models/net', '.*models/net'"):
        load_model(ModelSpec(name="file:models/net", architecture=NET, shape=(3,), classes=2))


def test_incomplete_and_needless_fields(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net")
    with pytest.raises(ValueError, match=r"give architecture .*cifar_resnet.*, shape and classes"):
        load_model(ModelSpec(name=f"file:{tmp_path / 'net'}"))
    with pytest.raises(ValueError, match="already has its mean, std; leave them out"):
        load_model(ModelSpec(name="zoo:digits/cnn", mean=(0.5,), std=(0.5,)))
    with pytest.raises(ValueError, match="mean and std go together"):
        load_model(ModelSpec(name="python:torch.nn:Identity", mean=(0.5,)))
    with pytest.raises(ValueError, match=r"got 'model.pt', expected 'zoo:NAME'"):
        load_model(ModelSpec(name="model.pt"))


def test_a_zoo_network_must_have_the_sha256_that_is_asked_for() -> None:
    with pytest.raises(ValueError, match="sha256 mismatch"):
        load_model(ModelSpec(name="zoo:digits/linear", sha256="00"))


def test_python_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X3: Models go by a text to import, so that nothing of them has to be pickled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_users_nets.py").write_text(
        "import torch\ndef build(): return torch.nn.Linear(2, 2)\ndef wrong(): return 3\n"
        "there = build()\nnamed = lambda: Odd(lambda x: x)\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self, f): super().__init__(); self.f = f\n"
        "    def forward(self, x): return self.f(x)\n"
    )
    path = list(sys.path)
    loaded = load_model(
        ModelSpec(name="python:some_users_nets:build", mean=(0.5, 0.5), std=(0.2, 0.2))
    )
    assert isinstance(loaded.model, Normalized)
    assert not loaded.model.training
    assert loaded.card is None
    assert sys.path == path
    odd = load_model(ModelSpec(name="python:some_users_nets:named")).model
    assert odd(torch.ones(1)) == 1
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(odd)
    with pytest.raises(TypeError, match="'there' is a model itself; name a function"):
        load_model(ModelSpec(name="python:some_users_nets:there"))
    with pytest.raises(ValueError, match=r"Did you mean 'build'.*It has: Odd, build, named,"):
        load_model(ModelSpec(name="python:some_users_nets:biuld"))
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got int"):
        load_model(ModelSpec(name="python:some_users_nets:wrong"))
    with pytest.raises(ValueError, match="cannot import it: No module named 'nowhere'"):
        load_model(ModelSpec(name="python:nowhere:build"))


def test_the_content_address_tells_models_apart(state: dict[str, Tensor]) -> None:
    def net(activation: str = "relu") -> nn.Module:
        model = FFN(hidden=(4,), activation=activation).build((3,), 2)
        model.load_state_dict(state)
        return model

    assert content_address(net()) == content_address(net())
    changed = net()
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-6
    models = [
        net(),
        net("tanh"),
        changed,
        Normalized(net(), (0.5,), (0.5,)),
        Normalized(net(), (0.5,), (0.25,)),
    ]
    assert len({content_address(model) for model in models}) == len(models)


def test_a_published_checkpoint(data_root: Path) -> None:
    loaded = load_model(
        ModelSpec(
            name="file:models/resnet20-cifar10.th",
            architecture=CifarResNet(depth=20),
            shape=(3, 32, 32),
            classes=10,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            root=data_root,
        )
    )
    samples = data.load("folder:cifar10-jpeg", samples=500, root=data_root)
    with torch.inference_mode():
        share = (loaded.model(samples.x).argmax(1) == samples.y).double().mean().item()
    # 0.81 on all 10,000 images, which were re-encoded after the network was trained
    assert 0.77 < share < 0.87


RECIPE = """
defenses = ["dropout", { name = "thermometer", levels = 3 }, { name = "swag", after = 0.3 }]
[train]
epochs = 4
batch_size = 32
[data]
name = "digits"
samples = 100
[model]
name = "ffn"
hidden = [8]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that `advbench train` made with defences that build and wrap, a card beside them."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "net.toml").write_text(RECIPE)
    return run_recipe(folder / "net.toml", folder)


def test_what_was_trained_loads_by_its_card_alone(trained: Path) -> None:
    loaded = load_model(ModelSpec(name=f"file:{trained}"))
    assert loaded.card is not None
    assert loaded.data == "digits"
    samples = data.load("digits")
    found = score(loaded.model, loaded.model, Split(samples.x, samples.y, samples.ids))
    assert found.accuracy == pytest.approx(loaded.card["clean_accuracy"]["test"], abs=1e-6)
    assert found.loss == pytest.approx(loaded.card["loss"]["test"], abs=1e-6)


def test_a_card_answers_for_its_weights(trained: Path, tmp_path: Path) -> None:
    content = trained.read_bytes()
    (tmp_path / "net.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    card = trained.with_suffix(".json").read_text()
    (tmp_path / "net.json").write_text(card)
    name = f"file:{tmp_path / 'net.safetensors'}"
    with pytest.raises(ValueError, match="sha256 mismatch"):
        load_model(ModelSpec(name=name))
    with pytest.raises(ValueError, match=r"the card beside the file says shape already"):
        load_model(ModelSpec(name=name, shape=(1, 8, 8)))
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(ValueError, match=r"net\.json: no card of a network: name, architecture"):
        load_model(ModelSpec(name=name))
    (tmp_path / "net.json").write_text("{")
    with pytest.raises(ValueError, match=r"net\.json: no JSON"):
        load_model(ModelSpec(name=name))
    (tmp_path / "net.json").write_text(card.replace('"levels": 3', '"levels": 1'))
    with pytest.raises(ConfigError, match=r"the card of .*levels must"):
        load_model(ModelSpec(name=name))


def test_defences_around_a_finished_model() -> None:
    name = "zoo:digits/linear"
    plain = load_model(ModelSpec(name=name))
    coarse = load_model(ModelSpec(name=name, defenses=(BitDepth(levels=2),)))
    finer = load_model(ModelSpec(name=name, defenses=(BitDepth(levels=3),)))
    x = data.load("digits", samples=20).x
    assert torch.equal(coarse.model(x), plain.model(x.round()))
    assert coarse.label == f"{name} + bit_depth"
    assert len({one.sha256 for one in (plain, coarse, finer)}) == 3
    with pytest.raises(ValueError, match="weight_decay acts while a network is trained"):
        load_model(ModelSpec(name=name, defenses=(WeightDecay(),)))
    with pytest.raises(ValueError, match="BitDepth is listed twice"):
        load_model(ModelSpec(name=name, defenses=(BitDepth(), BitDepth())))


def test_settings_of_a_defence_are_part_of_the_address() -> None:
    model = Linear().build((1, 8, 8), 10)
    one, two = RandomizedSmoothing(sigma=0.1), RandomizedSmoothing(sigma=0.2)
    assert content_address(model, (one,)) != content_address(model, (two,))
    assert content_address(model, (WeightDecay(),)) == content_address(model)
