"""`compare`: the stages of models are found, their maps are the models' own, and the sheet can be read."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image, ImageDraw
from sheets import readable_texts
from torch import nn
from typer.testing import CliRunner

from layermask.cli.app import app
from layermask.cli.jobs import load_model
from layermask.core.masked import Masked
from layermask.data.images import load_image
from layermask.errors import InputError, MissingPackage
from layermask.explain.feature_maps import (
    FeatureMap,
    activations,
    distance,
    find_places,
    most_varying_channel,
)
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.registry import REMOVALS, removal
from layermask.removal.token_dropping import TokenDropping
from layermask.studies import hidden as hiding
from layermask.studies.comparison import study as comparison
from layermask.studies.comparison.figure import Column, Tile, comparison_sheet, map_picture
from layermask.studies.prepared import PreparedImage, open_image
from layermask.zoo.preprocessing import Preprocessing

# Stages


def prepared(photograph: Path) -> PreparedImage:
    return open_image(photograph, *load_model("builtin", None, "cpu"), None)


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    library, _, name = name.partition("/")
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    return make(name, **options).eval()


class HuggingFaceViT(nn.Module):
    """A backbone within a wrapper, whose outputs are dictionaries, with attention spelled out."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
        config = ViTConfig(**sizes, image_size=64, attn_implementation="eager")
        self.inner = ViTForImageClassification(config)

    def forward(self, x):
        return self.inner(x)


FEATURES = "features.{} features.{} features.{} features.{} features.{} features.{} features.{} {}"
STAGES = {
    "torchvision/resnet18": "conv1 relu maxpool layer1 layer2 layer3 layer4",
    "torchvision/alexnet": FEATURES.format(0, 1, 2, 4, 5, 11, 12, "avgpool"),
    "timm/efficientnet_lite0": "conv_stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 bn2",
    "torchvision/swin_t": FEATURES.format(0, 1, 2, 3, 4, 5, 6, "permute"),
    "timm/pvt_v2_b0": "patch_embed stages.0 stages.1 stages.2 stages.3",
    "timm/vit_tiny_patch16_224": "patch_embed norm",
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_begin_and_end_where_they_should(name):
    size = 128 if name == "torchvision/swin_t" else 224
    places = find_places(build(name), torch.zeros(1, 3, size, size))
    assert [place.module for place in places] == STAGES[name].split()
    areas = [place.size[0] * place.size[1] for place in places]
    assert areas == sorted(areas, reverse=True)


def test_a_backbone_in_a_wrapper():
    model = HuggingFaceViT().eval()
    places = find_places(model, torch.zeros(1, 3, 64, 64))
    assert [place.module for place in places] == ["inner.vit.embeddings", "inner.vit.layernorm"]
    assert {place.size for place in places} == {(4, 4)}


def test_class_tokens_are_left_out():
    model = build("timm/vit_tiny_patch16_224", img_size=(64, 96), depth=2)
    first, last = find_places(model, torch.zeros(1, 3, 64, 96))
    assert first.cells == tuple(range(24)) and last.cells == tuple(range(1, 25))
    assert first.size == last.size == (4, 6)


def test_a_model_without_maps_has_no_places():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).eval()
    assert find_places(model, torch.zeros(1, 3, 8, 8)) == []


