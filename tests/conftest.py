"""One environment for every test: 8 fake devices, a cache, checked shapes."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import pytest
from absl import flags
from jaxtyping import install_import_hook

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update(
  'jax_compilation_cache_dir',
  os.environ.get(
    'JAX_COMPILATION_CACHE_DIR',
    str(Path(tempfile.gettempdir()) / f'vlm-jax-cache-{os.getuid()}'),
  ),
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

# Workers of grain read absl flags; outside an absl app they are not parsed.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()

install_import_hook('vlm', 'beartype.beartype')


@pytest.fixture(scope='module', autouse=True)
def executables():
  """Compiled code of a module is given back.

  Each piece is a handful of memory maps, of which a process may have 65,530 on
  Linux: a worker of the whole suite would come to more, and crash.
  """
  yield
  jax.clear_caches()


@pytest.fixture(scope='session')
def devices() -> list[jax.Device]:
  """The 8 fake CPU devices."""
  return jax.devices()
