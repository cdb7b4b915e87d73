"""Figure 4: what models say while random 16x16 patches are removed, for every weight file."""

from __future__ import annotations

from setting import WEIGHTS, images, measure, options
from table1 import REMOVALS

from layermask.evaluate import SegmentRemoval

if __name__ == "__main__":
    parser = options(__doc__, limit=300)
    parser.set_defaults(model=None)
    given = parser.parse_args()
    for given.model in [given.model] if given.model else list(WEIGHTS):
        experiment = SegmentRemoval(REMOVALS, ("paper-grid",), ("random",), seed=given.seed)
        measure(experiment, images(), given, f"figure4-{given.model}")
