"""One regex table over parameter paths decides how each array is sharded.

A path is '/'-joined ('decoder/layers/attn/q/kernel'); a pattern must match the
whole path and the first match wins. The same `match` serves freezing, learning
rates and decay in `vlm.train.optimizer`.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.sharding.mesh import FLAG

# Below this many elements an unlisted array is replicated: gathering it would
# cost more latency than its memory is worth (4 MiB in float32).
LARGE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Relaxed:
  """A spec whose named mesh axes may be dropped where they do not divide.

  The drop is listed in the report ('replicated over tensor: ...'); without this
  wrapper an axis that does not divide is an error.
  """

  spec: P
  axes: tuple[str, ...]


# Legend: D width, N heads, K kv heads, H head dim, F ffn, V vocab, L layers.
DEFAULT_RULES = (
  # A vocabulary need not divide (InternVL3's 151,674 is not even a multiple of
  # 4); activations over it then stay whole as well.
  (
    r'(.*/)?embed/embedding',  # [V, D]
    Relaxed(P('tensor', 'fsdp'), ('tensor',)),
  ),
  (r'(.*/)?head/kernel', Relaxed(P('fsdp', 'tensor'), ('tensor',))),  # [D, V]
  (r'(.*/)?layers/attn/q/kernel', P(None, 'fsdp', 'tensor', None)),
  (r'(.*/)?layers/attn/q/bias', P(None, 'tensor', None)),
  # Fewer kv heads than tensor shards is normal under grouped queries; every
  # shard then keeps all of them.
  (
    r'(.*/)?layers/attn/[kv]/kernel',
    Relaxed(P(None, 'fsdp', 'tensor', None), ('tensor',)),
  ),
  (
    r'(.*/)?layers/attn/[kv]/bias',
    Relaxed(P(None, 'tensor', None), ('tensor',)),
  ),
  (r'(.*/)?layers/attn/o/kernel', P(None, 'tensor', None, 'fsdp')),
  (r'(.*/)?layers/mlp/(gate|up|fc1)/kernel', P(None, 'fsdp', 'tensor')),
  (r'(.*/)?layers/mlp/(gate|up|fc1)/bias', P(None, 'tensor')),
  (r'(.*/)?layers/mlp/gate_up/kernel', P(None, 'fsdp', None, 'tensor')),
  (r'(.*/)?layers/mlp/gate_up/bias', P(None, None, 'tensor')),
  (r'(.*/)?layers/mlp/(down|fc2)/kernel', P(None, 'tensor', 'fsdp')),
  (r'(.*/)?layers/attn/qkv/kernel', P(None, 'fsdp', None, 'tensor', None)),
  (r'(.*/)?layers/attn/qkv/bias', P(None, None, 'tensor', None)),
  (r'(.*/)?merger/fc1/kernel', P('fsdp', 'tensor')),  # [4 Dv, 4 Dv]
  (r'(.*/)?merger/fc1/bias', P('tensor')),
  (r'(.*/)?merger/fc2/kernel', P('tensor', 'fsdp')),  # [4 Dv, D]
  (r'(.*/)?deepstack/layers/fc1/kernel', P(None, 'fsdp', 'tensor')),
  (r'(.*/)?deepstack/layers/fc1/bias', P(None, 'tensor')),
  (r'(.*/)?deepstack/layers/fc2/kernel', P(None, 'tensor', 'fsdp')),
  (r'projector/linear_1/kernel', P('fsdp', 'tensor')),  # [Dv, D]
  (r'projector/linear_1/bias', P('tensor')),
  (r'projector/linear_2/kernel', P('tensor', 'fsdp')),  # [D, D]
  (r'(.*/)?(scale|bias|class_token|register_tokens|newline)', P()),
)


def match(path: str, table: Iterable[tuple[str, Any]], default=None) -> Any:
  """Returns the value of the first pattern that matches the whole path."""
  for pattern, value in table:
    if re.fullmatch(pattern, path):
      return value
  return default


def path_of(key_path: tuple) -> str:
  """Joins a JAX key path with '/'."""
  return jax.tree_util.keystr(key_path, simple=True, separator='/')


def flatten(tree: Any) -> list[tuple[str, Any]]:
  """Lists (path, leaf) of a tree of parameters, in tree order."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(path_of(key_path), leaf) for key_path, leaf in leaves]


