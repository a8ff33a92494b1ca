"""Stages 2 and 3 together, and the six cases of the paper's ablation.

From cached embeddings of training images to a scorer. Images that stop the fit
are held out before the basis is made: a basis vector is the mean of its
images, and would score them too well.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vlm.methods.rali import fit, scorer
from vlm.methods.rali.basis import Basis, BasisSettings, make_basis
from vlm.methods.rali.fit import FitSettings, Fitted
from vlm.methods.rali.scorer import ScorerSettings


@dataclasses.dataclass(frozen=True)
class StageSettings:
  """Choices of both stages.

  Attributes:
    basis: of stage 2.
    fit: of stage 3.
    tau: temperature of the softmax.
    held_out: share of the images that stops the fit.
    seed: of that choice.
  """

  basis: BasisSettings = BasisSettings()
  fit: FitSettings = FitSettings()
  tau: float = scorer.TAU
  held_out: float = 0.1
  seed: int = 0


class Scorer(NamedTuple):
  """A scorer and how it came about.

  Attributes:
    fitted: of stage 3; its `rows` have the basis on its own as 'unfitted'.
    basis: of stage 2.
    form: of the scorer.
  """

  fitted: Fitted
  basis: Basis
  form: ScorerSettings


def make_scorer(
  settings: StageSettings,
  opinions: Float[np.ndarray, 'M'],
  images: Float[np.ndarray, 'M E'],
  texts: Float[np.ndarray, 'M E'] | None = None,
) -> Scorer:
  """The scorer of training images.

  Args:
    settings: choices.
    opinions: on the scale that scores shall have.
    images: embeddings of the aligned tower, not of unit length.
    texts: embeddings of the descriptions, for bases of texts.
  """
  train, held = fit.hold_out(len(opinions), settings.held_out, settings.seed)
  made = make_basis(
    settings.basis,
    opinions[train],
    images[train],
    None if texts is None else texts[train],
  )
  form = ScorerSettings(unit=settings.basis.unit)
  start = scorer.initial_params(made, settings.tau)
  parts = [(images[rows], opinions[rows]) for rows in (train, held)]
  return Scorer(fit.fit(start, *parts, settings.fit, form), made, form)


def ablations(settings: StageSettings) -> dict[str, StageSettings]:
  """The cases that stages 2 and 3 decide, by what is left out.

  'no alignment' and 'no seed augmentation' are the full settings on embeddings
  of another tower.
  """
  changed = lambda **fields: dataclasses.replace(settings, **fields)
  basis = lambda **fields: dataclasses.replace(settings.basis, **fields)
  return {
    'full': settings,
    'no PCA': changed(basis=basis(components=0)),
    'no bins': changed(basis=basis(bins=0)),
    'no fit': changed(fit=dataclasses.replace(settings.fit, epochs=0)),
  }


def arrays(made: Scorer) -> dict[str, Any]:
  """vectors and scores of the basis as files keep them, float32."""
  return {
    'vectors': np.asarray(made.basis.vectors, np.float32),
    'scores': np.asarray(made.basis.scores, np.float32),
  }
