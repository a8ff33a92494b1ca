"""Does the score of a trained miniature come from its reasoning? All is JSON.

removal    {set: {way: numbers}}, the ways of analysis/removal.py: plcc and srcc
           of ratings that are kept in shape ('3.4'), as a small model without
           its image forgets the shape before the score; `strayed`, how many
           would have left it; `moved`, the mean change of a rating against
           'seen'; `silent`, completions that open no answer, rated 3.0; `count`
attention  {'parts': names, 'layers': [L][parts], 'rows'}: mass of the positions
           that emit digits, all sets together
domains    accuracies of naming the set at matched quality, from 'visual' and
           from 'text' embeddings; 'chance', and how many 'images'
halves     {pair: {set: srcc}}, greedy: the tower of one and the decoder of the
           other of this model and of the one that it started from, and of that
           of `config.measure.partner` where there is one

Attention is no cause: tables show it beside removal.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from data import dct
from data.chunks import filled
from data.worlds import photos
from experiments.rali.miniature import vocabulary
from vlm.methods.rali.analysis import attention, domains, removal, rows
from vlm.methods.rali.analysis.swap import swap
from vlm.methods.rali.readers import CONSTANT, HIGH
from vlm.metrics import correlation
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Buckets, Sampling
from vlm.train.checkpoint import Checkpoints

SEEN, MASKED, TEXT_ONLY = 'seen', 'masked', 'text only'
WAYS = (SEEN, MASKED, TEXT_ONLY)
IMAGES = 200  # of each set, the first; all are in the tables of agreement
BIN = 40  # images of a set for each bin of quality

Rate = Callable[[Any, Sequence[np.ndarray]], np.ndarray]


def reasons(config: Any) -> bool:
  """Whether a model of this config writes a thought before its rating."""
  readers = ('answer', 'last_answer')
  return bool(config.iqa.think) and config.iqa.reader in readers


@dataclasses.dataclass(frozen=True)
class Said:
  """What a model wrote, greedily, of a batch of pictures.

  Attributes:
    prompts: the batch, its last row repeated up to its static size.
    before: [B] token ids up to the answer's tag and with it; none where there
      is no tag.
    behind: [B] token ids after the tag.
    count: rows that are no repetition.
  """

  prompts: dict[str, Any]
  before: list[list[int]]
  behind: list[list[int]]
  count: int


class Listener:
  """Has a trained model describe and rate pictures, and takes both apart.

  Args:
    job: with the model, the chat and the encoder.
    params: of the model.
    config: the task's.
  """

  def __init__(self, job: Any, params: Any, config: Any):
    self.job, self.params, self._config = job, params, config
    ids = job.chat.tokenizer.token_to_id
    self._tags = {ids(text) for text in vocabulary.RATING}
    self.digits = {ids(digit) for digit in '0123456789'}
    self._allowed = self._rating_shape()
    self._shape = {ids(text) for text in vocabulary.SHAPE}
    self._stop = (ids(job.chat.variables['eos_token']),)
    self._asked = job.task.messages('score')

  def _rating_shape(self) -> np.ndarray:
    """bool [3, V]: '1' to '5', a dot, a digit."""
    tokenizer = self.job.chat.tokenizer
    allowed = np.zeros((3, tokenizer.get_vocab_size()), bool)
    for place, texts in enumerate(('12345', '.', '0123456789')):
      allowed[place, [tokenizer.token_to_id(text) for text in texts]] = True
    return allowed

  @property
  def length(self) -> int:
    """Tokens of a prompt with all that may be said behind it."""
    return self.job.prompt_spec.seq_len + self._config.eval.max_new_tokens

  def listen(self, images: Sequence[np.ndarray]) -> Iterator[Said]:
    """Greedy completions of pictures of the world's size, in batches."""
    job, size = self.job, self._config.eval.batch_size
    limit = self._config.eval.max_new_tokens
    for start in range(0, len(images), size):
      chunk = list(images[start : start + size])
      prompts = job.encoder.prompts(
        [
          {'images': [dct.feature_picture(image)], 'messages': self._asked}
          for image in filled(chunk, size)
        ],
        job.prompt_spec,
      )
      out = sample(
        job.model,
        self.params,
        prompts,
        Sampling(limit, self._stop, temperature=0),
        buckets=Buckets(prompt=(prompts['tokens'].shape[1],), new=(limit,)),
      )
      parts = [
        self._parted(row[0][: lengths[0]].tolist())
        for row, lengths in zip(out.tokens, out.lengths, strict=True)
      ]
      before, behind = ([part[n] for part in parts] for n in (0, 1))
      yield Said(prompts, before, behind, len(chunk))

  def _parted(self, ids: list[int]) -> tuple[list[int], list[int]]:
    for place, token in enumerate(ids):
      if token in self._tags:
        return ids[: place + 1], ids[place + 1 :]
    return [], []

  def thought(self, before: Sequence[int]) -> list[int]:
    """The words of a description, without tags."""
    return [token for token in before if token not in self._shape]

  def rate(self, said: Said, way: str) -> tuple[np.ndarray, np.ndarray]:
    """The same reasoning, rated in one of `WAYS`.

    Returns:
      ratings [count], NaN where there is no tag to stand behind; and whether
      the model, left alone, would have written something else than a number.
    """
    model = self.job.model
    batch = rows.continued(said.prompts, said.before, length=self.length)
    if way == TEXT_ONLY:
      batch = rows.without_image(model, batch, self.length)
    found = removal.answers(
      model,
      self.params,
      batch,
      length=len(self._allowed),
      eos_ids=self._stop,
      masked=way == MASKED,
      allowed=self._allowed,
    )
    decode = self.job.chat.decode
    ratings = [
      min(float(decode(ids)), HIGH) if before else np.nan
      for before, ids in zip(said.before, np.asarray(found.tokens), strict=True)
    ]
    strayed = np.asarray(found.strayed).any(axis=1)
    return np.array(ratings)[: said.count], strayed[: said.count]


