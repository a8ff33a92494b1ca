"""The flags of a launcher, there for as long as the tests of a module run."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import jax
import pytest
from absl import flags

from launch import console, evaluate
from launch.benchmarks import video


@contextlib.contextmanager
def defined(
  define: Callable[[], None], required: Sequence[str] = ()
) -> Iterator[pytest.MonkeyPatch]:
  """Defines flags, and takes them away: other launchers use the same names.

  Args:
    define: the launcher's `define_flags`.
    required: flags that are marked so; tests give them by flagsaver.

  Yields:
    What a test may patch as long.
  """
  before = set(flags.FLAGS)
  define()
  for name in required:
    flags.FLAGS[name].using_default_value = False
  with pytest.MonkeyPatch.context() as patch:
    # Loggers that stop propagating would be silent in other tests.
    patch.setattr(console, 'set_up_logging', lambda: None)
    yield patch
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)


@contextlib.contextmanager
def of_benchmarks() -> Iterator[None]:
  """Those of launch.evaluate; on one device, so that batches may be small."""
  with defined(evaluate.define_flags) as patch:
    one = lambda tensor: video.mesh_lib.make_mesh({}, jax.devices()[:1])
    patch.setattr(video, 'mesh_of', one)
    yield
