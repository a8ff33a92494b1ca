"""What one trained region encoder is measured by, on the test scenes.

Ranks of every caption and scene are kept for each variant, so that the report
can compare them query by query.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.words.captions import WordSettings, words_of
from data.worlds import nouns
from experiments.mask import insight, tables, world
from vlm.methods.mask.matcher import POOLINGS, Matcher
from vlm.methods.mask.prototypes import Moments
from vlm.methods.mask.rerank import rerank
from vlm.metrics import retrieval

ALPHAS = (0.0, 0.1, 0.15, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
NOISE = 0.35  # of the base that is re-ranked, of scores in [0, 1]
BLOCK = 100  # scenes encoded at a time
SUPERVISED = 'supervised'
# Of the arms without a part: what they are compared by.
SHORT = (
  tables.DROP,
  tables.CONSTANT,
  tables.BEST,
  tables.RECOMMENDED,
  tables.ORACLE,
)
Ranked = dict[str, list[int]]


class Captions:
  """Words of a part's captions, each distinct one once."""

  def __init__(self, part: world.Part):
    settings = WordSettings()
    said = [words_of(text, settings) for text in part.captions]
    self.words = tuple(sorted({word for words in said for word in words}))
    place = {word: number for number, word in enumerate(self.words)}
    self.ids = np.full((len(said), max(map(len, said))), -1, np.int32)
    for row, words in zip(self.ids, said):
      row[: len(words)] = [place[word] for word in words]
    self.owners = part.owners
    self.held_out = self._with(nouns.HELD_OUT)
    self.coloured = self._with(nouns.COLOURS)

  def _with(self, names) -> np.ndarray:
    """bool [C]: captions with one of these words."""
    these = np.array([word in names for word in self.words] + [False])
    return these[self.ids].any(1)


class Codes:
  """Region codes of a model, by one program.

  Args:
    model: with `encoder`.
    params: its parameters.
  """

  def __init__(self, model: Any, params: Any):
    encode = model.encoder.encode
    run = jax.jit(lambda *given: encode(*given)[0])
    self._run = functools.partial(run, params['encoder'])

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Means of the codes of regions [n, I, M]: float32 [n, I, Z]."""
    found = []
    for first in range(0, len(features), BLOCK):
      part = features[first : first + BLOCK]
      filled = np.zeros((BLOCK, *part.shape[1:]), np.float32)
      filled[: len(part)] = part
      valid = jnp.ones(filled.shape[:2], bool)
      found.append(np.asarray(self._run(jnp.asarray(filled), valid)))
    return np.concatenate(found)[: len(features)]


def prototypes_of(
  codes: np.ndarray, part: world.Part, words: tuple[str, ...]
) -> np.ndarray:
  """Means of the codes [n, I, Z] of each word's regions: [K, Z] (Eq. 2)."""
  place = {word: number for number, word in enumerate(words)}
  numbers = np.vectorize(lambda word: place.get(word, -1))(part.words())
  flat = numbers.reshape(-1, numbers.shape[-1])
  regions, columns = np.nonzero(flat >= 0)
  found = Moments(len(words), codes.shape[-1])
  found.add(codes.reshape(-1, codes.shape[-1]), regions, flat[regions, columns])
  return found.prototypes()


def knowledge(task: Any, codes: Mapping[str, np.ndarray], seed: int):
  """`tables.Words` from the codes of the parts 'knowledge' and 'paired'."""
  known = prototypes_of(
    codes['knowledge'], task.world['knowledge'], nouns.KNOWLEDGE
  )
  oracle = prototypes_of(codes['paired'], task.world['paired'], nouns.HELD_OUT)
  return tables.Words(known, task.vectors, oracle, seed)


