from layermask import (
    adapters as adapters,
)
from layermask import (
    check as check,
)
from layermask import (
    core as core,
)
from layermask import (
    data as data,
)
from layermask import (
    deploy as deploy,
)
from layermask import (
    errors as errors,
)
from layermask import (
    explain as explain,
)
from layermask import (
    metrics as metrics,
)
from layermask import (
    removal as removal,
)
from layermask import (
    segment as segment,
)
from layermask import (
    studies as studies,
)
from layermask import (
    testing as testing,
)
from layermask import (
    zoo as zoo,
)
from layermask.core.masked import Masked as Masked
from layermask.core.rule_table import overriding as overriding
from layermask.core.rule_table import rule as rule
from layermask.core.settings import Settings as Settings
from layermask.data.images import load_image as load_image
from layermask.data.images import load_mask as load_mask
from layermask.errors import InputError as InputError
from layermask.errors import NoMaskRule as NoMaskRule
from layermask.explain.ablation import FeatureAblation as FeatureAblation
from layermask.explain.attribution import Attribution as Attribution
from layermask.explain.greedy import GreedyDeletion as GreedyDeletion
from layermask.explain.greedy import GreedyInsertion as GreedyInsertion
from layermask.explain.kernel_shap import KernelShap as KernelShap
from layermask.explain.lime import Lime as Lime
from layermask.explain.occlusion import Occlusion as Occlusion
from layermask.explain.permutation import PermutationShapley as PermutationShapley
from layermask.explain.rise import Rise as Rise
from layermask.removal import fills as fills
from layermask.removal.calibrated import Calibrated as Calibrated
from layermask.removal.layer_masking import LayerMasking as LayerMasking
from layermask.removal.painting import PixelFill as PixelFill
from layermask.removal.token_dropping import TokenDropping as TokenDropping
from layermask.segment.segmenters import Grid as Grid
from layermask.segment.segmenters import Slic as Slic
from layermask.zoo import load as load

__version__: str
