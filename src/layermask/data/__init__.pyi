from layermask.data.images import load_image as load_image
from layermask.data.images import load_labels as load_labels
from layermask.data.images import load_mask as load_mask
from layermask.data.nodata import load_valid as load_valid
from layermask.data.registry import DATA_SOURCES as DATA_SOURCES
from layermask.data.registry import open_source as open_source
from layermask.data.source import Sample as Sample
from layermask.data.source import Source as Source
