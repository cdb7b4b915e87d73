"""Moment matching: its statistics by hand, where it acts, its files, and the commands that use them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import built
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.testing import assert_close
from typer.testing import CliRunner

from layermask import InputError, LayerMasking, Settings
from layermask.check.samples import masks, sample_images
from layermask.cli.app import app
from layermask.removal.adaptive import Adaptive
from layermask.removal.fitted import default_file, give
from layermask.removal.matched import Matched, _patches
from layermask.removal.moments import hidden_share
from layermask.removal.registry import removal, statistics_record
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

SIZE = (3, 14, 14)
IMAGES = sample_images(12, SIZE, seed=1)
SEEN = masks(IMAGES[:6], ["coarse", "pixel", "block"], seed=2)
STEADY = Settings.steady()


class Net(nn.Module):
    """Two convolutions, each with a norm."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), norm(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, stride=2, padding=1), norm(6)
        self.head = nn.Linear(6, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.2, 0.8)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.head(self.norm2(self.conv2(x)).relu().mean((2, 3)))


class Fixed(nn.Module):
    """x * scale + shift, per channel."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (x.view(1, -1, 1, 1) for x in (scale, shift))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def net(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    return Net(norm).eval()


def of_visible(model: nn.Module, module: nn.Module, visible: Tensor) -> list[Tensor]:
    """The visible entries of each channel of what a module is given under masks, over all images."""
    found = []

    def look(_: nn.Module, given: tuple) -> None:
        x = given[0]
        shown = x.visible.expand_as(x.value)
        found.extend(x.value[:, c][shown[:, c]] for c in range(x.value.shape[1]))

    handle = module.register_forward_pre_hook(look)
    with torch.no_grad():
        LayerMasking(model, settings=STEADY, engine="dense")(IMAGES, visible)
    handle.remove()
    return found


def moments(entries: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.stack([e.mean() for e in entries]), torch.stack([e.var(correction=0) for e in entries])


def by_hand(model: nn.Module, level: float, seed: int) -> nn.Module:
    """A copy in which what is given to each norm is brought back half of the way, layer after layer."""
    copied, whole = copy.deepcopy(model), torch.ones_like(IMAGES[:, :1], dtype=torch.bool)
    visible = _patches(IMAGES, level, seed)
    for name in ("norm1", "norm2"):
        norm = getattr(copied, name)
        (m0, v0), (mh, vh) = (
            moments(of_visible(model, getattr(model, name), whole)),
            moments(of_visible(copied, norm, visible)),
        )
        m, v = (m0 + mh) / 2, (v0 + vh) / 2
        scale = ((v0 + norm.eps) / (v + norm.eps)).sqrt()
        setattr(copied, name, nn.Sequential(Fixed(scale, m0 - m * scale), norm))
    return copied


@pytest.mark.parametrize("place", [0, 1])
def test_answers_are_those_of_the_formula_layer_after_layer(place: int) -> None:
    model, levels = net(), (0.25, 0.5)
    removed = Matched(model, engine="dense").fit(IMAGES, levels=levels, seed=4)
    visible = _patches(IMAGES, levels[place], 9)
    with torch.no_grad():
        wanted = LayerMasking(by_hand(model, levels[place], 4 + place), settings=STEADY, engine="dense")
        assert_close(removed(IMAGES, visible), wanted(IMAGES, visible), rtol=1e-4, atol=1e-5)
        steady = LayerMasking(model, settings=STEADY, engine="dense")(IMAGES, visible)
    assert (removed(IMAGES, visible) - steady).abs().max() > 0.01


def test_the_correction_follows_the_hidden_share_of_each_image() -> None:
    found = Matched(net()).fit(IMAGES, levels=(0.25, 0.5)).statistics
    assert found is not None
    shares = torch.tensor([0.0, 0.125, 0.25, 0.375, 0.5, 0.9])
    (scale, shift), _ = found.scale_and_shift(shares, 1.0)
    assert torch.equal(scale[0], torch.ones(6)) and torch.equal(shift[0], torch.zeros(6))
    assert torch.equal(scale[4], scale[5]) and torch.equal(shift[4], shift[5])
    v, eps = found.variance[:, :6], found.eps[:6]
    for row, (a, b) in {1: (0, 1), 3: (1, 2)}.items():  # halfway between the levels
        assert_close(scale[row], ((v[0] + eps) / ((v[a] + v[b]) / 2 + eps)).sqrt())
    (half, _), _ = found.scale_and_shift(shares, 0.5)
    assert_close(half[4], ((v[0] + eps) / ((v[0] + v[2]) / 2 + eps)).sqrt())


def test_the_share_is_exact_where_nothing_is_hidden() -> None:
    visible = torch.ones(3, 1, 321, 477, dtype=torch.bool)
    visible[1, :, :100], visible[2] = False, False
    assert hidden_share(visible, torch.float16).tolist() == [0.0, pytest.approx(100 / 321), 1.0]


def test_levels_hide_exactly_their_share() -> None:
    assert {float(1 - m.float().mean()) for m in _patches(IMAGES, 0.5, 0)} == {0.5}
    assert _patches(torch.zeros(2, 3, 9), 0.4, 0).shape == (2, 1, 9)
    assert _patches(torch.zeros(2, 3, 4, 20, 16), 0.4, 0).shape == (2, 1, 4, 20, 16)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda n: nn.GroupNorm(2, n),
    "instance": lambda n: nn.InstanceNorm2d(n, affine=True),
    "none": lambda n: nn.Identity(),
}


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RMSNorm2d(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("norm", [*NORMS.values(), LayerNorm2d, RMSNorm2d], ids=[*NORMS, "layer", "rms"])
def test_where_a_network_is_matched(norm: Callable[[int], nn.Module], engine: str) -> None:
    model = net(norm)
    removed = Matched(model, engine=engine).fit(IMAGES)
    assert removed.statistics.place == ("convolutions" if norm is NORMS["none"] else "norms")
    assert removed.statistics.channels == (6, 6)
    with torch.no_grad():
        found = removed(IMAGES[:6], SEEN)
        dense = Matched(model, engine="dense")
        dense.statistics = removed.statistics
        assert_close(found, dense(IMAGES[:6], SEEN), rtol=1e-4, atol=1e-5)
        steady = LayerMasking(model, settings=STEADY)(IMAGES[:6], SEEN)
        assert (
            torch.equal(removed(IMAGES[:2], torch.ones(1, 1, 14, 14)), model(IMAGES[:2]))
            or engine == "sparse"
        )
        assert_close(removed(IMAGES[:2], torch.ones(1, 1, 14, 14)), model(IMAGES[:2]), rtol=1e-5, atol=1e-6)
    # an instance norm undoes what is done to a channel before it
    assert ((found - steady).abs().max() > 1e-3) == (norm is not NORMS["instance"])


@pytest.mark.parametrize("name", ["Gated", "Branches", "ChannelsLast", "Attending"])
def test_engines_agree(name: str) -> None:
    model = built(name)
    dense = Matched(model, engine="dense").fit(IMAGES)
    sparse = Matched(model, engine="sparse")
    sparse.statistics = dense.statistics
    with torch.no_grad():
        visible = masks(IMAGES, ["patches", "coarse", "block", "pixel"], seed=2)
        assert_close(sparse(IMAGES, visible), dense(IMAGES, visible), rtol=1e-4, atol=1e-5)


def test_folded_norms_are_matched_behind_their_convolutions() -> None:
    model, folded = net(), net()
    for number in (1, 2):
        conv, norm = getattr(folded, f"conv{number}"), getattr(folded, f"norm{number}")
        setattr(folded, f"conv{number}", fuse_conv_bn_eval(conv, norm))
        setattr(folded, f"norm{number}", nn.Identity())
    ours, theirs = (Matched(each).fit(IMAGES) for each in (model, folded))
    assert (ours.statistics.place, theirs.statistics.place) == ("norms", "convolutions")
    with torch.no_grad():
        assert_close(ours(IMAGES[:6], SEEN), theirs(IMAGES[:6], SEEN), rtol=1e-3, atol=1e-4)


def test_programs_of_aten_are_matched_too() -> None:
    model = net()
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    for module in program.modules():
        module.training = False  # it refuses to be asked to
    ours, theirs = (Matched(each, engine="dense").fit(IMAGES) for each in (model, program))
    assert theirs.statistics.channels == (6, 6) and theirs.statistics.place == "norms"
    with torch.no_grad():
        assert_close(theirs(IMAGES[:6], SEEN), ours(IMAGES[:6], SEEN))


def test_windows_and_vectors_are_left_alone() -> None:
    class Windowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.LayerNorm(3) for _ in range(3))
            self.pooled = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.permute(0, 2, 3, 1))
            x = self.second(x.reshape(len(x) * 2, 7, 14, 3)).reshape(x.shape)
            return self.third(self.pooled(x.mean((1, 2))[..., None, None]).flatten(1))

    assert Matched(Windowed().eval()).fit(IMAGES).statistics.channels == (3,)


@pytest.mark.parametrize("make", [lambda matched: matched, lambda matched: Adaptive(matched.model, matched)])
def test_compiled_in_one_graph(make: Callable[[Matched], nn.Module]) -> None:
    removed = make(Matched(net()).fit(IMAGES))
    torch.compiler.reset()
    compiled = torch.compile(removed, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(IMAGES[:6], SEEN), removed(IMAGES[:6], SEEN))


def test_what_is_fitted_moves_with_the_operator() -> None:
    removed = Matched(net()).fit(IMAGES).double()
    assert removed(IMAGES[:6].double(), SEEN).dtype is torch.float64


class Fickle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms, self.takes = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(6)]), 0

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.takes == 0 else torch.cat([x, x], 1)
        return self.norms[self.takes](x).mean((2, 3))


def refused_unfitted() -> None:
    Matched(net())(IMAGES, SEEN[:1])


def refused_size() -> None:
    Matched(net()).fit(IMAGES)(torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16))


def refused_fickle() -> None:
    model = Fickle().eval()
    removed = Matched(model).fit(IMAGES)
    model.takes = 1
    removed(IMAGES, SEEN[:1])


REFUSED: dict[str, Callable[[], object]] = {
    "call fit": refused_unfitted,
    "statistics are of images \\(3, 14, 14\\), and these are \\(3, 16, 16\\)": refused_size,
    "give 10 or more to fit on": lambda: Matched(net()).fit(IMAGES[:9]),
    "N above 0": lambda: Matched(net()).fit(IMAGES[:0]),
    "levels": lambda: Matched(net()).fit(IMAGES, levels=(0.5, 0.2)),
    "levels\\[0\\]": lambda: Matched(net()).fit(IMAGES, levels=(1.0,)),
    "strength": lambda: Matched(net(), strength=1.5),
    "images hold NaN": lambda: Matched(net()).fit(IMAGES * float("nan")),
    "neither norms nor convolutions": lambda: Matched(nn.Flatten()).fit(IMAGES),
    "other layers": refused_fickle,
    "not a list": lambda: Matched(net()).fit(IMAGES)([IMAGES[0]], [SEEN[0]]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


# Files


def loaded(model: nn.Module) -> Loaded:
    return Loaded(model, Preprocessing((14, 14), (14, 14)), (), "tests/net")


def test_a_file_gives_the_same_operator(tmp_path: Path) -> None:
    model, file = net(), tmp_path / "deep" / "net.safetensors"
    removed = Matched(model, strength=0.7).fit(IMAGES)
    removed.save(file, loaded(model))
    read = Matched.load(file, model, loaded(model).preprocessing)
    assert read.strength == 0.7 and read.statistics.images == 12
    assert torch.equal(read(IMAGES[:6], SEEN), removed(IMAGES[:6], SEEN))
    assert file.stat().st_size < 10_000 and b"tests/net" in file.read_bytes()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, file = net(), tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="call fit"):
        Matched(model).save(file)
    Matched(model).fit(IMAGES).save(file, loaded(model))
    other = net()
    with torch.no_grad():
        other.head.bias += 1
    with pytest.raises(InputError, match="statistics of tests/net with other weights than this Net has"):
        Matched.load(file, other)
    with pytest.raises(InputError, match="preprocessed as"):
        Matched.load(file, model, Preprocessing((14, 14), (14, 14), mean=(0.5, 0.5, 0.5)))
    with pytest.raises(InputError, match=r"collected with Settings.*fit again"):
        Matched.load(file, model, growth="any")
    with pytest.raises(InputError, match="does not exist"):
        Matched.load(tmp_path / "nothing", model)
    for content in (b"", b"none", file.read_bytes()[:-9], json.dumps({}).encode()):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(InputError, match="holds no statistics that"):
            Matched.load(tmp_path / "bad", model)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_removal_by_name_finds_the_file_of_its_model(cache: Path, tmp_path: Path) -> None:
    model, preprocessing = net(), loaded(net()).preprocessing
    for name in ("matched", "adaptive-matched"):
        with pytest.raises(InputError, match=r"`layermask fit MODEL --data DIR`.*--fitted"):
            removal(name, model, preprocessing)
    assert statistics_record(model, ["matched"]) == {}
    fitted = Matched(model).fit(IMAGES)
    fitted.save(default_file(model), loaded(model))
    assert cache in default_file(model).parents
    assert torch.equal(removal("matched", model, preprocessing)(IMAGES[:6], SEEN), fitted(IMAGES[:6], SEEN))
    kept = statistics_record(model, ["greyout", "adaptive-matched"])
    assert kept and statistics_record(model, ["greyout"]) == {}
    Matched(model).fit(IMAGES, levels=(0.9,)).save(tmp_path / "given", loaded(model))
    give(model, tmp_path / "given")
    assert removal("adaptive-matched", model, preprocessing).holes.statistics.levels.tolist() == [
        pytest.approx(0.9)
    ]
    assert statistics_record(model, ["matched"]) != kept
    with pytest.raises(InputError, match="other weights"):
        give(net(lambda n: nn.Identity()), tmp_path / "given")


# The command


def make() -> nn.Module:
    return net()


def ask(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures without labels, in folders of no known layout, and a mask."""
    pictures = tmp_path / "pictures"
    for name in ("one", "two"):
        (pictures / name).mkdir(parents=True)
    pixels = (sample_images(12, (3, 40, 50), seed=7) * 60 + 128).clamp(0, 255).byte()
    for number, x in enumerate(pixels):
        place = pictures / ("one", "two")[number % 2]
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(place / f"{number}.png")
    Image.fromarray((F.pad(torch.ones(20, 25), (0, 25, 0, 20)) * 255).byte().numpy()).save(tmp_path / "m.png")
    return pictures


