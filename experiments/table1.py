"""Table 1: accuracy and class entropy while segments are removed, 3 segmentations x 3 orders x 3 removals."""

from __future__ import annotations

from setting import images, measure, options

from layermask.evaluate import SegmentRemoval

REMOVALS = ("blackout", "greyout", "layermask")
SEGMENTATIONS = ("paper-quickshift", "paper-grid", "paper-slic")
ORDERS = ("random", "salient-first", "salient-last")

if __name__ == "__main__":
    given = options(__doc__, limit=100).parse_args()
    measure(SegmentRemoval(REMOVALS, SEGMENTATIONS, ORDERS, seed=given.seed), images(), given, "table1")
