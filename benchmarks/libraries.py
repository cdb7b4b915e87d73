"""Models of other libraries and of other tasks than classification: what `make coverage` judges besides.

`TABLE` maps a library to its names and how one is built: a module that takes images (N, C, *S), in eval mode,
with random weights, and the shape of one image. Models that take more than images get it here, the same for
each image.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from configurations import options_of
from torch import nn

from layermask.check.laws import leaves

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Library:
    """The package that it takes, the names of its models, and how one is built."""

    package: str
    names: Callable[[], Iterable[str]]
    build: Callable[[str], tuple[nn.Module, Shape]]


def names() -> list[str]:
    """Every model of the libraries that are installed, as "library/name"."""
    return [
        f"{library}/{name}"
        for library, entry in TABLE.items()
        if find_spec(entry.package)
        for name in entry.names()
    ]


def build(name: str) -> tuple[nn.Module, Shape]:
    """Return the model "library/name" in eval mode, and the shape of one image."""
    library, _, rest = name.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, shape = TABLE[library].build(rest)
    return model.eval(), shape


class Called(nn.Module):
    """A model that is called in another way than with images alone.

    Of its answer, those tensors are kept that have a row for each image, if `images` to try it on are given.
    """

    def __init__(
        self, model: nn.Module, call: Callable[[nn.Module, Any], Any], images: torch.Tensor | None = None
    ):
        super().__init__()
        self.model, self.call, self.kept = model, call, None
        if images is not None:
            with torch.no_grad():
                found = list(leaves(call(model.eval(), images)))
            self.kept = [each.ndim > 0 and len(each) == len(images) for each in found]

    def forward(self, images: Any) -> Any:
        found = self.call(self.model, images)
        if self.kept is None:
            return found
        return [each for each, kept in zip(leaves(found), self.kept, strict=True) if kept]


# --- torchvision's other tasks -------------------------------------------------------------------------

_NO_WEIGHTS = {"weights": None, "weights_backbone": None}


def _torchvision_names(task: str) -> list[str]:
    from torchvision import models

    return models.list_models(module=import_module(f"torchvision.models.{task}"))


def _segmenter(name: str) -> tuple[nn.Module, Shape]:
    from torchvision import models

    return models.get_model(name, num_classes=5, **_NO_WEIGHTS), (3, 64, 64)


def _detector(name: str) -> tuple[nn.Module, Shape]:
    """A detector of images of one size, of which the likeliest boxes are kept, whatever their score."""
    from torchvision import models

    stages = "rcnn" in name
    more: dict[str, Any] = dict(_PROPOSALS if stages else _BOXES)
    if not name.startswith("ssd"):
        more |= {"min_size": 96, "max_size": 96}
    model = models.get_model(name, num_classes=5, **_NO_WEIGHTS, **more)
    return Called(model, _boxes), (3, 96, 96)


KEPT = 8  # boxes of an image
_BOXES = {"score_thresh": 0.0, "topk_candidates": 40, "detections_per_img": KEPT}
_PROPOSALS = {
    **{"box_score_thresh": 0.0, "box_detections_per_img": KEPT},
    **{"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20},
}


def _boxes(model: nn.Module, images: Any) -> dict[str, Any]:
    """As many boxes of every image, with zeros where there are fewer."""
    found = model(list(images))
    return {key: torch.stack([_padded(each[key]) for each in found]) for key in found[0]}


def _padded(x: Any) -> Any:
    return torch.cat([x, x.new_zeros(KEPT - len(x), *x.shape[1:])])


def _video(name: str) -> tuple[nn.Module, Shape]:
    from torchvision import models

    side = 224 if name.startswith(("mvit", "s3d")) else 64
    return models.get_model(name, num_classes=5, weights=None), (3, 16, side, side)


# --- transformers --------------------------------------------------------------------------------------

TASKS = """
    image backbone image_classification semantic_segmentation instance_segmentation universal_segmentation
    image_segmentation depth_estimation normal_estimation object_detection masked_image_modeling
    image_to_image image_matting video_classification keypoint_detection pose_estimation
    zero_shot_image_classification zero_shot_object_detection mask_generation
    """.split()
SIDES = (64, 96, 128, 224)  # of images; the smallest that the model runs at
_LAYERS = "num_hidden_layers encoder_layers decoder_layers num_layers depth vision_layers".split()
_FEW_OF = {
    **dict.fromkeys(_LAYERS, 2),
    **{"num_queries": 20, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}


def _transformers_names() -> list[str]:
    from transformers.models.auto import modeling_auto

    found: dict[str, None] = {}
    for task in TASKS:
        name = (
            "MODEL_FOR_IMAGE_MAPPING_NAMES" if task == "image" else f"MODEL_FOR_{task.upper()}_MAPPING_NAMES"
        )
        for classes in getattr(modeling_auto, name, {}).values():
            found |= dict.fromkeys([classes] if isinstance(classes, str) else classes)
    return list(found)


def _transformers(name: str) -> tuple[nn.Module, Shape]:
    """The class `name` with its default configuration, but for fewer layers and smaller images."""
    failures = []
    for side in SIDES:
        try:
            model, shape = _of_side(name, side)
            with torch.no_grad():  # some norms take no single cell of a single image
                model(torch.zeros(1, *shape))
        except Exception as error:
            failures.append(error)
        else:
            return model, shape
    raise failures[-1]


def _of_side(name: str, side: int) -> tuple[nn.Module, Shape]:
    import transformers

    kind = getattr(transformers, name)
    options = options_of(name)
    config = kind.config_class(**copy.deepcopy(options))
    _shrink(config, {} if options else _FEW_OF)
    if hasattr(config, "use_pretrained_backbone"):
        config.use_pretrained_backbone = False
    vision = getattr(config, "vision_config", config)
    known = getattr(vision, "image_size", None)
    if known is not None:
        vision.image_size = side if isinstance(known, int) else type(known)([side] * len(known))
    model = kind(config)
    parts = (vision, config, getattr(config, "backbone_config", None))
    channels = next(filter(None, (getattr(part, "num_channels", None) for part in parts)), 3)
    frames = next(filter(None, (getattr(vision, key, None) for key in ("num_frames", "frames_per_clip"))), 4)
    call = next((each for key, each in CALLS.items() if name.startswith(key)), _with_words)
    videos = call in (_with_frames, _frame_by_frame, _frames_with_words)
    shape = (channels, frames, side, side) if videos else (channels, side, side)
    return Called(model, call, torch.zeros(3, *shape)), shape


def _shrink(config: Any, most: Mapping[str, int]) -> None:
    """At most so many of what has a name, but not where layers are stages; and lists, as files have them."""
    for name, value in list(vars(config).items()):
        if name in most and isinstance(value, int) and not getattr(config, "out_features", None):
            setattr(config, name, min(value, most[name]))
        elif isinstance(value, tuple):
            setattr(config, name, list(value))
        elif hasattr(value, "to_dict"):
            _shrink(value, most)


def _with_words(model: nn.Module, images: Any) -> Any:
    """Images, and a few words for models that read words too."""
    wanted = inspect.signature(model.forward).parameters
    if "input_ids" not in wanted:
        return model(images)
    if "pixel_values" not in wanted:
        raise TypeError("it takes numbers of colours, which are no pixels")
    pairs = hasattr(model, "logit_scale")  # one text for all images, whose answer has a row for each
    words = torch.arange(2, 10).expand(1 if pairs else len(images), 8)
    found = model(pixel_values=images, input_ids=words, attention_mask=torch.ones_like(words))
    return getattr(found, "logits_per_image", found)


def _with_one_text(model: nn.Module, images: Any) -> Any:
    words = torch.arange(2, 10)[None]
    return model(pixel_values=images, input_ids=words, attention_mask=torch.ones_like(words)).logits_per_image


def _in_words(model: nn.Module, images: Any) -> Any:
    """Images that stand between words, each of 4 tokens."""
    words = torch.tensor([[1, 5, 60, 60, 60, 60, 7, 9, 11]]).expand(len(images), -1)
    return model(pixel_values=images, input_ids=words, attention_mask=torch.ones_like(words))


def _with_frames(model: nn.Module, images: Any) -> Any:
    """Videos (N, C, T, H, W) with time before channels."""
    return model(images.transpose(1, 2))


def _frame_by_frame(model: nn.Module, images: Any) -> Any:
    """The same, where answers are for one frame of every video after the other."""
    found = leaves(_with_frames(model, images))
    return [each.unflatten(0, (-1, len(images))).transpose(0, 1) for each in found if each.ndim > 1]


def _in_patches(model: nn.Module, images: Any) -> Any:
    """Images as rows of patches, and how many there are along each side."""
    n, c, h, w = images.shape
    rows, side = h // 16, torch.tensor([[h // 16, w // 16]] * n)
    patches = images.reshape(n, c, rows, 16, w // 16, 16).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 256 * c)
    shown = torch.ones(patches.shape[:2], dtype=torch.long)
    if not hasattr(model, "logit_scale"):
        return model(pixel_values=patches, pixel_attention_mask=shown, spatial_shapes=side)
    words = torch.arange(2, 10)[None]
    more = {"input_ids": words, "pixel_attention_mask": shown, "spatial_shapes": side}
    return model(pixel_values=patches, **more).logits_per_image


def _with_classes(model: nn.Module, images: Any) -> Any:
    """Two classes to look for in each image, and a task, in words."""
    words, n = torch.arange(2, 10), len(images)
    classes = {"classes_input_ids": words.expand(2 * n, -1), "classes_attention_mask": torch.ones(2 * n, 8)}
    task = {"tasks_input_ids": words.expand(n, -1), "tasks_attention_mask": torch.ones(n, 8)}
    return model(images, **classes, **task, classes_structure=torch.tensor([2] * n))


def _frames_with_words(model: nn.Module, images: Any) -> Any:
    """What it answers of the videos; its logits are shares among all of them."""
    return model(images.transpose(1, 2), torch.arange(2, 10)[None]).video_embeds


def _points(model: nn.Module, images: Any) -> Any:
    """As many points of every image, with zeros where there are fewer."""
    found = model(images)
    parts = (found.keypoints, found.scores, found.descriptors)
    return [torch.stack([_padded(row) for row in part]) for part in parts]


def _as_tile(model: nn.Module, images: Any) -> Any:
    """One tile of one image."""
    one = torch.ones(len(images), 1, dtype=torch.long)
    return model(images[:, None, None], aspect_ratio_ids=one, aspect_ratio_mask=one[..., None])


def _with_task(model: nn.Module, images: Any) -> Any:
    return model(images, task_inputs=torch.arange(2, 10).expand(len(images), -1))


def _with_noise(model: nn.Module, images: Any) -> Any:
    """The noise that chooses which patches are left out, the same for every image."""
    patches = (images.shape[-1] // 16) ** 2
    order = torch.rand(1, patches, generator=torch.Generator().manual_seed(0))
    return model(images, noise=order.expand(len(images), -1))


CALLS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "ViTMAE": _with_noise,
    "VideoPrismClip": _frames_with_words,
    "Videomt": _frame_by_frame,
    **dict.fromkeys(("Align", "Blip2"), _with_one_text),
    "Cohere2Vision": _in_words,
    "Mllama": _as_tile,
    "OmDetTurbo": _with_classes,
    "OneFormer": _with_task,
    "ShieldGemma2": _in_words,
    "Siglip2": _in_patches,
    "SuperPoint": _points,
    **dict.fromkeys(("Timesformer", "Video", "Vivit", "VJEPA2"), _with_frames),
}
"""Beginning of a class's name -> how it is called, where images alone, or with words, are not enough."""


