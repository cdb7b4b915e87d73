"""One small model of every family, with random weights: what the law tests enumerate.

Tables first, then how they are built. `FAMILIES` is the list; `Family.build` gives model and images. Repeated
blocks are cut (`shortened.py`), unless the whole model is asked for.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from shortened import shortened
from torch import Tensor, nn

from layermask.check.randomise import randomise
from layermask.check.samples import sample_images

CLASSES = 10

# name -> (input side, options of the constructor). Sides are the smallest that leave a map of 2x2 at the end.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (80, {}),
    "vgg11": (64, {}),
    "vgg11_bn": (64, {}),
    "resnet18": (64, {}),
    "resnext50_32x4d": (64, {}),
    "wide_resnet50_2": (64, {}),
    "densenet121": (64, {}),
    "googlenet": (64, {"init_weights": False, "aux_logits": False}),
    "inception_v3": (96, {"init_weights": False}),
    "squeezenet1_0": (64, {}),
    "squeezenet1_1": (64, {}),
    "mobilenet_v2": (64, {"width_mult": 0.35}),
    "mobilenet_v3_small": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "mnasnet0_5": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "regnet_x_400mf": (64, {}),
    "regnet_y_400mf": (64, {}),
    "convnext_tiny": (64, {}),
    "vit_b_32": (96, {"image_size": 96}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "maxvit_t": (64, {"input_size": (64, 64)}),
}

# timm model file -> (its smallest model by parameters, input side, options). Models of 80 M parameters and
# more whose blocks repeat are cut to a few of them.
TIMM: dict[str, tuple[str, int, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", 64, {"img_size": 64, "depth": 3}),
    "byoanet": ("halonet_h1", 256, {"img_size": 256}),
    "byobnet": ("mobileone_s1", 64, {"img_size": 64}),
    "cait": ("cait_xxs24_224", 64, {"img_size": 64}),
    "coat": ("coat_tiny", 64, {"img_size": 64}),
    "convit": ("convit_tiny", 64, {"img_size": 64}),
    "convmixer": ("convmixer_1024_20_ks9_p14", 64, {}),
    "convnext": ("convnext_zepto_rms", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "crossvit": ("crossvit_tiny_240", 64, {}),
    "csatv2": ("csatv2", 64, {}),
    "cspnet": ("cs3darknet_focus_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {}),
    "deepseek_vit": ("deepseek_vit_412m", 224, {"img_size": 224}),
    "deit": ("deit_tiny_patch16_224", 64, {"img_size": 64}),
    "densenet": ("densenet121", 64, {}),
    "dla": ("dla46x_c", 64, {}),
    "dpn": ("dpn48b", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {"img_size": 224}),
    "efficientformer_v2": ("efficientformerv2_s0", 64, {"img_size": 64}),
    "efficientnet": ("mobilenetv2_035", 64, {}),
    "efficientvim": ("efficientvim_m1", 64, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 64, {"img_size": 64}),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 64, {"img_size": 64}),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", 64, {"img_size": 64}),
    "gemma4_vit": ("gemma4_vit_167m", 64, {"img_size": 64}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "hardcorenas": ("hardcorenas_b", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", 64, {"img_size": 64}),
    "hieradet_sam2": ("sam2_hiera_tiny", 64, {}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_128s", 64, {"img_size": 64}),
    "lowformer": ("lowformer_b0", 64, {}),
    "mambaout": ("mambaout_femto", 64, {}),
    "maxxvit": ("maxvit_pico_rw_256", 64, {"img_size": 64}),
    "metaformer": ("poolformerv2_s12", 64, {}),
    "mlp_mixer": ("gmlp_ti16_224", 64, {"img_size": 64}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "mobilenetv5": ("mobilenetv5_base", 64, {}),
    "mobilevit": ("mobilevit_xxs", 64, {"img_size": 64}),
    "mvitv2": ("mvitv2_tiny", 64, {"img_size": 64}),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", 64, {"img_size": 64, "depth": 3}),
    "nasnet": ("nasnetalarge", 64, {"num_features": 1152, "stem_size": 24}),
    "nest": ("nest_tiny", 64, {"img_size": 64}),
    "nextvit": ("nextvit_small", 64, {}),
    "nfnet": ("nf_regnet_b0", 64, {}),
    "pit": ("pit_ti_224", 64, {"img_size": 64}),
    "pnasnet": ("pnasnet5large", 64, {}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "qwen3_vit": ("qwen3_vit_88m", 64, {"img_size": 64, "depth": 3}),
    "rdnet": ("rdnet_tiny", 64, {}),
    "regnet": ("regnetx_002", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m1", 64, {"img_size": 64}),
    "res2net": ("res2next50", 64, {}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("resnet10t", 64, {}),
    "resnetv2": ("resnetv2_18", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sequencer": ("sequencer2d_s", 64, {"img_size": 64}),
    "shvit": ("shvit_s1", 64, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s050", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, {"img_size": 64}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 64, {"img_size": 64}),
    "swin_transformer_v2": ("swinv2_tiny_window16_256", 64, {"img_size": 64}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 64, {"img_size": 64}),
    "tiny_vit": ("tiny_vit_5m_224", 64, {}),
    "tnt": ("tnt_s_legacy_patch16_224", 64, {"img_size": 64}),
    "tresnet": ("tresnet_m", 64, {}),
    "twins": ("twins_svt_small", 64, {"img_size": 64}),
    "vgg": ("vgg11", 64, {"mlp_ratio": 0.02}),
    "visformer": ("visformer_tiny", 64, {"img_size": 64}),
    "vision_transformer": ("vit_tiny_patch16_224", 64, {"img_size": 64}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64, {"img_size": 64}),
    "vision_transformer_relpos": ("vit_srelpos_small_patch16_224", 64, {"img_size": 64}),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        64,
        {"img_size": 64, "depth": 3, "global_attn_indexes": (2,)},
    ),
    "vitamin": ("vitamin_small_224", 64, {"img_size": 64}),
    "volo": ("volo_d1_224", 64, {"img_size": 64}),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, {}),
    "xception": ("legacy_xception", 64, {}),
    "xception_aligned": ("xception41p", 64, {}),
    "xcit": ("xcit_nano_12_p8_224", 64, {"img_size": 64}),
}

# timm model files that are not in the table, and why. (None at the time of writing.)
TIMM_EXCEPTIONS: dict[str, str] = {}

# Blocks that the smallest model of a file does not have.
TIMM_MORE: dict[str, tuple[int, dict[str, Any]]] = {
    "test_vit": (64, {"img_size": 64}),  # timm's own test models, a third of a million parameters each
    "test_vit2": (64, {"img_size": 64}),
    "test_vit3": (64, {"img_size": 64}),
    "test_vit4": (64, {"img_size": 64}),
    "test_vit_relpos": (64, {"img_size": 64}),
    "test_byobnet": (64, {}),
    "test_convnext": (64, {}),
    "test_convnext2": (64, {}),
    "test_convnext3": (64, {}),
    "test_efficientnet": (64, {}),
    "test_efficientnet_evos": (64, {}),
    "test_efficientnet_gn": (64, {}),
    "test_efficientnet_ln": (64, {}),
    "test_maxvit": (64, {"img_size": 64}),
    "test_coatnet": (64, {"img_size": 64}),
    "test_mambaout": (64, {}),
    "test_nfnet": (64, {}),
    "test_resnet": (64, {}),
    "tf_efficientnet_b0": (72, {}),  # TensorFlow "same" padding
    "tf_mobilenetv3_small_minimal_100": (72, {}),
    "tf_efficientnet_lite0": (72, {}),  # the builtin model
    "resnetblur18": (64, {}),  # blur pooling
    "resnet26d": (64, {}),  # average pooling in the shortcut, ceil mode
    "ecaresnet26t": (64, {}),
    "seresnet18": (64, {}),
    "gcresnet33ts": (64, {}),  # global context attention
    "botnet26t_256": (64, {"img_size": 64}),  # self-attention with relative position logits
    "lambda_resnet26t": (64, {"img_size": 64}),
    "bat_resnext26ts": (256, {}),
    "resnet50_clip": (64, {"img_size": 64}),  # attention pooling
    "resnetv2_50x1_bit": (64, {}),  # group norm and weight standardisation
    "nf_resnet26": (64, {}),
    "gernet_s": (64, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "gmixer_12_224": (64, {"img_size": 64}),
    "convformer_s18": (64, {}),
    "caformer_s18": (64, {}),
    "poolformer_s12": (64, {}),
    "coatnet_nano_rw_224": (64, {"img_size": 64}),
    "coat_lite_tiny": (64, {"img_size": 64}),
    "convnextv2_atto": (64, {}),  # global response normalisation
    "mobilevitv2_050": (64, {}),  # separable linear attention
    "fastvit_sa12": (64, {}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56}),  # rotary position embedding
    "beitv2_base_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "vit_base_patch16_siglip_224": (64, {"img_size": 64, "depth": 2}),  # pooling by a learned query
    "vit_base_patch16_clip_224": (64, {"img_size": 64, "depth": 2}),
    "vit_small_patch14_reg4_dinov2": (56, {"img_size": 56, "depth": 2}),
    "vit_small_plus_patch16_dinov3": (64, {"img_size": 64, "depth": 2}),
    "deit3_small_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "deit_tiny_distilled_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "twins_pcpvt_small": (64, {"img_size": 64}),
    "regnetz_b16": (64, {}),
    "hrnet_w18_small_v2": (64, {}),
    "repvgg_a0": (64, {}),
    "levit_conv_128s": (64, {"img_size": 64}),
    "tf_mixnet_s": (64, {}),  # several kernel sizes side by side, "same" padding
    "ghostnetv3_050": (64, {}),
    "coatnext_nano_rw_224": (64, {"img_size": 64}),
    "maxvit_tiny_pm_256": (64, {"img_size": 64}),
    "edgenext_small_rw": (64, {}),
    "resnetv2_50d_frn": (64, {}),  # filter response normalisation
    "vit_dwee_patch16_reg1_gap_256": (64, {"img_size": 64, "depth": 2}),  # differential attention
    "vit_dpwee_patch16_reg1_gap_256": (64, {"img_size": 64, "depth": 2}),
    "vit_relpos_small_patch16_rpn_224": (64, {"img_size": 64, "depth": 2}),
}

# Hugging Face class -> (input side, options of its config).
_TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_SWIN = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
_PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]}
_LEVIT = {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
_PERCEIVER = {
    **{"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    **{"num_self_attention_heads": 4, "num_cross_attention_heads": 1},
}
HUGGING_FACE: dict[str, tuple[int, dict[str, Any]]] = {
    "ViT": (32, _TRANSFORMER),
    "DeiT": (32, _TRANSFORMER),
    "Beit": (32, {**_TRANSFORMER, "use_relative_position_bias": True}),
    "Data2VecVision": (32, {**_TRANSFORMER, "use_relative_position_bias": True}),
    "Dinov2": (32, _TRANSFORMER),
    "Dinov2WithRegisters": (32, _TRANSFORMER),
    "ViTMSN": (32, _TRANSFORMER),
    "IJepa": (32, _TRANSFORMER),
    "CLIP": (32, {"vision_config": _TRANSFORMER}),
    "MetaClip2": (32, {"vision_config": _TRANSFORMER}),
    "Siglip": (32, {"vision_config": _TRANSFORMER}),
    "Swin": (64, _SWIN),
    "Swinv2": (64, _SWIN),
    "DonutSwin": (64, _SWIN),
    "ConvNext": (64, _STAGES),
    "ConvNextV2": (64, _STAGES),
    "PoolFormer": (64, _STAGES),
    "ResNet": (64, _RESNET),
    "RegNet": (64, {**_RESNET, "groups_width": 8}),
    "Bit": (64, {**_RESNET, "num_groups": 4}),
    "MobileNetV1": (64, {"depth_multiplier": 0.25}),
    "MobileNetV2": (64, {"depth_multiplier": 0.35}),
    "MobileViT": (64, {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 48]}),
    "MobileViTV2": (64, {"width_multiplier": 0.5}),
    "EfficientNet": (64, {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}),
    "Pvt": (64, {**_PYRAMID, "image_size": 64, "num_attention_heads": [1, 2, 4, 8]}),
    "PvtV2": (64, {**_PYRAMID, "image_size": 64, "num_attention_heads": [1, 2, 4, 8]}),
    "Segformer": (64, _PYRAMID),
    "Levit": (64, {"image_size": 64, **_LEVIT}),
    "Cvt": (64, {"embed_dim": [16, 24, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]}),
    "FocalNet": (64, {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 2, 1]}),
    "SwiftFormer": (64, {"image_size": 64, "depths": [1, 1, 2, 1], "embed_dims": [16, 24, 32, 40]}),
    "Hiera": (64, {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1]}),
    "TextNet": (64, {}),
    "HGNetV2": (64, {}),
    "PPLCNet": (64, {"scale": 0.25}),
    "PerceiverForImageClassificationLearned": (32, {**_PERCEIVER, "image_size": 32, "d_model": 32}),
    "PerceiverForImageClassificationConvProcessing": (224, {**_PERCEIVER, "d_model": 322}),
}

# Model types that transformers lists as image classifiers and that are not in the table, and why.
HUGGING_FACE_EXCEPTIONS = {
    "dinat": "needs the package natten, a compiled kernel of its own",
    "imagegpt": "takes colour clusters (integers), not pixels",
    "shieldgemma2": "a language model of 4 billion parameters",
    "siglip2": "takes flattened patches, cut by its processor",
    "timm_wrapper": "a timm model, which is above",
}


@dataclass(frozen=True)
class Family:
    """A constructor, the shape of one image, and whether its laws take more than some seconds."""

    name: str
    construct: Callable[..., nn.Module]
    shape: tuple[int, ...]
    slow: bool = False

    def build(self, batch: int = 4, seed: int = 0, whole: bool = False) -> tuple[nn.Module, Tensor]:
        """Return the model in eval mode with randomised weights, and a batch of images."""
        images = sample_images(batch, self.shape, seed)
        return randomise(self.fresh(seed, whole), images, seed), images

    def fresh(self, seed: int = 0, whole: bool = False) -> nn.Module:
        """Return the model in eval mode as its constructor leaves it, without blocks that only repeat."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.construct(**({} if whole else SHORTER.get(self.name, {}))).eval()
        return model if whole or self.name in WHOLE else shortened(model)