def measure(job: Any, params: Any, config: Any, rate: Rate) -> dict[str, Any]:
  """Everything in the module's docstring, for one trained model.

  Args:
    job: with the model, the chat and the encoder.
    params: of the model, on the host.
    config: the task's.
    rate: greedy ratings of pictures by parameters, NaN where unread.
  """
  listener = Listener(job, jax.device_put(params), config)
  sets = {
    name: [part[n] for n in range(min(len(part), IMAGES))]
    for name, part in job.task.eval_sets().items()
  }
  images = {name: [row['image'] for row in part] for name, part in sets.items()}
  said = {name: list(listener.listen(found)) for name, found in images.items()}
  everything = [batch for batches in said.values() for batch in batches]
  found = {
    'removal': {
      name: _removal(listener, said[name], _opinions(part))
      for name, part in sets.items()
    },
    'attention': attention_of(listener, everything),
    'domains': _domains(listener, said, sets),
  }
  mixed = _mixed(job, params, config)
  if mixed:
    srcc = lambda weights, name: correlation.srcc(
      _filled(rate(weights, images[name])), _opinions(sets[name])
    )
    found['halves'] = {
      pair: {name: srcc(weights, name) for name in sets}
      for pair, weights in mixed.items()
    }
  return found


def _mixed(job: Any, params: Any, config: Any) -> dict[str, Any]:
  """Parameters of the pairs of halves, by their names."""
  others = {'start': config.init_from, 'partner': config.measure.partner}
  found = {}
  for name, workdir in others.items():
    if workdir:
      other = last_params(job, workdir)
      found[f'tower of the {name}'] = swap(other, params)
      found[f'decoder of the {name}'] = swap(params, other)
  return found


def _opinions(part: Sequence[Mapping[str, Any]]) -> list[float]:
  return [row['gt_score_norm'] for row in part]


def _filled(ratings: np.ndarray) -> np.ndarray:
  return np.where(np.isnan(ratings), CONSTANT, ratings)


def _removal(listener: Listener, said, opinions) -> dict[str, dict[str, float]]:
  found, seen = {}, None
  for way in WAYS:
    rated = [listener.rate(batch, way) for batch in said]
    ratings, strayed = (np.concatenate(part) for part in zip(*rated))
    filled = _filled(ratings)
    seen = filled if way == SEEN else seen
    found[way] = {
      'plcc': correlation.plcc(filled, opinions),
      'srcc': correlation.srcc(filled, opinions),
      'strayed': int(strayed.sum()),
      'silent': int(np.isnan(ratings).sum()),
      'count': len(ratings),
      'moved': float(np.abs(filled - seen).mean()),
    }
  return found


