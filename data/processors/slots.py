"""Patches of images of any size, in the slots of a row's plan."""

import numpy as np


def fill_slots(
  patches: np.ndarray, plan: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Lays patches into the slots of a plan.

  Args:
    patches: uint8 [n, V], in their published order.
    plan: with `frame` [S]; and `source` [S], the patch in each slot or -1, if
      they are not in order.

  Returns:
    pixels uint8 [S, V], zero in empty slots; and the plan without `source`,
    which no model reads.
  """
  pixels = np.zeros((len(plan['frame']), patches.shape[1]), np.uint8)
  source = plan.get('source', np.arange(len(patches)))
  full = np.flatnonzero(source >= 0)
  pixels[full] = patches[source[full]]
  return pixels, {key: plan[key] for key in plan if key != 'source'}
