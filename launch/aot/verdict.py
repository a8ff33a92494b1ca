"""What a compiler said of one step on one slice, in numbers and in words."""

import collections
import dataclasses

from launch.aot import hlo
from launch.pods import topologies

GIB = topologies.GIB
_REMEDY = (
  'a smaller --config.batch_size, a larger --config.accumulate, '
  '--config.runtime.remat=block, more fsdp or tensor shards'
)
_SAMPLER = (
  'fewer prompts (--config.rollout.rows; --config.batch_size of grpo) or new '
  'tokens, more shards by --config.rollout.mesh.tensor'
)
_REMEDIES = {'prefill': _SAMPLER, 'decode': _SAMPLER}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of HBM on one chip.

  Attributes:
    arguments: state (or parameters) and batch.
    temporaries: everything alive between them and the results.
    outputs: results, of which `aliased` reuse donated arguments.
    aliased: see `outputs`.
    code: the program itself.
  """

  arguments: int
  temporaries: int
  outputs: int
  aliased: int
  code: int

  @property
  def total(self) -> int:
    """Bytes in use at the peak."""
    held = self.arguments + self.outputs - self.aliased
    return held + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Report:
  """What the compiler said of one step on one slice.

  Attributes:
    step: 'train' or 'forward'.
    slice: the TPU slice.
    mesh: mesh axis -> size.
    rows: rows of the global batch.
    length: tokens per row.
    images: tiles or patches per row, in words.
    accumulate: microbatches.
    remat: `Runtime.remat`.
    refusal: the compiler's words when it does not fit, else ''.
    memory: per chip; of a compilation without limit when it does not fit, None
      when that failed too.
    largest: largest arguments (by path) and temporaries.
    collectives: see `hlo.Collective`.
    model_flops: of the whole step, see `flops.train_flops`.
    hardware_flops: with recomputation, whole step.
    hbm_bytes: per chip, see `flops.hbm_bytes`.
    compile_seconds: wall clock.
    host_bytes: peak resident memory of this process.
  """

  step: str
  slice: topologies.Slice
  mesh: dict[str, int]
  rows: int
  length: int
  images: str
  accumulate: int
  remat: str
  refusal: str
  memory: Memory | None
  largest: list[hlo.Buffer]
  collectives: list[hlo.Collective]
  model_flops: float
  hardware_flops: float
  hbm_bytes: float
  compile_seconds: float
  host_bytes: int

  @property
  def fits(self) -> bool:
    """Whether the compiler accepted it."""
    return not self.refusal

  @property
  def seconds(self) -> dict[str, float]:
    """The three walls of the roofline, in seconds per step."""
    chip = self.slice.chip
    return {
      'compute': self.hardware_flops / (self.slice.chips * chip.peak),
      'HBM': self.hbm_bytes / chip.hbm_rate,
      'ICI': sum(
        one.times * one.sent / self.slice.ring_rate(one.group)
        for one in self.collectives
        if one.sent
      ),
    }

  @property
  def bound(self) -> str:
    """The wall that is hit first."""
    return max(self.seconds, key=self.seconds.__getitem__)

  @property
  def step_seconds(self) -> float:
    """Estimated time of a step, if everything else hides behind the bound."""
    return self.seconds[self.bound]

  @property
  def mfu(self) -> float:
    """Model FLOP/s over peak FLOP/s at the estimated step time."""
    peak = self.slice.chips * self.slice.chip.peak
    return self.model_flops / (peak * self.step_seconds)

  def traffic(self) -> list[tuple[str, int, int, float]]:
    """Per kind and group size: (kind, group, executions, bytes sent)."""
    times, sent = collections.Counter(), collections.Counter()
    for one in self.collectives:
      if one.sent:
        times[one.kind, one.group] += one.times
        sent[one.kind, one.group] += one.times * one.sent
    ordered = sorted(sent, key=lambda key: -sent[key])
    return [(*key, times[key], sent[key]) for key in ordered]

  def text(self) -> str:
    """Renders the report for a terminal."""
    mesh = ' '.join(f'{name}={size}' for name, size in self.mesh.items())
    work = f'{self.rows} x {self.length} tokens, {self.images} a row'
    lines = [
      f'{self.step} step on {self.slice.name} ({self.slice.chips} chips, '
      f'{mesh}): {work}, accumulate {self.accumulate}, remat {self.remat}',
      f'  compiled in {self.compile_seconds:.0f} s with '
      f'{self.host_bytes / GIB:.1f} GiB of host memory',
      *self._memory_lines(),
    ]
    if self.memory:
      lines += [
        f'  FLOPs per step: model {self.model_flops:.3e}, hardware '
        f'{self.hardware_flops:.3e} (with recomputation)',
        '  collectives per step and chip:',
        *(
          f'    {kind} over {group}: {times} times, {sent / 1e9:.3f} GB sent'
          for kind, group, times, sent in self.traffic()
        ),
        '  roofline: '
        + ', '.join(f'{k} {1e3 * v:.1f} ms' for k, v in self.seconds.items()),
        f'  estimated step time: {1e3 * self.step_seconds:.1f} ms, bound by '
        f'{self.bound}, MFU {100 * self.mfu:.0f} % if all else is hidden '
        'behind it (an estimate; nothing ran)',
      ]
    return '\n'.join(lines)

  def _memory_lines(self) -> list[str]:
    hbm = self.slice.chip.hbm
    lines = []
    if self.memory:
      m = self.memory
      lines.append(
        f'  HBM per chip: arguments {m.arguments / GIB:.2f} + temporaries '
        f'{m.temporaries / GIB:.2f} + new outputs '
        f'{(m.outputs - m.aliased) / GIB:.2f} + program {m.code / GIB:.2f} = '
        f'{m.total / GIB:.2f} of {hbm / GIB:.2f} GiB '
        f'({100 * m.total / hbm:.0f} %)'
      )
    if self.refusal:
      lines += [
        f'  DOES NOT FIT: {self.refusal}',
        '  largest buffers per chip:',
        *(
          f'    {b.bytes / GIB:7.3f} GiB  {b.shape}  {b.source}'
          for b in self.largest
        ),
        f'  to make it fit: {_REMEDIES.get(self.step, _REMEDY)}, or a larger '
        '--topology',
      ]
    return lines
