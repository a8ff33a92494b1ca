"""Reads a compiled program's text: collectives, trip counts, large buffers.

XLA's own summaries count the body of a loop once. Here the call graph is walked
from the entry, a loop's body counts as often as its condition lets it run, and
what a collective moves follows from its shapes and groups.
"""

import collections
import dataclasses
import functools
import math
import re

# Bytes per element; sub-byte types are rounded up and do not occur here.
ITEMSIZE = {
  'pred': 1,
  **{f'{kind}8': 1 for kind in 'su'},
  **{f'{kind}16': 2 for kind in ('s', 'u', 'f', 'bf')},
  **{f'{kind}32': 4 for kind in 'suf'},
  **{f'{kind}64': 8 for kind in 'suf'},
}
COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
# Results that are views of other buffers.
VIEWS = ('parameter', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call')

_COMPUTATION = re.compile(r'^(ENTRY )?%([^\s(]+) \(.*\{$')
_INSTRUCTION = re.compile(
  r'^\s+(ROOT )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$'
)
_ARRAY = re.compile(r'([a-z]+[0-9]+|pred)\[([0-9,]*)\](\{[^}]*\})?')
_MESH_GROUPS = re.compile(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}')
_CALLED = re.compile(r'(calls|to_apply|body|condition)=%([^\s,)]+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  shape: str
  opcode: str
  rest: str
  root: bool

  @property
  def operands(self) -> list[str]:
    """Names of the operands."""
    return re.findall(r'%([^\s,()]+)', _arguments(self.rest))

  @property
  def source(self) -> str:
    """Where in the Python program it comes from."""
    found = re.search(r'op_name="([^"]*)"', self.rest)
    return found.group(1) if found else ''

  def called(self) -> dict[str, str]:
    """Role ('body', 'calls', ...) -> computation."""
    return dict(_CALLED.findall(self.rest))


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective and how often a step runs it.

  Attributes:
    kind: one of COLLECTIVES.
    times: executions per step.
    group: chips that take part.
    sent: bytes one chip sends in one execution, by the ring algorithm.
    source: where in the Python program it comes from.
  """

  kind: str
  times: int
  group: int
  sent: float
  source: str


@dataclasses.dataclass(frozen=True)
class Buffer:
  """A large array of one device."""

  bytes: int
  shape: str
  source: str


class Program:
  """A compiled module, by computation.

  Args:
    text: `compiled.as_text()`.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ''
    current = {}
    for line in text.splitlines():
      if header := _COMPUTATION.match(line):
        current = self.computations[header.group(2)] = {}
        if header.group(1):
          self.entry = header.group(2)
      elif found := _INSTRUCTION.match(line):
        root, name, shape, opcode, rest = found.groups()
        current[name] = Instruction(name, shape, opcode, rest, bool(root))

  @functools.cached_property
  def times(self) -> dict[str, int]:
    """Computation -> how often a step runs it."""
    counts: collections.Counter[str] = collections.Counter()
    waiting = [(self.entry, 1)]
    while waiting:
      name, times = waiting.pop()
      counts[name] += times
      for line in self.computations[name].values():
        if 'calls=' not in line.rest and '=%' not in line.rest:
          continue
        for role, callee in line.called().items():
          if callee in self.computations and role != 'condition':
            trips = self.trips(name, line) if role == 'body' else 1
            waiting.append((callee, times * trips))
    return counts

  def trips(self, computation: str, loop: Instruction) -> int:
    """How often a `while` runs its body; 1 where it cannot be told."""
    condition = self.computations[loop.called()['condition']]
    root = next(line for line in condition.values() if line.root)
    if root.opcode != 'compare':
      return 1
    left, right = (condition[name] for name in root.operands)
    inside = self.computations[computation]
    carried = inside[loop.operands[0]]
    start = self._number(left, inside, carried)
    end = self._number(right, inside, carried)
    if start is None or end is None:
      return 1
    closed = 'direction=LE' in root.rest
    return max(1, end - start + closed)

  def _number(self, line, outside, carried) -> int | None:
    """Value of a constant, or of a loop-carried constant."""
    for _ in range(8):
      if line.opcode == 'constant':
        found = re.match(r'(-?\d+)\)', line.rest)
        return int(found.group(1)) if found else None
      index = re.search(r'index=(\d+)', line.rest)
      if line.opcode == 'get-tuple-element' and carried.opcode == 'tuple':
        line = outside[carried.operands[int(index.group(1))]]
        continue
      if line.opcode in ('copy', 'bitcast', 'convert') and line.operands:
        line = outside.get(line.operands[0], line)
        continue
      return None
    return None

  def collectives(self) -> list[Collective]:
    """Every collective, once each, with its executions per step.

    The TPU compiler spreads an asynchronous collective over several fusions
    that all carry its channel; those count as one. Permutes are never spread,
    and all those that a program writes itself are of channel 1.
    """
    found: dict[tuple, Collective] = {}
    for computation, lines in self.computations.items():
      times = self.times.get(computation, 0)
      if not times:
        continue
      for line in lines.values():
        kind = line.opcode.removesuffix('-start')
        if kind not in COLLECTIVES:
          continue
        one = _collective(kind, line, times, computation)
        channel = re.search(r'channel_id=(\d+)', line.rest)
        key = (computation, line.name)
        if channel and kind != 'collective-permute':
          key = (kind, channel.group(1))
        if key not in found or found[key].times < times:
          found[key] = one
    return list(found.values())

  def largest(self, count: int) -> list[Buffer]:
    """The largest arrays in HBM that the program makes, one per shape."""
    sizes: dict[str, Buffer] = {}
    fused = self._fused()
    for computation, lines in self.computations.items():
      if computation in fused or computation not in self.times:
        continue
      for line in lines.values():
        if line.opcode in VIEWS or line.opcode.endswith('-done'):
          continue
        for kind, dims, layout in _ARRAY.findall(line.shape):
          if 'S(' in layout:
            continue  # on the chip: VMEM, SMEM
          size = _size(kind, dims)
          shape = f'{kind}[{dims}]'
          sizes.setdefault(shape, Buffer(size, shape, line.source))
    return sorted(sizes.values(), key=lambda buffer: -buffer.bytes)[:count]

  def _fused(self) -> set[str]:
    """Computations whose intermediate values never reach memory."""
    return {
      callee
      for lines in self.computations.values()
      for line in lines.values()
      if line.opcode in ('fusion', 'reduce', 'all-reduce', 'custom-call')
      for callee in line.called().values()
    }


def _arguments(rest: str) -> str:
  depth = 1
  for i, character in enumerate(rest):
    depth += (character == '(') - (character == ')')
    if depth == 0:
      return rest[:i]
  return rest


def _size(kind: str, dims: str) -> int:
  return ITEMSIZE.get(kind, 1) * math.prod(int(d) for d in dims.split(',') if d)


def _collective(kind, line, times, computation) -> Collective:
  arrays = [_size(kind, dims) for kind, dims, _ in _ARRAY.findall(line.shape)]
  # The result of an asynchronous start names its operand too.
  whole = max(arrays) if line.opcode.endswith('-start') else sum(arrays)
  group = group_size(line.rest)
  if kind == 'all-reduce' and computation.startswith('all-reduce-scatter'):
    kind = 'reduce-scatter'  # how the TPU compiler writes one
  elif kind == 'reduce-scatter':
    whole *= group
  share = (group - 1) / group
  sent = {
    'all-gather': whole * share,
    'reduce-scatter': whole * share,
    'all-to-all': whole * share,
    'all-reduce': 2 * whole * share,
    'collective-permute': whole,
  }[kind]
  return Collective(kind, times, group, sent, line.source)


def group_size(rest: str) -> int:
  """Chips per group of a collective, from any spelling of its groups."""
  if found := _MESH_GROUPS.search(rest):
    axes = dict(re.findall(r"'([^']+)'=(\d+)", found.group(1)))
    names = re.findall(r"'([^']+)'", found.group(2))
    return math.prod(int(axes[name]) for name in names)
  if found := re.search(r'replica_groups=\[(\d+),(\d+)\]', rest):
    return int(found.group(2))
  if found := re.search(r'replica_groups=\{\{([\d,]*)\}', rest):
    return found.group(1).count(',') + 1
  if found := re.search(r'source_target_pairs=\{(.*?)\}\}', rest):
    return found.group(1).count('{') or 1
  return 1