def map_paths(f, tree: Any, *rest: Any) -> Any:
  """Maps `f(path, leaf, *leaves)` over trees of parameters."""
  return jax.tree_util.tree_map_with_path(
    lambda key_path, *leaves: f(path_of(key_path), *leaves), tree, *rest
  )


def specs(
  mesh: Any, abstract_params: Any, rules=DEFAULT_RULES, flag: str = FLAG
) -> Any:
  """Chooses a PartitionSpec for every parameter.

  Args:
    mesh: mesh whose axis sizes must divide the arrays.
    abstract_params: tree of anything with `shape`.
    rules: ((regex, PartitionSpec or Relaxed), ...), first match wins; a path
      without a match is sharded over fsdp along its largest divisible axis when
      it is large, else replicated.
    flag: what a person sets the mesh with, for errors.

  Returns:
    A tree of PartitionSpec.

  Raises:
    ValueError: naming parameter, axis, mesh axis and flag when a spec does not
      divide and no relaxation is declared.
  """
  return map_paths(
    lambda path, leaf: _resolve(mesh, path, leaf, rules, flag)[0],
    abstract_params,
  )


def shardings(
  mesh: Any, abstract_params: Any, rules=DEFAULT_RULES, flag: str = FLAG
) -> Any:
  """Like `specs`, as NamedShardings on `mesh`."""
  return map_paths(
    lambda path, leaf: NamedSharding(
      mesh, _resolve(mesh, path, leaf, rules, flag)[0]
    ),
    abstract_params,
  )


def relaxations(
  mesh: Any, abstract_params: Any, rules=DEFAULT_RULES
) -> dict[str, str]:
  """Says where an array is less sharded than its rule asked, by path."""
  notes = {
    path: _resolve(mesh, path, leaf, rules, FLAG)[1]
    for path, leaf in flatten(abstract_params)
  }
  return {path: note for path, note in notes.items() if note}


def _resolve(mesh, path: str, leaf: Any, rules, flag) -> tuple[P, str]:
  """Returns the spec of one array and a note on what was relaxed."""
  rule = match(path, rules)
  if rule is None:
    return _fallback(mesh, leaf.shape)
  relax = rule.axes if isinstance(rule, Relaxed) else ()
  spec = rule.spec if isinstance(rule, Relaxed) else rule
  if len(spec) > len(leaf.shape):
    raise ValueError(
      f'{path} has shape {tuple(leaf.shape)}, but its sharding rule {spec} '
      f'names {len(spec)} axes; list a rule for this path before it'
    )
  entries, notes = [], []
  for axis, names in enumerate(spec):
    entry, note = _fit(mesh, path, leaf.shape, axis, names, relax, flag)
    entries.append(entry)
    notes += [note] if note else []
  return P(*entries), '; '.join(notes)


def _fit(mesh, path, shape, axis, names, relax, flag) -> tuple[Any, str]:
  """Checks one axis of one array against the mesh axes that shard it."""
  parts = (names,) if isinstance(names, str) else tuple(names or ())
  for name in parts:
    if name not in mesh.shape:
      raise ValueError(
        f'{path}: its sharding rule names mesh axis {name!r}, expected one of '
        f'{tuple(mesh.shape)}'
      )
  count = math.prod(mesh.shape[name] for name in parts)
  if shape[axis] % count == 0:
    return names, ''
  joined = ' x '.join(parts)
  if set(parts) <= set(relax):
    size = shape[axis]
    return None, f'replicated over {joined}: {size} not divisible by {count}'
  flags = ' '.join(f'{flag}.{n}={mesh.shape[n]}' for n in parts)
  raise ValueError(
    f'{path} of shape {tuple(shape)}: axis {axis} of size {shape[axis]} is '
    f'sharded over mesh axis {joined}, expected a multiple of {count}; change '
    f'{flags} or add a rule (or Relaxed) for this path'
  )


def _fallback(mesh, shape: tuple[int, ...]) -> tuple[P, str]:
  """Shards a large unlisted array along its largest axis that fsdp divides."""
  fsdp = mesh.shape['fsdp']
  if math.prod(shape) < LARGE or fsdp == 1:
    return P(), ''
  fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
  if not fitting:
    return P(), f'replicated over fsdp: no axis divisible by {fsdp}'
  axis = max(fitting, key=lambda axis: shape[axis])
  return P(*(None,) * axis, 'fsdp'), ''
