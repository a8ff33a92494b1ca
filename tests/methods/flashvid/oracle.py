"""FlashVID written as loops over segments, frames and tokens, in doubles.

One video at a time, without padding: trim it first.
"""

import math
from fractions import Fraction

import numpy as np


def budget(n, settings):
  total = min(math.ceil(n * settings.retention * settings.expansion), n)
  selected = math.ceil(total * settings.alpha)
  return total, selected, total - selected


def cosines(x, y):
  """Of all rows of x with all rows of y; 0 with a row of zeros."""
  size = np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
  return np.where(size > 0, x @ y.T, 0) / np.where(size > 0, size, 1)


def cleaned(x):
  """Tokens of float32 whose squared norm is no number count as zeros."""
  x = np.array(x, np.float32)
  with np.errstate(over='ignore', invalid='ignore'):
    usable = np.isfinite(np.sum(x * x, axis=-1))
  return np.where(usable[..., None], x, 0).astype(np.float64), usable


def segments(x, settings):
  """Lists of frames."""
  means = x.mean(1)
  alike = list(np.diagonal(cosines(means, means), 1))
  cuts = {f for f, t in enumerate(alike) if t < settings.segment_threshold}
  if settings.complementary:
    need = settings.min_segments - 1 - len(cuts)
    old = 1.0 if settings.mode == 'official' else math.inf
    left = [old if f in cuts else t for f, t in enumerate(alike)]
    order = sorted(range(len(left)), key=lambda f: (left[f], f))
    cuts |= set(order[: max(need, 0)])
  parts = [[0]]
  for f in range(1, len(x)):
    if f - 1 in cuts:
      parts.append([])
    parts[-1].append(f)
  return parts


def first_of_largest(values):
  return max(range(len(values)), key=lambda i: (values[i], -i))


def select(x, weight, count, settings):
  """Tokens of one frame in the order in which ADTS takes them."""
  n = len(x)
  if settings.selection == 'attn':
    return sorted(range(n), key=lambda i: (-weight[i], i))[:count]
  apart = (1 - cosines(x, x)).tolist()
  again = settings.mode == 'official' and settings.selection == 'attn_div_v2'
  chosen = []
  for _ in range(count):
    score = []
    for i in range(n):
      if chosen:
        value = min(weight[i] * apart[i][j] for j in chosen)
      elif again:
        value = sorted(weight[i] * d for d in apart[i])[min(1, n - 1)]
      else:
        others = [weight[i] * apart[i][j] for j in range(n) if j != i]
        value = min(others, default=weight[i])
      score.append(-math.inf if i in chosen and not again else value)
    chosen.append(first_of_largest(score))
  return chosen


def selected(x, attention, parts, settings):
  """ADTS of every frame, as lists."""
  n = x.shape[1]
  result = {}
  for part in parts:
    for f in part:
      weight = [1.0] * n
      if 'attn' in settings.selection:
        weight = [a if np.isfinite(a) else 0.0 for a in attention[f]]
      if settings.selection == 'attn_div_v2':
        over = part if settings.relevance == 'segment' else range(len(x))
        for i in range(n):
          event = np.mean([x[f, i] @ x[c].mean(0) for c in over])
          weight[i] = weight[i] * event
      result[f] = select(x[f], weight, budget(n, settings)[1], settings)
  return result


def links(x, usable, free, part, settings):
  """{(f, i): (f - 1, j)} of one segment."""
  n = x.shape[1]
  best = {(f, i): (-1.0, None) for f in part for i in range(n)}
  for f in part[1:]:
    alike = cosines(x[f], x[f - 1]).tolist()
    for i in range(n):
      for j in [i] if settings.parents == 'same' else range(n):
        ends = (f, i), (f - 1, j)
        both = all(end in free and usable[end] for end in ends)
        if both and alike[i][j] > best[f, i][0]:
          best[f, i] = alike[i][j], j
  official = settings.mode == 'official'
  tau = settings.tau
  wanted = {
    t for t, (m, _) in best.items() if (m > tau if official else m >= tau)
  }
  most = (n - budget(n, settings)[0]) * len(part)
  if len(wanted) > most:
    order = sorted((m for m, _ in best.values()), reverse=True)
    theta = max(order[most - 1], -1 + 1e-6) if most else math.inf
    wanted = {t for t, (m, _) in best.items() if m > theta}
  return {t: (t[0] - 1, best[t][1]) for t in wanted if best[t][1] is not None}