def ranked(
  codes: np.ndarray,
  captions: Captions,
  made: Mapping[str, np.ndarray],
  pooling: str = 't2i',
) -> dict[str, Ranked]:
  """Ranks under every table, with one compiled matcher for all of them.

  Args:
    codes: [n, I, Z].
    captions: of the scenes.
    made: {variant: [W, Z]}.
    pooling: see `Matcher`.
  """
  width, count = len(captions.words), len(captions.ids)
  moved = [
    np.where(captions.ids >= 0, captions.ids + number * width, -1)
    for number in range(len(made))
  ]
  matcher = Matcher(
    codes,
    np.ones(codes.shape[:2], bool),
    np.concatenate(list(made.values())),
    np.concatenate(moved).astype(np.int32),
    pooling=pooling,
  )
  found = {}
  for number, name in enumerate(made):
    first = number * count
    score = lambda rows, columns, first=first: matcher.score(
      rows, columns + first
    )
    found[name] = _ranks(score, captions.owners)
  return found


def _ranks(score: retrieval.Score, owners: np.ndarray) -> Ranked:
  found = retrieval.ranks(score, owners, block=int(owners.max()) + 1)
  return {'images': found.images.tolist(), 'texts': found.texts.tolist()}


def retrieved(task: Any, model: Any, params: Any) -> dict[str, Any]:
  """Records and scores of the recommended way, for `launch.evaluate`."""
  captions = Captions(task.world['test'])
  codes = _codes(task, model, params)
  if 'table' in params:
    made = {SUPERVISED: _learnt(task, params, captions)}
  else:
    words = knowledge(task, codes, 0)
    made = {tables.RECOMMENDED: tables.recommended(words, captions.words)}
  ((_, ranks),) = ranked(codes['test'], captions, made).items()
  texts = task.world['test'].captions
  return {
    'records': [
      {'row': int(owner), 'text': text, 'image_rank': rank}
      for owner, text, rank in zip(captions.owners, texts, ranks['images'])
    ],
    'scores': recalls(ranks),
    'skipped': {},
  }


def recalls(
  ranks: Ranked, chosen: np.ndarray | None = None
) -> dict[str, float]:
  """Recall at 1, 5 and 10 in percent both ways, and their sum.

  Args:
    ranks: of captions' images and images' captions.
    chosen: bool [C]; if given, captions outside do not count, and only
      images are looked for.
  """
  images, texts = np.array(ranks['images']), np.array(ranks['texts'])
  # The rank of what is missed is the number of all there are.
  sides = {'t2i': (images, len(texts)), 'i2t': (texts, len(images))}
  if chosen is not None:
    sides = {'t2i': (images[chosen], len(texts))}
  found = {
    f'{side}_r{k}': 100 * float(np.mean(rank < min(k, missed)))
    for side, (rank, missed) in sides.items()
    for k in retrieval.RECALLS
  }
  return found | ({} if chosen is not None else {'rsum': sum(found.values())})


def measure(task: Any, config: Any, model: Any, params: Any) -> dict[str, Any]:
  """Everything the report shows of one run, as JSON."""
  captions, codes = Captions(task.world['test']), _codes(task, model, params)
  facts = {
    'owners': captions.owners.tolist(),
    'held_out': np.flatnonzero(captions.held_out).tolist(),
    'coloured': np.flatnonzero(captions.coloured).tolist(),
  }
  if 'table' in params:
    made = {SUPERVISED: _learnt(task, params, captions)}
    return facts | {'ranks': ranked(codes['test'], captions, made)}
  words = knowledge(task, codes, config.seed)
  made = tables.tables(words, captions.words)
  if not config.measure.whole:
    short = {name: made[name] for name in SHORT}
    return facts | {
      'ranks': ranked(codes['test'], captions, short),
      'insight': insight.facts(words, codes['test'], task.world['test']),
    }
  features = {name: part.features for name, part in task.world.items()}
  raw = tables.tables(knowledge(task, features, config.seed), captions.words)
  return facts | {
    'ranks': ranked(codes['test'], captions, made),
    'mack': ranked(
      features['test'], captions, {name: raw[name] for name in SHORT}
    ),
    'pooling': _poolings(codes['test'], features['test'], captions, made, raw),
    'rerank': _reranked(task, codes['test'], captions, made, config.seed),
    'insight': insight.facts(words, codes['test'], task.world['test']),
    'shown': insight.shown(
      words,
      codes['test'],
      task.world['test'],
      made[tables.RECOMMENDED],
      captions,
      config.measure.pictures,
    ),
  }