def test_fit_and_then_predict(folder: Path, cache: Path, tmp_path: Path) -> None:
    model = "test_matched:make"
    out = ask("fit", model, "--data", folder, "--device", "cpu")
    assert "statistics of 12 channels at 2 norms, from 12 pictures" in " ".join(out.split())
    (file,) = (cache / "layermask" / "fitted").iterdir()
    place = (
        folder / "one" / "0.png",
        "--mask",
        tmp_path / "m.png",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    how = ("--model", model, "--against", "matched,adaptive-matched", "--json")
    record = json.loads(ask("predict", *place, *how))
    assert {"matched", "adaptive-matched", "layermask"} <= record["answers"].keys()
    assert record["request"]["fitted"]
    ask("fit", model, "--data", folder, "--device", "cpu", "--seed", 5, "--out", tmp_path / "own", "--json")
    again = json.loads(ask("predict", *place, *how, "--fitted", tmp_path / "own"))
    assert again["request"]["fitted"] != record["request"]["fitted"]
    assert again["answers"]["matched"] != record["answers"]["matched"]
    assert again["answers"]["layermask"] == record["answers"]["layermask"]
    file.unlink()
    bad = CliRunner().invoke(app, [*map(str, ("predict", *place, *how))])
    assert bad.exit_code == 2 and "layermask fit MODEL" in bad.output


def test_too_few_pictures_are_refused(folder: Path, cache: Path) -> None:
    bad = CliRunner().invoke(app, ["fit", "test_matched:make", "--data", str(folder), "--limit", "5"])
    assert bad.exit_code == 2 and "give 10 or more to fit on" in bad.output
    bad = CliRunner().invoke(app, ["fit", "test_matched:make", "--data", str(cache)])
    assert bad.exit_code == 2