def trees(x, parent, part, settings):
  """The root of each token of a segment, and the vectors of the roots."""
  mean = settings.aggregation == 'mean' or (
    settings.aggregation == 'auto' and settings.mode == 'paper'
  )
  root, vector = {}, {}
  for token in ((f, i) for f in part for i in range(x.shape[1])):
    top = token
    while top in parent:
      top = parent[top]
    root[token] = top
  members_of = {}
  for token, top in root.items():
    members_of.setdefault(top, []).append(token)
  for top, members in members_of.items():
    children = sum(parent.get(t) == top for t in members)
    size = len(members) if mean else 1 + children
    vector[top] = sum(x[t] for t in members) / size
  return root, vector


def counts(of_frame, wanted, settings):
  """Clusters of each frame of a segment."""
  whole = sum(of_frame)
  if settings.mode == 'official':
    rho = wanted / whole
    return [math.ceil(n * rho) if rho < 1 else n for n in of_frame]
  one = [min(n, 1) for n in of_frame]
  rest = [n - o for n, o in zip(of_frame, one)]
  seats = wanted - sum(one)
  quota = [Fraction(n * seats, max(sum(rest), 1)) for n in rest]
  result = [o + math.floor(q) for o, q in zip(one, quota)]
  order = sorted(
    range(len(rest)), key=lambda f: (math.floor(quota[f]) - quota[f], f)
  )
  for f in order[: wanted - sum(result)]:
    result[f] += 1
  return result


def clusters(vectors, count, noise):
  """{centre: members} of one frame's candidates, best centre first."""
  n, width = vectors.shape
  k = min(count, 7)
  apart = [
    (np.sum((vectors - v) ** 2, axis=1) / width).tolist() for v in vectors
  ]
  dense = [
    math.exp(-sum(sorted(apart[i])[:k]) / k) + 1e-6 * noise[i] for i in range(n)
  ]
  largest = max(max(row) for row in apart)
  score = []
  for i in range(n):
    denser = [apart[i][j] for j in range(n) if dense[j] > dense[i]]
    score.append(math.sqrt(min(denser, default=largest)) * dense[i])
  centres = sorted(range(n), key=lambda i: (-score[i], i))[:count]
  groups = {c: [c] for c in centres}
  for i in range(n):
    if i not in groups:
      near = min(range(count), key=lambda r: (apart[i][centres[r]], r))
      groups[centres[near]].append(i)
  return groups


def compress(x, attention, settings, noise=None):
  """One video.

  Returns:
    tokens, their places (f, n), and the forest as two dicts: parents, and where
    the features of each token are in the output.
  """
  x, usable = cleaned(x)
  frames, n, _ = x.shape
  noise = np.zeros((frames, n)) if noise is None else noise
  _, _, merged = budget(n, settings)
  parts = segments(x, settings)
  chosen = selected(x, attention, parts, settings)
  rows = [((f, i), 0, x[f, i]) for f in chosen for i in chosen[f]]
  free = {(f, i) for f in chosen for i in range(n) if i not in chosen[f]}
  parents, place = {}, {}
  for part in parts if merged else []:
    parent = links(x, usable, free, part, settings)
    parents |= parent
    root, vector = trees(x, parent, part, settings)
    candidates = {
      f: [i for i in range(n) if (f, i) in free and (f, i) not in parent]
      for f in part
    }
    if settings.mode == 'official' and len(part) == 1:
      candidates = {part[0]: list(range(n))}
    sizes = counts(
      [len(candidates[f]) for f in part], merged * len(part), settings
    )
    for f, count in zip(part, sizes):
      if not count:
        continue
      mine = candidates[f]
      vectors = np.stack([vector[f, i] for i in mine])
      groups = clusters(vectors, count, noise[f, mine])
      for centre, members in groups.items():
        spot = f, mine[centre]
        rows.append((spot, 1, vectors[members].mean(0)))
        tops = {(f, mine[m]) for m in members}
        place |= {t: spot for t in root if root[t] in tops}
  place |= {spot: spot for spot, kind, _ in rows if not kind}
  rows.sort(key=lambda row: row[:2])
  return (
    np.stack([row[2] for row in rows]),
    [row[0] for row in rows],
    parents,
    place,
  )