def attention_of(listener: Listener, said: Sequence[Said]) -> dict[str, Any]:
  """Where the digits of ratings look; see the module's docstring."""
  model = listener.job.model
  split = jax.jit(functools.partial(attention.attention_split, model))
  total, count = 0.0, 0
  for batch in said:
    for number in (0, 1):
      places = [_nth_digit(listener, ids, number) for ids in batch.behind]
      there = np.array([place is not None for place in places])
      there[batch.count :] = False
      parts = [
        before + ids[: place or 0]
        for before, ids, place in zip(batch.before, batch.behind, places)
      ]
      made = rows.continued(batch.prompts, parts, length=listener.length)
      # The tag belongs to the answer.
      think = [max(len(before) - 1, 0) for before in batch.before]
      answer = [len(part) - own for part, own in zip(parts, think)]
      codes = attention.parts_of(model, made, think, answer)
      codes = np.where(there[:, None], codes, -1)  # counts nowhere
      mean = np.asarray(split(listener.params, made, codes), np.float64)
      total, count = total + mean * len(there), count + int(there.sum())
  shares = np.asarray(total) / max(count, 1)
  return {
    'parts': list(attention.PARTS),
    'layers': shares.tolist(),
    'rows': count,
  }


def _nth_digit(listener: Listener, ids: Sequence[int], number: int):
  """The place of a rating's digit, or None."""
  found = [n for n, token in enumerate(ids) if token in listener.digits]
  return found[number] if number < len(found) else None


def _domains(listener: Listener, said, sets) -> dict[str, Any]:
  model = listener.job.model
  see = jax.jit(functools.partial(domains.visual_embeddings, model))
  read = jax.jit(functools.partial(domains.text_embeddings, model))
  visual, text, names, quality = [], [], [], []
  for name, batches in said.items():
    opinions = iter(sets[name])
    for batch in batches:
      thoughts = [listener.thought(before) for before in batch.before]
      keep = [n for n in range(batch.count) if thoughts[n]]
      shown = {key: batch.prompts[key] for key in ('pixels', 'plan')}
      visual.append(np.asarray(see(listener.params, shown))[keep])
      lone = rows.alone(thoughts, listener.length)
      text.append(np.asarray(read(listener.params, lone))[keep])
      names += [name] * len(keep)
      # Nobody's opinion: crowds would weigh the same picture differently.
      worth = [
        photos.quality_of(next(opinions)['severities'], 1.0)
        for _ in range(batch.count)
      ]
      quality += [worth[n] for n in keep]
  fewest = min(len(part) for part in sets.values())
  bins = int(np.clip(fewest // BIN, 1, 10))
  embedded = np.concatenate(visual), np.concatenate(text)
  return _accuracies(*embedded, names, np.array(quality), bins)


def _accuracies(visual, text, names, quality, bins: int) -> dict[str, Any]:
  try:
    chosen = domains.matched(quality, names, bins)
    names = [names[n] for n in chosen]
    seen, told = (
      domains.linear_accuracy(x[chosen], names) for x in (visual, text)
    )
  except ValueError as error:
    # A model that hardly describes anything is an outcome, not a mistake.
    return {'undefined': str(error)}
  return {
    'visual': seen.mean,
    'text': told.mean,
    'chance': seen.chance,
    'images': len(chosen),
  }


def last_params(job: Any, workdir: epath.PathLike) -> Any:
  """Parameters of the last checkpoint of a run of the same model, on the host.

  Raises:
    ValueError: the run has no checkpoint.
  """
  kept = Checkpoints(epath.Path(workdir) / 'checkpoints')
  step = kept.latest()
  if step is None:
    raise ValueError(
      f'{workdir}: it holds no checkpoint, expected the workdir of a run '
      '(--config.init_from, --config.measure.partner)'
    )
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    job.model.abstract_params,
  )
  state, _ = kept.restore({'params': abstract}, step=step, partial=True)
  kept.close()
  return jax.device_get(state['params'])
