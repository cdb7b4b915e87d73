"""README.md of the experiments, from the results that are kept: python experiments/readme.py"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from setting import RESULTS

from layermask.files import write_all

HEAD = """# The paper's experiments

Balasubramanian and Feizi, "Towards Improved Input Masking for Convolutional Neural Networks" (ICCV 2023), on the
weights and images at hand. The tables are written by `python experiments/readme.py` from results/, nothing is typed by
hand. results/NAME.parquet holds every row of a run; `layermask plot` draws it.

The data are not in the repository. `LAYERMASK_DATA` names a folder with weights/ (four files in safetensors format),
imagenet_sample_1000/ (1,000 labelled training images of ImageNet, one per class) and davis16_masks/ (150 images with
human object masks, no ImageNet labels). Runs stopped go on where they were; `--limit` sets the number of images.

```sh
pip install '.[evaluate,timm,torchvision]'
python experiments/table1.py --limit 100
```

What holds for all:

- **Weights.** The paper's ResNet-50 is torchvision's; the one here is the Caffe one, trained with less augmentation and
  less robust to holes. Compare orders and gaps, not levels.
- **Images.** Fewer than the paper's 1,400 to 5,000, so intervals (95 %, bootstrap over images) are wide. Like the paper's,
  they are training images.
- **Class entropy** is at most the log of the number of images: its level depends on that number.
- **Salient orders** follow the plain model's input gradient; the paper has saliency maps of Salient ImageNet.
- **Without labels** (davis16_masks), accuracy is agreement with the plain model's prediction for the whole image.
"""
CAVEATS = {
    "table1": "int(fraction x segments) of each image's own segments are hidden; the released code takes the largest "
    "number of segments in the batch, which holds quickshift's and SLIC's areas apart in salient orders.",
    "table3": "Means over the nine settings of Table 1. The paper's means are of another run than its Table 1 (its "
    "figures are not the means of that table), and it has no row for the first convolution alone.",
    "table2": "The paper's images are of Pixel ImageNet, with labels; here the class explained is the one predicted.",
    "figure6": "Figure 7's ResNet-50 (trained with grey augmentation) is not at hand, nor labels: per class there is "
    "nothing to draw.",
    "operator_search": "",
}
EXPERIMENTS = ("table1", "table2", "table3", "figure4", "figure6", "linearity", "operator_search")
PICTURES = {
    "figure2": "results/figure2.png",
    "figure3": "results/figure3.png",
    "figure8": "results/figure8.png",
}


def page() -> str:
    parts = [HEAD.rstrip()]
    for name in EXPERIMENTS:
        if any(RESULTS.glob(f"{name}*.parquet")):
            parts.append("\n".join([_title(name), "", *import_module(name).section()]).rstrip())
            parts += [f"Caveat: {CAVEATS[name]}"] if CAVEATS.get(name) else []
    for name, place in PICTURES.items():
        parts.append(f"{_title(name)}\n\n![{_sentence(name)}]({place})")
    return "\n\n".join(parts) + "\n"


def _title(name: str) -> str:
    return f"## {_sentence(name)}\n\n`python experiments/{name}.py`"


def _sentence(name: str) -> str:
    return (import_module(name).__doc__ or "").splitlines()[0].rstrip(".")


if __name__ == "__main__":
    write_all({Path(__file__).with_name("README.md"): page().encode()})
