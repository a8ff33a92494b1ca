"""AdamW or Muon from a config, with one regex table for frozen, rates, decay.

The transformation only ever sees the trainable part of the parameters: a
frozen parameter has no gradient, no moments, and no share in the clipped norm.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlm.sharding.rules import flatten, map_paths, match
from vlm.train.muon import muon_and

FLAG = '--config.optimizer.{}'
KINDS = ('adam', 'muon')
SCHEDULES = ('constant', 'linear', 'cosine', 'rsqrt')
FIELDS = ('freeze', 'lr', 'decay')

# Decay pulls weights of matrix products to zero; scales, biases and tables of
# embeddings have no such reading.
DECAY_RULES = (
  (
    r'(.*/)?(scale|bias|embedding|position|class_token|register_tokens|newline)',
    0.0,
  ),
  (r'logit_(scale|bias)', 0.0),
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Choices of the optimiser.

  Attributes:
    kind: 'adam', or 'muon' for the matrices inside (vlm/train/muon.py) and
      Adam for all else; updates have like sizes, so one `lr` serves both.
    lr: peak learning rate.
    schedule: what follows the warm-up: 'constant', 'linear' or 'cosine' to zero
      at the last step, or 'rsqrt' (inverse square root of the step).
    warmup: steps of linear warm-up.
    weight_decay: decoupled decay of kernels, multiplied by the learning rate.
    clip: largest global norm of the gradient; 0 turns clipping off.
    b1: decay of the first moment.
    b2: decay of the second moment.
    rules: ((regex, dict(freeze=bool, lr=multiplier, decay=weight decay)), ...);
      a regex matches a whole path, and the first matching rule that sets a
      field decides it.
    ema: decay of the averaged parameters; 0 keeps none.
  """

  kind: str = 'adam'
  lr: float = 1e-3
  schedule: str = 'cosine'
  warmup: int = 0
  weight_decay: float = 0.0
  clip: float = 1.0
  b1: float = 0.9
  b2: float = 0.999
  rules: tuple = ()
  ema: float = 0.0

  @classmethod
  def of(cls, config: Any) -> 'OptimizerConfig':
    """Reads a mapping (or passes through); refuses unknown fields."""
    if isinstance(config, cls):
      return config
    config = dict(config)
    known = [field.name for field in dataclasses.fields(cls)]
    for name in config:
      if name not in known:
        raise ValueError(
          f'{FLAG.format(name)} is unknown, expected one of {known}'
        )
    return cls(**config)

  def __post_init__(self):
    for name, known in (('kind', KINDS), ('schedule', SCHEDULES)):
      if getattr(self, name) not in known:
        raise ValueError(
          f'{FLAG.format(name)}={getattr(self, name)!r}, expected one of '
          f'{known}'
        )
    for name, low, high in (
      ('lr', 0, float('inf')),
      ('warmup', 0, float('inf')),
      ('weight_decay', 0, float('inf')),
      ('clip', 0, float('inf')),
      ('b1', 0, 1),
      ('b2', 0, 1),
      ('ema', 0, 1),
    ):
      value = getattr(self, name)
      if not low <= value < high:
        raise ValueError(
          f'{FLAG.format(name)}={value}, expected {low} <= {name} < {high}'
        )


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """A gradient transformation over the trainable part of the parameters.

  Attributes:
    transform: optax transformation; sees pruned trees only.
    schedule: step -> learning rate, for the log.
    frozen: paths of parameters that never change.
  """

  transform: optax.GradientTransformation
  schedule: Callable[[Any], Any]
  frozen: frozenset[str] = frozenset()

  def split(self, params: Any) -> tuple[dict, dict]:
    """Cuts a nested dict into (trainable, frozen); empty branches vanish."""
    return (
      _select(params, lambda path: path not in self.frozen),
      _select(params, lambda path: path in self.frozen),
    )

  def init(self, params: Any) -> Any:
    """State for the trainable parameters; moments are float32."""
    trainable, _ = self.split(params)
    return self.transform.init(_float32(trainable))

  def apply(self, grads: Any, state: Any, trainable: Any):
    """Returns (new trainable, new state, float32 updates)."""
    updates, state = self.transform.update(
      _float32(grads), state, _float32(trainable)
    )
    moved = jax.tree.map(
      lambda p, u: (p.astype(jnp.float32) + u).astype(p.dtype),
      trainable,
      updates,
    )
    return moved, state, updates