def _codes(task: Any, model: Any, params: Any) -> dict[str, np.ndarray]:
  codes = Codes(model, params)
  return {name: codes(part.features) for name, part in task.world.items()}


def _learnt(task: Any, params: Any, captions: Captions) -> np.ndarray:
  rows = dict(zip(task.vocabulary(), np.asarray(params['table'])))
  return tables.table_of(captions.words, rows)


def _poolings(codes, features, captions, made, raw) -> dict[str, Any]:
  """{'trained' or 'raw': {pooling: ranks}} with recommended tables.

  'matched' looks for images as t2i and for texts as i2t.
  """
  found = {}
  name = tables.RECOMMENDED
  for which, of, table in (('trained', codes, made), ('raw', features, raw)):
    each = {
      pooling: ranked(of, captions, {name: table[name]}, pooling)[name]
      for pooling in POOLINGS
    }
    each['matched'] = {
      'images': each['t2i']['images'],
      'texts': each['i2t']['texts'],
    }
    found[which] = each
  return found


def _reranked(task, codes, captions, made, seed: int) -> dict[str, list[float]]:
  """Rsum over alpha of a noisy base, with knowledge and its controls."""
  truth = overlap(task.world['test'])
  rng = np.random.default_rng([seed, 5])
  base = truth + NOISE * rng.normal(size=truth.shape)
  table = made[tables.RECOMMENDED]
  there = np.flatnonzero(table.any(1))
  mixed, constant = table.copy(), table.copy()
  mixed[there] = table[rng.permutation(there)]
  constant[there] = table[there].mean(0)
  others = {'MASK': table, 'shuffled': mixed, 'constant': constant}
  rows, columns = np.arange(len(codes)), np.arange(len(captions.ids))
  found = {}
  for name, one in others.items():
    ids = captions.ids
    valid = np.ones(codes.shape[:2], bool)
    score = Matcher(codes, valid, one, ids).score(rows, columns)
    found[name] = [
      _fused_rsum(base, score, captions.owners, alpha) for alpha in ALPHAS
    ]
  return found | {'alpha': list(ALPHAS)}


def _fused_rsum(base, other, owners, alpha: float) -> float:
  by_caption = rerank(base.T, other.T, alpha=alpha).T
  by_image = rerank(base, other, alpha=alpha)
  ranks = {
    'images': _ranks(_reader(by_caption), owners)['images'],
    'texts': _ranks(_reader(by_image), owners)['texts'],
  }
  return recalls(ranks)['rsum']


def _reader(matrix: np.ndarray) -> Callable:
  return lambda rows, columns: matrix[np.ix_(rows, columns)]


def overlap(part: world.Part) -> np.ndarray:
  """Share of the things a caption names that each scene holds: [n, C].

  A thing counts half if there is one of its noun in another colour.
  """
  said = [_named(text) for text in part.captions]
  found = np.zeros((len(part.scenes), len(said)))
  for row, scene in zip(found, part.scenes):
    colour_of = {thing.noun: thing.colour for thing in scene.things}
    row[:] = [
      np.mean([_agreement(colour_of, *thing) for thing in things])
      for things in said
    ]
  return found


def _agreement(colour_of: Mapping[str, str], noun: str, colour: str) -> float:
  if noun not in colour_of:
    return 0.0
  return 1.0 if colour in ('', colour_of[noun]) else 0.5


def _named(text: str) -> list[tuple[str, str]]:
  """(noun, colour or '') of each thing of a caption."""
  found, colour = [], ''
  for word in text.split():
    if word in nouns.COLOURS:
      colour = word
    elif word in nouns.PROGRAMS:
      found.append((word, colour))
      colour = ''
  return found