class Twice(nn.Module):
    """Calls one module twice, at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, stride=2, padding=1)

    def forward(self, x):
        return self.layer(self.layer(x)).mean((2, 3))


def test_a_module_that_is_called_twice():
    model = Twice().eval()
    x = torch.randn(1, 3, 16, 16)
    places = find_places(model, x)
    assert [(place.module, place.call, place.size) for place in places] == [
        ("layer", 0, (8, 8)),
        ("layer", 1, (4, 4)),
    ]
    first, second = activations(model, lambda: model(x), places)
    assert torch.equal(first.values, model.layer(x)[0])
    assert torch.equal(second.values, model.layer(model.layer(x))[0])


# Maps


def test_what_is_changed_in_place_afterwards_is_kept():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)).eval()
    x = torch.randn(1, 3, 8, 8)
    first, last = activations(model, lambda: model(x), find_places(model, x))
    assert first.values.min() < 0 and last.values.min() == 0
    assert torch.equal(first.values.relu(), last.values)


def half(height: int, width: int) -> torch.Tensor:
    visible = torch.ones(1, 1, height, width, dtype=torch.bool)
    visible[..., : height // 2, : width // 3] = False
    return visible


MAPS = ("torchvision/resnet18", "timm/vit_tiny_patch16_224", "torchvision/swin_t")


@pytest.fixture(scope="module", params=MAPS)
def found(request):
    """A model, a picture that is not square, and its places."""
    options = {"img_size": (64, 96), "depth": 2} if request.param.startswith("timm") else {}
    model, x = build(request.param, **options), torch.randn(1, 3, 64, 96)
    return model, x, find_places(model, x)


def test_maps_are_what_the_modules_return(found):
    model, x, places = found
    maps = activations(model, lambda: model(x), places)
    returned = {}
    hooks = [
        model.get_submodule(place.module).register_forward_hook(
            lambda module, args, out, name=place.module: returned.update({name: out[0]})
        )
        for place in places
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    for place, each in zip(places, maps, strict=True):
        out = returned[place.module]
        assert each.values.shape[1:] == each.visible.shape == place.size and each.visible.all()
        if len(place.axes) == 1:  # tokens: by hand, from the last ones
            out = out[-place.size[0] * place.size[1] :].T.reshape(-1, *place.size)
        elif place.axes == (1, 2):  # channels last
            out = out.permute(2, 0, 1)
        assert torch.equal(each.values, out)


def test_full_masks_change_no_map(found):
    model, x, places = found
    plain = activations(model, lambda: model(x), places)
    full = activations(model, lambda: LayerMasking(model)(x, torch.ones_like(x[:, :1])), places)
    for one, other in zip(plain, full, strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-5)
        assert torch.equal(one.visible, other.visible)


def test_maps_lie_as_the_picture_lies(found):
    """What is hidden at the top left of the picture is hidden at the top left of every map, and is 0."""
    model, x, places = found
    visible = half(64, 96)
    maps = activations(model, lambda: LayerMasking(model, growth="center")(x, visible), places)
    for place, each in zip(places, maps, strict=True):
        h, w = place.size
        assert each.visible[h // 2 :].all() and each.visible[:, w // 3 :].all()
        if h >= 4:
            assert not each.visible[: h // 2 - 1, : w // 3 - 1].any()
        assert (each.values[:, ~each.visible] == 0).all()


def test_hidden_pixels_reach_no_map(found):
    model, x, places = found
    visible = half(64, 96)
    maps = [
        activations(model, lambda hidden=hidden: LayerMasking(model)(hidden, visible), places)
        for hidden in (x, x.masked_fill(~visible, float("nan")))
    ]
    for one, other in zip(*maps, strict=True):
        assert torch.equal(one.values, other.values) and torch.equal(one.visible, other.visible)


def test_the_masks_are_those_of_the_pass():
    model = build("torchvision/resnet18")
    x, visible = torch.randn(1, 3, 64, 64), half(64, 64)
    seen = []
    hook = model.layer2.register_forward_hook(lambda module, args, out: seen.append(out))
    places = [place for place in find_places(model, x) if place.module == "layer2"]
    (each,) = activations(model, lambda: LayerMasking(model)(x, visible), places)
    hook.remove()
    assert isinstance(seen[-1], Masked)
    assert torch.equal(each.visible, seen[-1].visible[0, 0]) and not each.visible.all()


def test_no_hook_is_left(found):
    model, x, places = found

    def fail():
        model(x)
        raise KeyError

    with pytest.raises(KeyError):
        activations(model, fail, places)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_what_cannot_be_asked():
    model = build("timm/vit_tiny_patch16_224", depth=2)
    x = torch.randn(1, 3, 224, 224)
    with pytest.raises(InputError, match=r"expected one image .*, got \(2, 3, 224, 224\)"):
        find_places(model, x.expand(2, -1, -1, -1))
    with pytest.raises(InputError, match=r"VisionTransformer is in training mode: call model.eval\(\)"):
        find_places(model.train(), x)
    model.eval()
    places = find_places(model, x)
    with pytest.raises(InputError, match="the model was not run through 'patch_embed'"):
        activations(model, lambda: None, places)
    visible = torch.ones_like(x[:, :1], dtype=torch.bool)
    visible[..., :112] = False
    dropping = TokenDropping(model)
    dropping(x, visible)
    with pytest.raises(InputError, match=r"'norm' gave \(1, 99, 192\) .* map \(14, 14\) was expected"):
        activations(model, lambda: dropping(x, visible), places)
    with pytest.raises(InputError, match="give one image"):
        activations(model, lambda: model(x.expand(2, -1, -1, -1)), places)


def test_the_channel_with_the_largest_variance():
    values = torch.zeros(3, 4, 4)
    values[0], values[1, 0, 0], values[2] = 9.0, 3.0, torch.linspace(0, 2, 16).view(4, 4)
    each = FeatureMap(values, torch.ones(4, 4, dtype=torch.bool))
    assert most_varying_channel(each) == 1
    assert torch.equal(each.channel(1).values, values[1:2])


def test_distance_is_relative_and_where_asked():
    whole = FeatureMap(torch.full((2, 1, 2), 2.0), torch.ones(1, 2, dtype=torch.bool))
    other = FeatureMap(torch.tensor([[[3.0, 99.0]], [[1.0, 99.0]]]), whole.visible)
    where = torch.tensor([[True, False]])
    assert distance(other, whole, where) == pytest.approx(0.5)
    assert distance(other, whole, ~where) > 10
    assert distance(other, whole, where & False) is None


# The sheet

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
LONG = "black-footed ferret of the northern plains, and a name that never ends"
ROWS = ("whole image", comparison.GREY, comparison.MASKED, comparison.ZERO)


def test_maps_are_grey_between_the_limits_and_checkered_where_hidden():
    values = torch.tensor([[[-1.0, 0.0], [1.0, 5.0]]])
    drawn = map_picture(FeatureMap(values, torch.tensor([[True, True], [True, False]])), (-1.0, 1.0), size=64)
    assert drawn.shape == (64, 64, 3) and (drawn == drawn[..., :1]).all()
    assert (drawn[:32, :32] == 0).all() and (drawn[:32, 32:] == 128).all() and (drawn[32:, :32] == 255).all()
    assert set(np.unique(drawn[32:, 32:])) == {215, 245}


def test_the_scale_of_a_column_is_that_of_what_is_visible():
    shown = FeatureMap(torch.tensor([[[-3.0, 0.5]]]), torch.tensor([[False, True]]))
    other = FeatureMap(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[True, True]]))
    assert Column(("a", "b"), {"one": shown, "other": other}, {}).limits() == (0.0, 2.0)
    nothing = FeatureMap(torch.zeros(1, 1, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert Column(("a", "b"), {"one": nothing}, {}).limits() == (0.0, 0.0)


def sheet(tiles: int, columns: int):
    usual = [None, (LONG, 0.123)]
    drawn = [Tile(f"removal-{i}", LONG * 2, PICTURE, LONG, 1.0, usual[i % 2]) for i in range(tiles)]
    each = FeatureMap(torch.randn(1, 4, 6) * 1e-5, torch.rand(4, 6) > 0.3)
    off = dict.fromkeys(ROWS[1:], 1.234)
    column = Column((f"{LONG}.layer", "224×224", "channel 1999"), dict.fromkeys(ROWS, each), off)
    return comparison_sheet(
        LONG * 3, drawn, dict.fromkeys(ROWS, PICTURE), [column] * columns, [LONG * 4, LONG]
    )


@pytest.mark.parametrize("sizes", [(1, 0), (2, 2), (8, 1), (18, 9), (3, 14)])
def test_no_text_is_cut_off_or_covers_another(sizes):
    figure = sheet(*sizes)
    boxes = readable_texts(figure)
    assert len(boxes) > 7
    pictures = [axes.get_window_extent() for axes in figure.axes]
    for one, other in itertools.combinations(pictures, 2):
        assert not one.overlaps(other)
    for text, box in boxes:
        assert text.startswith(("✓", "✗")) or text == "100.0 %" or not any(map(box.overlaps, pictures)), text


# The command


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert result.exit_code == status, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def compared(photograph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    result = run(photograph, "--hide", 0.4, "--seed", 3, "--device", "cpu", "--out", folder)
    return folder, result.stdout, json.loads((folder / "chelsea_compare.json").read_text())


def test_every_removal_is_there_or_says_why_not(compared):
    folder, said, record = compared
    assert sorted([*record["answers"], *record["left_out"]]) == sorted(["whole image", *REMOVALS])
    assert {"layermask", "greyout", "blackout"} <= set(record["answers"])
    assert all(len(why) > 20 for why in record["left_out"].values())
    for name in (*record["answers"], *record["left_out"]):
        assert f"  {name} " in said or f"left out: {name}: " in said
    assert "38.6 %  tiger cat" in said
    assert load_image(folder / "chelsea_compare.png").width > 1500


def test_the_answers_can_be_had_again_from_the_record(compared, photograph, builtin):
    record = compared[2]
    preprocessing = Preprocessing.restore(record["model"]["preprocessing"])
    x = preprocessing(load_image(photograph))
    assert record["mask"] == {"hide": 0.4, "seed": 3, "patch": 16, "visible": pytest.approx(118 / 196)}
    visible = hiding._patches(prepared(photograph), 0.4, 3)
    usual = record["predictions"][0]["class"]
    for name in ("layermask", "greyout"):
        with torch.no_grad():
            want = removal(name, builtin.model, preprocessing)(x, visible).softmax(1)[0]
        answer = record["answers"][name]
        for entry in answer["predictions"]:
            assert entry["probability"] == pytest.approx(float(want[entry["class"]]), abs=1e-5)
        assert answer["usual"] == pytest.approx(float(want[usual]), abs=1e-5)
        assert answer["same"] == (int(want.argmax()) == usual)


def test_layer_masking_stays_nearer_to_the_whole_image(compared):
    """The point of the paper's Figure 2, at every stage of the embedded model."""
    for stage in compared[2]["inside"]:
        off = stage["off"]
        assert off["layer masking"] < off["grey fill"]
        assert off["layer masking"] < off["layer masking, zero padding"]
    assert [stage["size"][0] for stage in compared[2]["inside"]] == [112, 112, 56, 28, 14, 14, 7, 7]


