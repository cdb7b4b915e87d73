from layermask.metrics.flipping import (
    Curve as Curve,
)
from layermask.metrics.flipping import (
    curve as curve,
)
from layermask.metrics.flipping import (
    deletion as deletion,
)
from layermask.metrics.flipping import (
    insertion as insertion,
)
from layermask.metrics.flipping import (
    least_relevant_first as least_relevant_first,
)
from layermask.metrics.flipping import (
    road as road,
)
from layermask.metrics.flipping import (
    symmetric_relevance_gain as symmetric_relevance_gain,
)
from layermask.metrics.linearity import headless as headless
from layermask.metrics.linearity import measure_linearity as measure_linearity
from layermask.metrics.localisation import (
    alignment as alignment,
)
from layermask.metrics.localisation import (
    top_k_ablation as top_k_ablation,
)
from layermask.metrics.localisation import (
    top_k_jaccard as top_k_jaccard,
)
from layermask.metrics.operators import (
    r_oms as r_oms,
)
from layermask.metrics.operators import (
    random_attribution_bias as random_attribution_bias,
)
from layermask.metrics.operators import (
    rank_stability as rank_stability,
)
from layermask.metrics.predictions import Predictions as Predictions
from layermask.metrics.registry import METRICS as METRICS
from layermask.metrics.registry import metric as metric
from layermask.metrics.segment_removal import remove_segments as remove_segments
from layermask.metrics.shape_bias import (
    broken_mask as broken_mask,
)
from layermask.metrics.shape_bias import (
    measure_shape_bias as measure_shape_bias,
)
from layermask.metrics.subsets import infidelity as infidelity
from layermask.metrics.subsets import sensitivity_n as sensitivity_n
