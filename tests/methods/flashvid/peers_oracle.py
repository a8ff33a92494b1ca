"""Peers of FlashVID as numpy loops, one function each, in double.

Each takes x [F, N, D], attention [F, N] and a peer's settings, and returns
{(f, n): vector} of what is left.
"""

import itertools
import math

import jax
import numpy as np


def cosine(a, b):
  lengths = max(np.linalg.norm(a), 1e-12) * max(np.linalg.norm(b), 1e-12)
  return float(a @ b / lengths)


def top(scores, among, count):
  """The `count` of `among` with the highest score, ties to the first."""
  return sorted(among, key=lambda i: (-scores[i], i))[:count]


def rounded(share, count):
  return max(1, round(share * count))


def whole(x, attention, peer):
  F, N, _ = x.shape
  return {(f, n): x[f, n] for f in range(F) for n in range(N)}


def random(x, attention, peer):
  F, N, _ = x.shape
  key = jax.random.key(peer.seed)
  out = {}
  for f in range(F):
    row = jax.random.fold_in(key, f)
    scores = [
      float(jax.random.uniform(jax.random.fold_in(row, n))) for n in range(N)
    ]
    for n in top(scores, range(N), rounded(peer.retention, N)):
      out[f, n] = x[f, n]
  return out


def stride(x, attention, peer):
  F, N, _ = x.shape
  m = rounded(peer.retention, N)
  places = [math.ceil(i * N / m) for i in range(m)]
  return {(f, n): x[f, n] for f in range(F) for n in places}


def frame_drop(x, attention, peer):
  F, N, _ = x.shape
  k = rounded(peer.retention, F)
  frames = [math.ceil(i * F / k) for i in range(k)]
  return {(f, n): x[f, n] for f in frames for n in range(N)}