def test_tiles_show_what_enters_the_model(photograph):
    scene = prepared(photograph)
    visible = hiding._patches(scene, 0.5, 0)
    hidden = ~visible[0, 0].numpy()
    operators = comparison.Operators(scene.loaded)
    black = comparison._answer_under(scene, visible, "blackout", operators).picture
    masked = comparison._answer_under(scene, visible, "layermask", operators).picture
    assert (black[hidden] == 0).all()
    assert set(np.unique(masked[hidden])) == {215, 245}
    for picture in (black, masked):
        np.testing.assert_array_equal(picture[~hidden], scene.picture[~hidden])
    assert not scene.loaded.model._forward_pre_hooks


OWN = """
import torch
from torch import nn
def five():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 9, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
def no_maps():
    torch.manual_seed(0)
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 5)
        def forward(self, x):
            return self.head(x.mean((2, 3)))
    return Net().eval()
def no_rule():
    class Net(nn.Module):
        def forward(self, x):
            return torch.renorm(x, 2, 0, 1e9).mean((2, 3))
    return Net().eval()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_compare_code.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_compare_code", raising=False)
    few = ("layermask", "greyout")
    monkeypatch.setattr("layermask.removal.registry.REMOVALS", {name: REMOVALS[name] for name in few})
    return tmp_path


def test_a_mask_a_model_of_ones_own_and_the_same_bytes_again(own, photograph):
    picture = Image.new("L", (451, 300))
    ImageDraw.Draw(picture).ellipse((120, 20, 330, 280), fill=255)
    picture.save("mask.png")
    arguments = photograph, "--model", "own_compare_code:five", "--mask", "mask.png", "--json"
    first = run(*arguments, "--out", "one").stdout
    record = json.loads(first)
    assert record["mask"]["file"] == "mask.png" and record["mask"]["visible"] == pytest.approx(
        0.626, abs=1e-3
    )
    assert [stage["module"] for stage in record["inside"]] == ["0", "1"]
    run(*arguments, "--out", "two")
    for path in (own / "one").iterdir():
        assert path.read_bytes() == (own / "two" / path.name).read_bytes(), path.name


def test_quiet_prints_nothing(own, photograph):
    assert run(photograph, "--model", "own_compare_code:five", "--quiet").output == ""
    assert (own / "chelsea_compare.png").exists()


def test_a_model_without_maps(own, photograph):
    result = run(photograph, "--model", "own_compare_code:no_maps")
    assert "No feature maps: no module of this Net gives a grid of positions." in result.stdout
    assert "No feature maps" in json.loads((own / "chelsea_compare.json").read_text())["inside"]


def test_a_model_without_rules(own, photograph):
    record = json.loads(run(photograph, "--model", "own_compare_code:no_rule", "--json").stdout)
    assert list(record["answers"]) == ["whole image", "greyout"]
    assert "torch.renorm has no rule" in record["left_out"]["layermask"]
    assert "torch.renorm has no rule" in record["inside"]


def test_an_absent_package_leaves_a_removal_out(own, photograph, monkeypatch):
    def absent(name, *args):
        if name == "greyout":
            raise MissingPackage("this needs the package abacus, which is not installed")
        return removal(name, *args)

    monkeypatch.setattr("layermask.removal.registry.removal", absent)
    monkeypatch.setattr(comparison, "_inside", lambda *args: "No feature maps.")
    result = run(photograph, "--model", "own_compare_code:five")
    assert "left out: greyout: this needs the package abacus, which is not installed" in result.stdout


def test_seeds_hide_other_patches_and_shares_are_kept(photograph):
    scene = prepared(photograph)
    one, other = (hiding._patches(scene, 0.25, seed) for seed in (0, 1))
    assert one.shape == (1, 1, 224, 224) and not torch.equal(one, other)
    assert one.float().mean() == other.float().mean() == 0.75
    assert torch.equal(one, one[..., ::16, ::16].repeat_interleave(16, 2).repeat_interleave(16, 3))
    for share, count in ((1e-6, 195), (1 - 1e-6, 1)):  # never nothing hidden, never everything
        assert round(float(hiding._patches(scene, share, 0).float().mean()) * 196) == count


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--hide", 0), "--hide 0: give a share of the patches above 0 and below 1"),
        (("--hide", 1.5), "--hide 1.5"),
        (("--hide", 0.5, "--mask", "m.png"), "--mask m.png and --hide 0.5 both say what is hidden"),
        (("--mask", "m.png"), "m.png does not exist"),
        (("--model", "resnt50"), "unknown model 'resnt50'"),
    ],
)
def test_bad_options(own, photograph, arguments, words):
    result = run(photograph, *arguments, status=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and words in lines[0]
    assert not list(own.glob("chelsea*"))


def test_what_holds_no_data_is_hidden_under_every_removal(tmp_path: Path) -> None:
    """Whatever colour it has; removals that paint from what hidden pixels held are left out and named."""
    mask = np.full((120, 160), 255, np.uint8)
    mask[:40, 60:] = 0
    Image.fromarray(mask).save(tmp_path / "data.png")
    colours = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    found = []
    for colour in (0, 255):
        path = tmp_path / f"{colour}.png"
        Image.fromarray(np.where(mask[..., None] == 0, np.uint8(colour), colours)).save(path)
        nodata = ("--nodata", str(tmp_path / "data.png"))
        result = CliRunner().invoke(app, ["compare", str(path), *nodata, "--out", str(tmp_path), "--quiet"])
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / f"{colour}_compare.json").read_text()))
    first, second = found
    assert first["request"]["nodata"] == second["request"]["nodata"]
    assert first["mask"]["visible"] < 0.5  # half of the patches are hidden, and what holds no data
    answers = [{n: a["predictions"] for n, a in each["answers"].items()} for each in found]
    assert answers[0].pop("whole image") != answers[1].pop("whole image")
    assert answers[0] == answers[1] and {"layermask", "greyout"} <= set(answers[0])
    reads = {name for name, removal in REMOVALS.items() if removal.reads_hidden}
    assert reads <= set(first["left_out"]) and "what hidden pixels held" in first["left_out"][min(reads)]
