"""One model sees, another reasons: tower and merger of X, decoder of Y."""

from collections.abc import Mapping

import jax

from vlm.models.functional import Params

DECODER = 'decoder'


def swap(
  seeing: Mapping[str, Params], reasoning: Mapping[str, Params]
) -> Params:
  """Parameters of a model that sees as X does and reasons as Y does.

  Args:
    seeing: X's; all but its decoder is taken.
    reasoning: Y's, of the same architecture; its decoder is taken.

  Raises:
    ValueError: the two are not of one architecture.
  """
  shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, dict(tree))
  if DECODER not in seeing or shapes(seeing) != shapes(reasoning):
    raise ValueError(
      'a swap needs two whole models of one architecture, got '
      f'{sorted(seeing)} and {sorted(reasoning)} of '
      f'{"equal" if shapes(seeing) == shapes(reasoning) else "other"} shapes'
    )
  return dict(seeing) | {DECODER: reasoning[DECODER]}