# --- others --------------------------------------------------------------------------------------------

SMP = """
    Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus PAN UPerNet Segformer DPT
    """.split()


def _smp(name: str) -> tuple[nn.Module, Shape]:
    import segmentation_models_pytorch as smp

    encoder = "tu-vit_tiny_patch16_224" if name == "DPT" else "resnet18"
    side = 224 if name in ("DPT", "PAN") else 64
    model = getattr(smp, name)(encoder, encoder_weights=None, classes=3)
    return model, (3, side, side)


CLIPS = """
    RN50 RN50x4 ViT-B-32 ViT-B-32-quickgelu ViT-S-16 ViT-M-16-alt ViT-B-16-SigLIP ViT-B-16-SigLIP2
    ViT-B-16-plus-240 convnext_tiny coca_base EVA02-B-16 MobileCLIP-S1 MobileCLIP-B MobileCLIP2-S0
    PE-Core-T-16-384 swin_base_patch4_window7_224 vit_medium_patch16_gap_256
    vit_relpos_medium_patch16_cls_224 ViTamin-S
    """.split()


def _open_clip(name: str) -> tuple[nn.Module, Shape]:
    """The image tower, whose answer is an embedding, of few layers where a configuration counts them."""
    import open_clip
    from open_clip.model import _build_vision_tower

    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"]
    if isinstance(vision.get("layers"), int):
        vision["layers"] = _FEW_OF["num_layers"]
    tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    side = vision.get("image_size", 224)
    height, width = (side, side) if isinstance(side, int) else side
    return Called(tower, lambda tower, images: tower(images)), (3, height, width)


