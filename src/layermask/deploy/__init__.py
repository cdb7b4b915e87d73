"""Layer masking outside of this library: one graph of two inputs, images and visible, and the files of it.

program = deploy.export(removal, images, visible)  # torch.export.ExportedProgram
folded = deploy.fold(program)  # nn.Module
deploy.to_onnx(program, "model.onnx")
"""

from .check import difference, load
from .fold import fold
from .formats import FORMATS
from .modules import fold_norms
from .program import export
from .write import OPSET, to_onnx, to_pt2

__all__ = ["FORMATS", "OPSET", "difference", "export", "fold", "fold_norms", "load", "to_onnx", "to_pt2"]
