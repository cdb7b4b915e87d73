from layermask.testing.explainers import ExplainerLaws as ExplainerLaws
from layermask.testing.explainers import Game as Game
from layermask.testing.removals import FillLaws as FillLaws
from layermask.testing.removals import RemovalLaws as RemovalLaws
from layermask.testing.rules import Arguments as Arguments
from layermask.testing.rules import RuleLaws as RuleLaws