def make_optimizer(config: Any, abstract_params: Any, steps: int) -> Optimizer:
  """Builds the optimiser of a run.

  Args:
    config: mapping or OptimizerConfig.
    abstract_params: nested dict of anything with `shape`; gives the paths.
    steps: number of updates of the whole run, for the schedule.

  Returns:
    An Optimizer.

  Raises:
    ValueError: for an unknown field, a bad value, or a regex that matches no
      parameter, naming it.
  """
  config = OptimizerConfig.of(config)
  paths = [path for path, _ in flatten(abstract_params)]
  rules = _checked_rules(config.rules, paths)
  frozen = frozenset(path for path in paths if _field(rules, path, 'freeze'))
  if len(frozen) == len(paths):
    raise ValueError(
      f'{FLAG.format("rules")} freezes all {len(paths)} parameters; nothing is '
      'left to train'
    )
  schedule = make_schedule(config.schedule, config.lr, config.warmup, steps)

  def decay(path):
    default = match(path, DECAY_RULES, config.weight_decay)
    return float(_field(rules, path, 'decay', default))

  def multiplier(path):
    return float(_field(rules, path, 'lr', 1.0))

  direction = optax.scale_by_adam(b1=config.b1, b2=config.b2)
  if config.kind == 'muon':
    direction = muon_and(direction)
  parts = [
    direction,
    _per_path(lambda path, u, p: u + decay(path) * p),
    _per_path(lambda path, u, p: u * multiplier(path)),
    optax.scale_by_schedule(lambda count: -schedule(count)),
  ]
  if config.clip:
    parts.insert(0, optax.clip_by_global_norm(config.clip))
  return Optimizer(optax.chain(*parts), schedule, frozen)


def make_schedule(
  kind: str, lr: float, warmup: int, steps: int
) -> Callable[[Any], Any]:
  """Learning rate of update number `count` (from 0).

  A linear warm-up min(1, (count + 1) / warmup) times, after it, with
  x = (count - warmup) / (steps - warmup): 1 (constant), 1 - x (linear),
  (1 + cos(pi x)) / 2 (cosine), or sqrt(warmup / (count + 1)) (rsqrt).

  Args:
    kind: one of SCHEDULES.
    lr: peak learning rate.
    warmup: number of warm-up updates.
    steps: number of updates of the run.

  Returns:
    A function of an int or a traced count, giving a float32 scalar.
  """
  if warmup >= steps:
    raise ValueError(
      f'{FLAG.format("warmup")}={warmup}, expected fewer than --config.steps='
      f'{steps}'
    )

  def schedule(count):
    count = jnp.asarray(count, jnp.float32)
    warm = jnp.minimum(1.0, (count + 1) / max(warmup, 1))
    x = jnp.clip((count - warmup) / (steps - warmup), 0, 1)
    rest = {
      'constant': 1.0,
      'linear': 1 - x,
      'cosine': (1 + jnp.cos(jnp.pi * x)) / 2,
      'rsqrt': jnp.sqrt(max(warmup, 1) / jnp.maximum(count + 1, warmup)),
    }[kind]
    return lr * warm * jnp.minimum(1.0, rest)

  return schedule


def _per_path(f) -> optax.GradientTransformation:
  """A stateless transformation `f(path, update, param)`."""
  return optax.stateless(lambda updates, params: map_paths(f, updates, params))


def _select(tree: Any, keep: Callable[[str], bool], prefix: str = '') -> dict:
  """Keeps the leaves whose path satisfies `keep`."""
  kept = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      branch = _select(value, keep, f'{prefix}{key}/')
      if branch:
        kept[key] = branch
    elif keep(prefix + key):
      kept[key] = value
  return kept


def merge(first: Mapping, second: Mapping) -> dict:
  """Joins two nested dicts with disjoint leaves; inverse of `split`."""
  merged = {
    key: merge(value, second[key]) if key in second else value
    for key, value in first.items()
  }
  return merged | {k: v for k, v in second.items() if k not in first}


def _float32(tree: Any) -> Any:
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _checked_rules(rules: Any, paths: list[str]) -> tuple:
  """Returns the table as ((regex, dict), ...) or says what is wrong with it."""
  rules = tuple((regex, dict(choice)) for regex, choice in rules)
  for regex, choice in rules:
    for name in choice:
      if name not in FIELDS:
        raise ValueError(
          f'{FLAG.format("rules")}: field {name!r} of {regex!r} is unknown, '
          f'expected one of {FIELDS}'
        )
    if not any(match(path, ((regex, True),)) for path in paths):
      raise ValueError(
        f'{FLAG.format("rules")}: {regex!r} matches no parameter; a regex must '
        f'match a whole path, such as {paths[0]!r} or {paths[-1]!r}'
      )
  return rules


def _field(rules: tuple, path: str, name: str, default: Any = None) -> Any:
  """The first matching rule that sets `name` decides it."""
  table = ((regex, c[name]) for regex, c in rules if name in c)
  return match(path, table, default)
