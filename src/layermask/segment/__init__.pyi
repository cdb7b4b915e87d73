from layermask.segment.labels import relabel as relabel
from layermask.segment.presets import (
    SEGMENTER_PRESETS as SEGMENTER_PRESETS,
)
from layermask.segment.presets import (
    SEGMENTERS as SEGMENTERS,
)
from layermask.segment.presets import (
    segmenter as segmenter,
)
from layermask.segment.segmenters import (
    Boxes as Boxes,
)
from layermask.segment.segmenters import (
    Felzenszwalb as Felzenszwalb,
)
from layermask.segment.segmenters import (
    Grid as Grid,
)
from layermask.segment.segmenters import (
    Quickshift as Quickshift,
)
from layermask.segment.segmenters import (
    Slic as Slic,
)
from layermask.segment.segmenters import (
    Watershed as Watershed,
)
