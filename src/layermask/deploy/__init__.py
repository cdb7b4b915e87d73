"""Layer masking outside of this library: one graph of two inputs, images and visible, and the files of it.

program = deploy.export(removal, images, visible)  # torch.export.ExportedProgram
folded = deploy.fold(program)  # nn.Module
deploy.to_onnx(program, "model.onnx")
"""

from layermask.deploy.compare import difference, load
from layermask.deploy.fold import fold
from layermask.deploy.formats import FORMATS
from layermask.deploy.modules import fold_model_norms
from layermask.deploy.program import export
from layermask.deploy.write import OPSET, to_onnx, to_pt2

__all__ = [
    "FORMATS",
    "OPSET",
    "difference",
    "export",
    "fold",
    "fold_model_norms",
    "load",
    "to_onnx",
    "to_pt2",
]
