"""Figure 8: LIME for the two likeliest classes of one image, under black, grey and layer masking.

The ten segments of the largest scores are shown, in shares of the largest. The paper's picture, a dog and a
cat, is not at hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from picture import PICTURE, image_of
from setting import RESULTS, load, options

from layermask import Attribution, Lime
from layermask.data.images import load_image
from layermask.explain.sheet import explanation_sheet
from layermask.io.atomic import write_all
from layermask.io.figure import png
from layermask.removal.registry import removal
from layermask.segment.presets import SEGMENTER_PRESETS

REMOVALS = {"black": "blackout", "grey": "greyout", "layer masking": "layermask"}
SHOWN = 10


def strongest(found: Attribution, count: int = SHOWN) -> Attribution:
    """Return the attribution with its `count` largest scores alone, as shares of the largest."""
    sizes = found.scores.abs().topk(min(count, found.scores.shape[1]), dim=1).values
    kept = torch.where(found.scores.abs() >= sizes[:, -1:], found.scores, 0)
    return replace(found, scores=kept / sizes[:, :1])


if __name__ == "__main__":
    parser = options(__doc__, limit=1)
    parser.add_argument("--image", type=Path, default=PICTURE)
    parser.add_argument("--n-samples", type=int, default=1000, help="the paper's code has 3,000")
    given = parser.parse_args()
    loaded = load(given.model)
    x = loaded.preprocessing(load_image(given.image))
    pixels = image_of(loaded.preprocessing, x)
    segments = SEGMENTER_PRESETS["paper-lime-quickshift"](pixels)
    with torch.no_grad():
        chances = loaded.model(x).softmax(1)[0]
    best = chances.topk(5)
    found = {
        name: strongest(
            Lime(removal(each, loaded.model, loaded.preprocessing, None)).attribute(
                x,
                target=best.indices[:2].tolist(),
                feature_mask=segments,
                n_samples=given.n_samples,
                perturbations_per_eval=given.batch_size,
                show_progress=True,
            )
        )
        for name, each in REMOVALS.items()
    }
    ranking = [(loaded.labels[i].partition(",")[0], float(p)) for p, i in zip(*best, strict=True)]
    title = "LIME, the ten strongest segments, in shares of the strongest of each picture"
    sheet = explanation_sheet(title, pixels, ranking, found, loaded.labels)
    write_all({RESULTS / "figure8.png": png(sheet)})