_VIT = {
    "image_size": 64,
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 64,
}
_VIDEO = {
    **{name: number for name, number in _VIT.items() if name not in ("depth", "patch_size")},
    **{"image_patch_size": 16, "frames": 4, "frame_patch_size": 2},
}
_STAGES = {"num_classes": 5, "dim": (32, 64, 64, 64), "depth": (1, 1, 1, 1)}
VIT_PYTORCH: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT": ("vit", "ViT", _VIT),
    "SimpleViT": ("simple_vit", "SimpleViT", _VIT),
    "ViT of small data": ("vit_for_small_dataset", "ViT", _VIT),
    "DeepViT": ("deepvit", "DeepViT", _VIT),
    "CaiT": ("cait", "CaiT", {**_VIT, "cls_depth": 1}),
    "ParallelViT": ("parallel_vit", "ViT", {**_VIT, "num_parallel_branches": 2}),
    "Registers": ("simple_vit_with_register_tokens", "SimpleViT", _VIT),
    "QK norm": ("simple_vit_with_qk_norm", "SimpleViT", _VIT),
    "Patch dropout": ("vit_with_patch_dropout", "ViT", _VIT),
    "Patch merger": ("vit_with_patch_merger", "ViT", _VIT),
    "FFT": ("simple_vit_with_fft", "SimpleViT", {**_VIT, "freq_patch_size": 8}),
    "LookViT": (
        "look_vit",
        "LookViT",
        {
            **{"dim": 32, "image_size": 64, "num_classes": 5, "depth": 2, "patch_size": 16, "heads": 2},
            **{"dim_head": 16, "highres_patch_size": 8, "cross_attn_heads": 2, "cross_attn_dim_head": 16},
        },
    ),
    "T2T": (
        "t2t",
        "T2TViT",
        {**{k: v for k, v in _VIT.items() if k != "patch_size"}, "t2t_layers": ((7, 4),)},
    ),
    "PiT": ("pit", "PiT", {**_VIT, "patch_size": 8, "depth": (1, 1)}),
    "LeViT": (
        "levit",
        "LeViT",
        {
            "image_size": 64,
            "num_classes": 5,
            "stages": 2,
            "dim": (32, 48),
            "depth": 1,
            "heads": (2, 3),
            "mlp_mult": 2,
        },
    ),
    "CvT": ("cvt", "CvT", {"num_classes": 5}),
    "TwinsSVT": (
        "twins_svt",
        "TwinsSVT",
        {
            "num_classes": 5,
            **{f"s{i}_local_patch_size": k for i, k in enumerate((4, 4, 2, 1), 1)},
            **{f"s{i}_global_k": k for i, k in enumerate((4, 4, 2, 1), 1)},
        },
    ),
    "CrossFormer": (
        "crossformer",
        "CrossFormer",
        {**_STAGES, "global_window_size": (4, 2, 2, 1), "local_window_size": 2},
    ),
    "RegionViT": ("regionvit", "RegionViT", {**_STAGES, "window_size": 2}),
    "ScalableViT": (
        "scalable_vit",
        "ScalableViT",
        {
            **{"num_classes": 5, "dim": 16, "heads": (1, 2, 2, 2), "depth": (1, 1, 1, 1), "ssa_dim_key": 16},
            **{"reduction_factor": (4, 2, 1, 1), "window_size": (8, 4, None, None)},
        },
    ),
    "SepViT": (
        "sep_vit",
        "SepViT",
        {"num_classes": 5, "dim": 16, "dim_head": 16, "heads": (1, 2, 2, 2), "depth": (1, 1, 1, 1)},
    ),
    "MaxViT": (
        "max_vit",
        "MaxViT",
        {"num_classes": 5, "dim_conv_stem": 16, "dim": 16, "dim_head": 8, "depth": (1, 1), "window_size": 4},
    ),
    "NesT": (
        "nest",
        "NesT",
        {
            "image_size": 64,
            "patch_size": 4,
            "dim": 16,
            "heads": 2,
            "num_hierarchies": 3,
            "block_repeats": (1, 1, 1),
            "num_classes": 5,
        },
    ),
    "MobileViT": (
        "mobile_vit",
        "MobileViT",
        {
            "image_size": (64, 64),
            "dims": [16, 24, 32],
            "channels": [16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96],
            "num_classes": 5,
        },
    ),
    "XCiT": ("xcit", "XCiT", {**_VIT, "cls_depth": 1}),
    "CCT": (
        "cct",
        "CCT",
        {
            "img_size": 64,
            "embedding_dim": 32,
            "num_layers": 2,
            "num_heads": 2,
            "mlp_ratio": 2,
            "num_classes": 5,
        },
    ),
    "CrossViT": (
        "cross_vit",
        "CrossViT",
        {
            "image_size": 64,
            "num_classes": 5,
            "depth": 1,
            "sm_dim": 32,
            "sm_patch_size": 16,
            "lg_dim": 32,
            "lg_patch_size": 32,
        },
    ),
    "ViViT": ("vivit", "ViViT", {**_VIDEO, "spatial_depth": 1, "temporal_depth": 1}),
    "ViT of volumes": ("vit_3d", "ViT", {**_VIDEO, "depth": 2}),
    "SimpleViT of volumes": ("simple_vit_3d", "SimpleViT", {**_VIDEO, "depth": 2}),
}
"""vit_pytorch: name -> (module, class, options)."""