def pooling(x, attention, peer):
  F, N, _ = x.shape
  h = max(h for h in range(1, N + 1) if N % h == 0 and h * h <= N)
  w = N // h
  m = rounded(peer.retention, N)
  p = min(h, max(1, int(math.sqrt(m * h / w))))
  q = min(w, m // p)
  if p + 1 <= min(h, m) and (p + 1) * min(w, m // (p + 1)) > p * q:
    p, q = p + 1, min(w, m // (p + 1))
  out = {}
  for f, i, j in itertools.product(range(F), range(p), range(q)):
    rows = [r for r in range(h) if r * p // h == i]
    columns = [c for c in range(w) if c * q // w == j]
    cell = [x[f, r * w + c] for r in rows for c in columns]
    middle = rows[(len(rows) - 1) // 2] * w + columns[(len(columns) - 1) // 2]
    out[f, middle] = np.mean(cell, axis=0)
  return out


def visionzip(x, attention, peer):
  F, N, _ = x.shape
  m = rounded(peer.retention, N)
  C = round(m * peer.contextual)
  out = {}
  for f in range(F):
    dominant = top(attention[f], range(N), m - C)
    rest = [n for n in range(N) if n not in dominant]
    targets = []
    if C:
      step = max(1, len(rest) // C)
      targets = [rest[i * step] for i in range(C)]
    given = {t: [] for t in targets}
    for n in rest:
      if targets and n not in targets:
        near = [cosine(x[f, n], x[f, t]) for t in targets]
        given[targets[int(np.argmax(near))]].append(x[f, n])
    for n in dominant:
      out[f, n] = x[f, n]
    for t in targets:
      out[f, t] = x[f, t] + (np.mean(given[t], axis=0) if given[t] else 0)
  return out


def tome(x, attention, peer):
  F, N, _ = x.shape
  out = {}
  for f in range(F):
    tokens = [(n, x[f, n], 1) for n in range(N)]
    while len(tokens) > rounded(peer.retention, N):
      excess = len(tokens) - rounded(peer.retention, N)
      a, b = tokens[0::2], [list(token) for token in tokens[1::2]]
      near = [[cosine(s[1], t[1]) for t in b] for s in a]
      best = [max(row) for row in near]
      gone = top(best, range(len(a)), min(len(tokens) // 2, excess))
      for i in gone:
        into = b[int(np.argmax(near[i]))]
        size = into[2] + a[i][2]
        into[1] = (into[1] * into[2] + a[i][1] * a[i][2]) / size
        into[2] = size
      stays = [a[i] for i in range(len(a)) if i not in gone]
      tokens = sorted(stays + [tuple(t) for t in b], key=lambda t: t[0])
    for n, vector, _ in tokens:
      out[f, n] = vector
  return out


def dycoke(x, attention, peer):
  F, N, _ = x.shape
  W = math.ceil(F / 4)
  kept = 0
  if F > W:
    kept = (peer.retention * F * N - W * N) / (F - W)
    kept = int(min(max(kept, 0), N) + 1e-9)
  out = {}
  for f in range(F):
    if f % 4 == 0:
      stays = range(N)
    else:
      reference = f - 2 if f % 4 == 2 else f - 1
      apart = [-cosine(x[f, n], x[reference, n]) for n in range(N)]
      stays = top(apart, range(N), kept)
    for n in stays:
      out[f, n] = x[f, n]
  return out


def dpc_scores(points, near):
  n = len(points)
  dist = np.zeros((n, n))
  for i, j in itertools.product(range(n), range(n)):
    dist[i, j] = np.linalg.norm(points[i] - points[j])
  dist /= math.sqrt(points.shape[1])
  near = max(1, min(near, n))
  density = [np.exp(-np.mean(np.sort(row**2)[:near])) for row in dist]
  scores = []
  for i in range(n):
    denser = [dist[i, j] for j in range(n) if density[j] > density[i] + 1e-9]
    scores.append(density[i] * min(denser, default=dist.max()))
  # Equal up to rounding is equal.
  return np.round(scores, 9), dist


def dpc(points, count, near):
  """(centres, best first; the index of each point's centre)."""
  scores, dist = dpc_scores(points, near)
  centres = top(scores, range(len(points)), count)
  homes = []
  for i in range(len(points)):
    nearest = min(centres, key=lambda c: np.round(dist[i, c], 9))
    homes.append(i if i in centres else nearest)
  return centres, homes


def runs_of(labels):
  """[(label, first, last)] of stretches of equal labels."""
  out = []
  for f, label in enumerate(labels):
    if out and out[-1][0] == label:
      out[-1] = (label, out[-1][1], f)
    else:
      out.append((label, f, f))
  return out


def contiguous(labels):
  labels = list(labels)
  new = list(labels)
  for label in set(labels):
    runs = [r for r in runs_of(labels) if r[0] == label]
    longest = max(b - a + 1 for _, a, b in runs)
    for _, a, b in runs:
      if longest == 1 or b - a + 1 < longest:
        new[a : b + 1] = [None] * (b - a + 1)
  while None in new:
    start = new.index(None)
    stop = start
    while stop < len(new) and new[stop] is None:
      stop += 1
    left = right = 0
    while start - left > 0 and new[start - left - 1] == new[start - 1]:
      left += 1
    while stop + right < len(new) and new[stop + right] == new[stop]:
      right += 1
    if left == right == 0:
      label = 0
    else:
      label = new[start - 1] if left >= right else new[stop]
    new[start:stop] = [label] * (stop - start)
  return new


def prunevid(x, attention, peer):
  F, N, _ = x.shape
  _, homes = dpc(x.mean(1), max(1, int(peer.gamma * F)), 7)
  beta = peer.expansion * peer.retention
  out = {}

  def merge(f, places, vectors):
    n = len(places)
    if n == 0:
      return
    count = n if n <= peer.small else max(1, int(beta * n + 1e-9))
    centres, homes = dpc(np.array(vectors), count, 7)
    for c in centres:
      members = [vectors[i] for i in range(n) if homes[i] == c]
      out[f, places[c]] = np.mean(members, axis=0)

  for _, a, b in runs_of(contiguous(homes)):
    static = []
    for n in range(N):
      pairs = itertools.combinations(range(a, b + 1), 2)
      near = [cosine(x[f, n], x[g, n]) for f, g in pairs]
      if near and np.mean(near) > peer.threshold:
        static.append(n)
    merge(a, static, [x[a : b + 1, n].mean(0) for n in static])
    for f in range(a, b + 1):
      moving = [n for n in range(N) if n not in static]
      merge(f, moving, [x[f, n] for n in moving])
  return out


def fastvid(x, attention, peer):
  F, N, _ = x.shape
  total = max(1, int(N * peer.retention + 1e-9))
  context = int(total * peer.context + 1e-9)
  means = x.mean(1)
  near = [cosine(means[f], means[f + 1]) for f in range(F - 1)]
  cuts = {f for f in range(F - 1) if near[f] < peer.cosine}
  cuts |= set(top(-np.array(near), range(F - 1), peer.segments - 1))
  bounds = [-1, *sorted(cuts), F - 1]
  out = {}
  rest = []
  for f in range(F):
    salient = top(attention[f], range(N), total - context)
    rest.append([n for n in range(N) if n not in salient])
    for n in salient:
      out[f, n] = x[f, n]
  for a, b in itertools.pairwise(bounds):
    frames = list(range(a + 1, b + 1))
    anchors = frames[::-1][:: peer.spacing]
    for g in anchors:
      count = min(context * len(frames) // len(anchors), len(rest[g]))
      if not count:
        continue
      scores, _ = dpc_scores(x[g, rest[g]], 4)
      centres = [rest[g][i] for i in top(scores, range(len(scores)), count)]
      given = {c: [] for c in centres}
      for f in frames:
        for n in rest[f]:
          near = np.round([cosine(x[f, n], x[g, c]) for c in centres], 6)
          given[centres[int(np.argmax(near))]].append(x[f, n])
      for c in centres:
        w = max(1 / (len(given[c]) + 1), peer.weight)
        mean = np.mean(given[c], axis=0) if given[c] else 0
        out[g, c] = w * x[g, c] + (1 - w) * mean
  return out


def static_in(linked, a, b):
  """Places that stay linked from frame a to frame b; none of one frame."""
  if a == b:
    return []
  return [n for n in range(linked.shape[1]) if linked[a + 1 : b + 1, n].all()]


def windows(linked):
  """(tokens saved, [(first, last)]) of the best of all ways to cut."""
  F = len(linked)
  gain = {
    (a, b): len(static_in(linked, a, b)) * (b - a)
    for a in range(F)
    for b in range(a, F)
  }
  best, chosen = None, None
  for cuts in itertools.product([False, True], repeat=F - 1):
    ends = [f for f in range(F - 1) if cuts[f]] + [F - 1]
    starts = [0] + [e + 1 for e in ends[:-1]]
    pieces = list(zip(starts, ends))
    saved = sum(gain[piece] for piece in pieces)
    # Of equals the one whose last window is shortest, then the one before.
    key = (saved, [a - b for a, b in reversed(pieces)])
    if best is None or key > best:
      best, chosen = key, pieces
  return best[0], chosen


def holitom(x, attention, peer):
  F, N, _ = x.shape
  tau = peer.threshold
  if tau is None:
    tau = 0.65 if peer.retention <= 0.1 else 0.8
  linked = np.zeros((F, N), bool)
  for f, n in itertools.product(range(1, F), range(N)):
    linked[f, n] = cosine(x[f, n], x[f - 1, n]) > tau

  saved, pieces = windows(linked)
  M = rounded(peer.expansion * peer.retention, F * N)
  left = F * N - saved
  out = {}
  for a, b in pieces:
    static = static_in(linked, a, b)
    for f in range(a, b + 1):
      moving = [n for n in range(N) if n not in static]
      count = min(len(moving), -(-len(moving) * M // left))
      for n in top(attention[f], moving, count):
        out[f, n] = x[f, n]
    if static:
      s = len(static)
      count = min(s, max(1, int(s * M / left + 0.5)))
      means = np.array([x[a : b + 1, n].mean(0) for n in static])
      centres, homes = dpc(means, count, min(7, count))
      for c in centres:
        others = [means[i] for i in range(s) if homes[i] == c and i != c]
        w = peer.weight if others else 1
        mean = np.mean(others, axis=0) if others else 0
        out[a, static[c]] = w * means[c] + (1 - w) * mean
  return out


def framefusion(x, attention, peer):
  F, N, _ = x.shape
  fused = {}
  for n in range(N):
    start = 0
    for f in range(1, F + 1):
      joins = f < F and cosine(x[f, n], x[f - 1, n]) >= peer.threshold
      if not joins:
        fused[start, n] = (x[start:f, n].mean(0), attention[start:f, n].mean())
        start = f
  places = sorted(fused)
  scores = [fused[place][1] for place in places]
  stays = top(scores, range(len(places)), rounded(peer.retention, F * N))
  return {places[i]: fused[places[i]][0] for i in stays}


ORACLES = {
  'random': random,
  'stride': stride,
  'pooling': pooling,
  'frame_drop': frame_drop,
  'fastv': whole,
  'visionzip': visionzip,
  'tome': tome,
  'dycoke': dycoke,
  'prunevid': prunevid,
  'fastvid': fastvid,
  'holitom': holitom,
  'framefusion': framefusion,
}
