"""Rows of patches padded to one static shape, as a data pipeline does."""

import numpy as np


def padded(tokens, positions, patches, planned, tokens_of_row, left=False):
  """A batch of rows whose images keep their own sizes.

  Args:
    tokens: [t] of each row.
    positions: [t] or [t, 3] of each row.
    patches: [n, V] of each row, in the published order.
    planned: host plan of each row, all in as many slots.
    tokens_of_row: M, room for visual tokens.
    left: pads on the left, for generation.
  """
  rows, length = len(tokens), max(map(len, tokens))
  slots, values = len(planned[0]['frame']), patches[0].shape[1]
  fill = lambda x: np.pad(
    x, ((0, tokens_of_row - len(x)), *[(0, 0)] * (x.ndim - 1))
  )
  one_per_token = 'token', 'grid'
  batch = {
    'tokens': np.zeros((rows, length), np.int32),
    'segment_ids': np.zeros((rows, length), np.int32),
    'positions': np.zeros((rows, length, *positions[0].shape[1:]), np.int32),
    # What lies in empty slots must not matter.
    'pixels': np.full((rows, slots, values), 9, patches[0].dtype),
    'plan': {
      name: np.stack(
        [fill(p[name]) if name in one_per_token else p[name] for p in planned]
      )
      for name in planned[0]
      if name != 'source'
    },
  }
  count = [len(plan['token']) for plan in planned]
  batch['plan']['valid'] = np.arange(tokens_of_row) < np.array(count)[:, None]
  for b, plan in enumerate(planned):
    size = len(tokens[b])
    place = slice(length - size, None) if left else slice(size)
    batch['tokens'][b, place] = tokens[b]
    batch['segment_ids'][b, place] = 1
    batch['positions'][b, place] = positions[b]
    full = plan['source'] >= 0
    batch['pixels'][b, full] = patches[b][plan['source'][full]]
  return batch