def _vit_pytorch(name: str) -> tuple[nn.Module, Shape]:
    module, kind, options = VIT_PYTORCH[name]
    model = getattr(import_module(f"vit_pytorch.{module}"), kind)(**options)
    side = 224 if name == "SepViT" else 64  # whose windows are 7 wide
    return model, (3, *([4] if "frames" in options else []), side, side)


_PLANE = {"spatial_dims": 2, "in_channels": 3, "out_channels": 4}
_UNET = {"channels": (8, 16, 32), "strides": (2, 2)}
MONAI: dict[str, dict[str, Any]] = {
    "UNet": {**_PLANE, **_UNET, "num_res_units": 1},
    "AttentionUnet": {**_PLANE, **_UNET},
    "BasicUNet": {**_PLANE, "features": (8, 8, 16, 16, 32, 8)},
    "BasicUNetPlusPlus": {**_PLANE, "features": (8, 8, 16, 16, 32, 8)},
    "DynUNet": {**_PLANE, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]},
    "SegResNet": {**_PLANE, "init_filters": 8},
    "UNETR": {**_PLANE, "img_size": 64, "feature_size": 8, "hidden_size": 48, "mlp_dim": 64, "num_heads": 4},
    "SwinUNETR": {**_PLANE, "feature_size": 12},
    "FlexibleUNet": {"in_channels": 3, "out_channels": 4, "backbone": "efficientnet-b0"},
    "HighResNet": _PLANE,
    "VNet": {**_PLANE, "in_channels": 2},
    "ResNet": {
        **{"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 24, 32]},
        **{"spatial_dims": 2, "n_input_channels": 3, "num_classes": 4},
    },
    "DenseNet121": _PLANE,
    "SEResNet50": {"spatial_dims": 2, "in_channels": 3, "num_classes": 4},
    "ViT": {
        **{"in_channels": 3, "img_size": 64, "patch_size": 16, "hidden_size": 48, "mlp_dim": 64},
        **{"num_layers": 2, "num_heads": 4, "classification": True, "num_classes": 4, "spatial_dims": 2},
    },
    "EfficientNetBN": {
        **{"model_name": "efficientnet-b0", "pretrained": False},
        **{"spatial_dims": 2, "num_classes": 4},
    },
    "UNet of volumes": {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, **_UNET},
    "SegResNet of volumes": {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_filters": 8},
    "SwinUNETR of volumes": {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "feature_size": 12},
}
"""monai.networks.nets: class -> options."""


def _monai(name: str) -> tuple[nn.Module, Shape]:
    import monai.networks.nets as nets

    options = MONAI[name]
    model = getattr(nets, name.removesuffix(" of volumes"))(**options)
    channels = options.get("in_channels", 3)
    sides = [64 if name.startswith("Swin") else 32] * 3 if name.endswith("volumes") else [64] * 2
    return model, (channels, *sides)


TABLE: dict[str, Library] = {
    **{
        f"torchvision {task}": Library("torchvision", lambda task=task: _torchvision_names(task), build_one)
        for task, build_one in {"segmentation": _segmenter, "detection": _detector, "video": _video}.items()
    },
    "transformers": Library("transformers", _transformers_names, _transformers),
    "segmentation_models_pytorch": Library("segmentation_models_pytorch", lambda: SMP, _smp),
    "open_clip": Library("open_clip", lambda: CLIPS, _open_clip),
    "vit_pytorch": Library("vit_pytorch", lambda: VIT_PYTORCH, _vit_pytorch),
    "monai": Library("monai", lambda: MONAI, _monai),
}
