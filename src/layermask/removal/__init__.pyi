from layermask.removal.adaptive import Adaptive as Adaptive
from layermask.removal.calibrated import Calibrated as Calibrated
from layermask.removal.layer_masking import LayerMasking as LayerMasking
from layermask.removal.matched import Matched as Matched
from layermask.removal.painting import (
    Blackout as Blackout,
)
from layermask.removal.painting import (
    BlurFill as BlurFill,
)
from layermask.removal.painting import (
    ConstantFill as ConstantFill,
)
from layermask.removal.painting import (
    EdgeSmoothedFill as EdgeSmoothedFill,
)
from layermask.removal.painting import (
    Greyout as Greyout,
)
from layermask.removal.painting import (
    InpaintFill as InpaintFill,
)
from layermask.removal.painting import (
    MeanFill as MeanFill,
)
from layermask.removal.painting import (
    NeighborFill as NeighborFill,
)
from layermask.removal.painting import (
    NoiseFill as NoiseFill,
)
from layermask.removal.painting import (
    NoisyLinearFill as NoisyLinearFill,
)
from layermask.removal.painting import (
    PixelFill as PixelFill,
)
from layermask.removal.painting import (
    PushPullFill as PushPullFill,
)
from layermask.removal.painting import (
    RandomPixelFill as RandomPixelFill,
)
from layermask.removal.painting import (
    SegmentMeanFill as SegmentMeanFill,
)
from layermask.removal.registry import (
    REMOVALS as REMOVALS,
)
from layermask.removal.registry import (
    RemovalEntry as RemovalEntry,
)
from layermask.removal.registry import (
    removal as removal,
)
from layermask.removal.token_dropping import TokenDropping as TokenDropping