def _torchvision(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    from torchvision import models

    if name == "maxvit_t":
        return _maxvit(**options)
    if name == "densenet121" and more:
        return models.DenseNet(num_classes=CLASSES, **more)
    model = models.get_model(name, weights=None, num_classes=CLASSES, **options)
    if name.startswith(("vgg", "alexnet")):  # 90 % of the weights, in two layers that are alike
        _narrow(model.classifier)
    return model


def _maxvit(input_size: tuple[int, int]) -> nn.Module:
    """Return maxvit_t with windows of 2 in place of 7, which fit no image below 224, and four blocks."""
    from torchvision.models import MaxVit

    sizes = {"stem_channels": 16, "partition_size": 2, "head_dim": 8, "stochastic_depth_prob": 0.0}
    stages = {"block_channels": [16, 16, 24, 32], "block_layers": [1, 1, 1, 1]}
    return MaxVit(input_size, **sizes, **stages, num_classes=CLASSES)


def _narrow(classifier: nn.Sequential) -> None:
    """Cut the hidden layers of a classifier to 64 features."""
    layers = [module for module in classifier if isinstance(module, nn.Linear)]
    for before, after in itertools.pairwise(layers):
        before.out_features = after.in_features = 64
    for layer in layers:
        layer.weight = nn.Parameter(torch.empty(layer.out_features, layer.in_features))
        layer.bias = nn.Parameter(torch.empty(layer.out_features))


def _timm(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES, **options, **more)


def _hugging_face(name: str, options: dict[str, Any], attention: str | None = None) -> nn.Module:
    import transformers

    kind = getattr(transformers, name if "ForImage" in name else f"{name}ForImageClassification")
    config = kind.config_class(num_labels=CLASSES, **options)
    return kind._from_config(config, **({"attn_implementation": attention} if attention else {}))


SLOW = {
    "timm/byoanet",
    "timm/deepseek_vit",
    "timm/gemma4_vit",
    "timm/inception_v4",
    "timm/pnasnet",
    "timm/xception_aligned",
    "timm+/bat_resnext26ts",
    "timm+/maxvit_tiny_pm_256",
    "torchvision/wide_resnet50_2",
}
"""Models that take tens of seconds, of kinds that quicker ones have too."""


SHORTER: dict[str, dict[str, Any]] = {
    "torchvision/densenet121": {"block_config": (2, 2, 2, 2)},
    "timm/densenet": {"block_config": (2, 2, 2, 2)},
    "timm/dpn": {"k_sec": (2, 2, 2, 2)},
    "timm/mobilenetv5": {"channel_multiplier": 0.25},
    "timm/nextvit": {"depths": (1, 2, 5, 2)},
    "timm/rdnet": {"num_blocks_list": [2] * 7},
}
"""Options of models that are large without equal blocks: of a DenseNet, each block is wider than the last."""
WHOLE = {"hf/HGNetV2", "timm/convit", "timm/gcvit"}
"""Models that count their blocks, or concatenate the outputs of all of them."""
ALIKE = {
    *(
        "hf/HGNetV2",
        "torchvision/convnext_tiny",
        "torchvision/efficientnet_v2_s",
        "torchvision/resnext50_32x4d",
    ),
    *("torchvision/vgg11_bn", "timm/beit", "timm/efficientformer", "timm/focalnet", "timm/hrnet"),
    *("timm/inception_resnet_v2", "timm/inception_v3", "timm/maxxvit", "timm/naflexvit", "timm/rdnet"),
    *("timm/repvit", "timm/rexnet", "timm/resnetv2", "timm/selecsls", "timm/senet", "timm/swin_transformer"),
    *(
        "timm/swin_transformer_v2",
        "timm/swin_transformer_v2_cr",
        "timm/xception",
        "timm+/coatnet_nano_rw_224",
    ),
    *("timm+/beitv2_base_patch16_224", "timm+/convformer_s18", "timm+/fastvit_sa12", "timm+/gcresnet33ts"),
    *("timm+/hrnet_w18_small_v2", "timm+/mixer_s32_224", "timm+/poolformer_s12", "timm+/resnet26d"),
    *("timm+/resnet50_clip", "timm+/resnetv2_50x1_bit", "timm+/seresnet18", "timm+/tf_efficientnet_b0"),
    *("timm+/twins_pcpvt_small", "timm+/vit_base_patch16_siglip_224"),
}
"""Costly models whose kinds of calls others make too, as test_shortened.py sees: the tests of their gradients
are slow."""


def _families() -> Iterator[Family]:
    def family(name: str, construct: Callable[[], nn.Module], side: int) -> Family:
        return Family(name, construct, (3, side, side), name in SLOW)

    for name, (side, options) in TORCHVISION.items():
        yield family(f"torchvision/{name}", functools.partial(_torchvision, name, options), side)
    for file, (name, side, options) in TIMM.items():
        yield family(f"timm/{file}", functools.partial(_timm, name, options), side)
    for name, (side, options) in TIMM_MORE.items():
        yield family(f"timm+/{name}", functools.partial(_timm, name, options), side)
    for name, (side, options) in HUGGING_FACE.items():
        yield family(f"hf/{name}", functools.partial(_hugging_face, name, options), side)
    for name in ("ViT", "Swin", "Dinov2"):
        side, options = HUGGING_FACE[name]
        yield family(f"hf/{name}-eager", functools.partial(_hugging_face, name, options, "eager"), side)


FAMILIES = list(_families())
