"""The explainers by name: the one list that the command line, the tests and the docs read."""

from __future__ import annotations

from layermask.arguments import kinds
from layermask.explain.ablation import FeatureAblation, KeepOne
from layermask.explain.banzhaf import Banzhaf
from layermask.explain.explainer import Explainer
from layermask.explain.greedy import GreedyDeletion, GreedyInsertion
from layermask.explain.kernel_shap import KernelShap
from layermask.explain.lime import Lime
from layermask.explain.occlusion import Occlusion
from layermask.explain.permutation import PermutationShapley
from layermask.explain.rise import Rise

EXPLAINERS: dict[str, type[Explainer]] = {
    "lime": Lime,
    "kernel-shap": KernelShap,
    "shapley": PermutationShapley,
    "banzhaf": Banzhaf,
    "leave-one-out": FeatureAblation,
    "keep-one": KeepOne,
    "occlusion": Occlusion,
    "rise": Rise,
    "insertion": GreedyInsertion,
    "deletion": GreedyDeletion,
}


def explainer(name: str) -> type[Explainer]:
    """Return the class of the explainer `name`."""
    return EXPLAINERS[kinds.known("method", name, EXPLAINERS)]
