"""FlashVID's rules in PyTorch, one segment and one frame after another.

What a direct implementation of the method looks like; the other side of
`flashvid_compression.py`. Official mode: see `FlashVID.mode`.
"""

import math

import torch


def compress(features, attention, settings):
  """Tokens [K, D] and their indices f * N + n, ascending.

  Args:
    features: float32 [F, N, D].
    attention: float32 [F, N].
    settings: a `FlashVID` with mode 'official' and selection 'attn_div_v2'.
  """
  count = features.shape[1]
  total = math.ceil(count * settings.retention * settings.expansion)
  chosen = math.ceil(total * settings.alpha)
  tokens, index, start = [], [], 0
  for length in _segments(features, settings):
    part = slice(start, start + length)
    found = _segment(
      features[part], attention[part], chosen, total - chosen, settings.tau
    )
    tokens.append(found[0])
    index.append(found[1] + start * count)
    start += length
  index = torch.cat(index)
  order = torch.argsort(index, stable=True)
  return torch.cat(tokens)[order], index[order]


def _segments(features, settings):
  """Lengths of the segments."""
  means = torch.nn.functional.normalize(features.mean(1), dim=-1)
  alike = (means[:-1] * means[1:]).sum(-1)
  cuts = set(torch.nonzero(alike < settings.segment_threshold)[:, 0].tolist())
  missing = settings.min_segments - len(cuts) - 1
  if missing > 0 and len(alike):
    masked = alike.clone()
    masked[list(cuts)] = 1.0
    few = min(missing, len(alike))
    cuts |= set(masked.topk(few, largest=False).indices.tolist())
  ends = [*sorted(cuts), len(features) - 1]
  return [b - a for a, b in zip([-1, *ends[:-1]], ends)]


def _segment(x, a, chosen, merged, tau):
  length, count, width = x.shape
  free = torch.ones(length, count, dtype=torch.bool)
  tokens, index = [], []
  relevance = x @ x.mean(1).mean(0)
  for f in range(length):
    picks = _select(x[f], a[f] * relevance[f], chosen)
    free[f, picks] = False
    tokens.append(x[f, picks])
    index.append(f * count + picks)
  if length == 1:
    candidate, vectors = torch.ones_like(free), x
  else:
    candidate, vectors = _trees(x, free, (chosen + merged) * length, tau)
  per_frame = candidate.sum(1)
  ratio = merged * length / max(int(per_frame.sum()), 1)
  for f in range(length):
    n = int(per_frame[f])
    if not n:
      continue
    own = torch.nonzero(candidate[f])[:, 0]
    if ratio >= 1:
      tokens.append(vectors[f, own])
      index.append(f * count + own)
      continue
    means, centres = _cluster(vectors[f, own], math.ceil(n * ratio))
    tokens.append(means)
    index.append(f * count + own[centres])
  return torch.cat(tokens), torch.cat(index)


def _select(x, weight, chosen):
  """Calibrated max-min diversity within a frame."""
  unit = torch.nn.functional.normalize(x, dim=-1)
  distance = weight[:, None] * (1 - unit @ unit.T)
  picks = [int(distance.topk(2, dim=1, largest=False).values[:, 1].argmax())]
  for _ in range(chosen - 1):
    picks.append(int(distance[:, picks].min(1).values.argmax()))
  return torch.tensor(sorted(picks))


def _trees(x, free, budget, tau):
  """Tokens left in each frame, and the sums that were merged into them."""
  length, count, _ = x.shape
  unit = torch.nn.functional.normalize(x, dim=-1)
  best = torch.full((length, count), -1.0)
  parent = torch.zeros((length, count), dtype=torch.long)
  for f in range(1, length):
    alike = unit[f] @ unit[f - 1].T
    alike[~free[f]] = -1
    alike[:, ~free[f - 1]] = -1
    best[f], parent[f] = alike.max(1)
  linked = best > tau
  if int((~linked).sum()) < budget:
    surplus = length * count - budget
    limit = best.flatten().topk(surplus).values[-1].clamp(min=-1 + 1e-6)
    linked = best > limit
  total, members = x.clone(), torch.ones(length, count)
  for f in range(length - 1, 0, -1):
    children = torch.nonzero(linked[f])[:, 0]
    total[f - 1].index_add_(0, parent[f, children], total[f, children])
    ones = torch.ones(len(children))
    members[f - 1].index_add_(0, parent[f, children], ones)
  return free & ~linked, total / members[..., None]


def _cluster(x, clusters):
  """DPC-kNN: means of the clusters, and their centres."""
  distance = torch.cdist(x, x) / x.shape[1] ** 0.5
  near = distance.topk(min(clusters, 7), largest=False).values
  density = (-near.square().mean(1)).exp()
  denser = density[None] > density[:, None]
  away = torch.where(denser, distance, distance.max()).min(1).values
  centres = (density * away).topk(clusters).indices
  label = distance[:, centres].argmin(1)
  label[centres] = torch.arange(clusters)
  means = torch.zeros(clusters, x.shape[1]).index_add_(0, label, x)
  return means / label.bincount(minlength=clusters)[:, None], centres
