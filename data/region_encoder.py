"""A trained region encoder as two files, which travel with its knowledge.

region_encoder.json         sizes, see `EncoderConfig`
region_encoder.safetensors  its parameters by path, float32
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.convert.plan import flatten
from vlm.methods.mask.encoder import EncoderConfig, RegionEncoder
from vlm.models.functional import Params

FACTS = 'region_encoder.json'
WEIGHTS = 'region_encoder.safetensors'
REGIONS = 12  # numbers of regions are filled up to multiples of this


@dataclasses.dataclass(frozen=True, eq=False)
class Encoding:
  """Features to codes, in batches of one shape over this process's devices.

  Attributes:
    model: the encoder.
    params: its parameters.
    batch_size: images at a time, rounded up to a multiple of the devices.
  """

  model: RegionEncoder
  params: Params
  batch_size: int = 128

  def __post_init__(self):
    mesh = Mesh(np.array(jax.local_devices()), ('rows',))
    whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P('rows'))
    run = lambda params, x, valid: self.model.encode(params, x, valid)[0]
    host = jax.tree.map(np.asarray, self.params)
    object.__setattr__(self, 'params', jax.device_put(host, whole))
    object.__setattr__(self, '_run', jax.jit(run, out_shardings=rows))
    object.__setattr__(self, '_rows', rows)
    size = -(-self.batch_size // mesh.size) * mesh.size
    object.__setattr__(self, 'batch_size', size)

  def __call__(self, features: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Codes f32 [n, I, Z] of features [n, I, M]; 0 where not `valid` [n, I].

    Raises:
      ValueError: for features of another width than the encoder's.
    """
    wanted = self.model.config.features
    if features.shape[-1] != wanted:
      raise ValueError(
        f'features of {features.shape[-1]} numbers, the encoder expects '
        f'{wanted}; give those it was trained with'
      )
    size, codes = self.batch_size, []
    for i in range(0, len(features), size):
      part = slice(i, i + size)
      codes.append(self._batch(features[part], valid[part]))
    shape = (*features.shape[:2], self.model.config.latent)
    return np.concatenate([np.zeros((0, *shape[1:]), np.float32), *codes])

  def _batch(self, features: np.ndarray, valid: np.ndarray) -> np.ndarray:
    rows, regions = valid.shape
    # Few static shapes: a short batch gets images without a region.
    fill = ((0, self.batch_size - rows), (0, -regions % REGIONS))
    x = np.pad(np.asarray(features, np.float32), (*fill, (0, 0)))
    given = jax.device_put((x, np.pad(valid, fill)), self._rows)
    codes = self._run(self.params, *given)
    codes = np.asarray(codes)[:rows, :regions]
    return np.where(valid[..., None], codes, 0).astype(np.float32)


def save(folder: epath.PathLike, config: EncoderConfig, params: Params) -> None:
  """Writes both files."""
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  arrays = {
    name: np.asarray(leaf, np.float32) for name, leaf in flatten(params).items()
  }
  (folder / WEIGHTS).write_bytes(safetensors.numpy.save(arrays))
  facts = json.dumps(dataclasses.asdict(config), indent=1)
  (folder / FACTS).write_text(facts)


def is_there(folder: epath.PathLike) -> bool:
  """Whether a folder holds an encoder."""
  return (epath.Path(folder) / FACTS).exists()


def load(folder: epath.PathLike) -> tuple[RegionEncoder, Params]:
  """Reads both files.

  Raises:
    FileNotFoundError: naming what is missing.
    ValueError: naming the file, and the array that does not fit.
  """
  folder = epath.Path(folder)
  for name in (FACTS, WEIGHTS):
    if not (folder / name).exists():
      raise FileNotFoundError(f'{folder}: {name} is missing')
  try:
    config = EncoderConfig(**json.loads((folder / FACTS).read_text()))
  except (TypeError, ValueError) as error:
    raise ValueError(f'{folder / FACTS}: {error}') from error
  model = RegionEncoder(config)
  try:
    arrays = safetensors.numpy.load((folder / WEIGHTS).read_bytes())
  except safetensors.SafetensorError as error:
    raise ValueError(f'{folder / WEIGHTS}: {error}') from error
  wanted = flatten(model.abstract_params)
  shapes = {name: leaf.shape for name, leaf in wanted.items()}
  found = {name: array.shape for name, array in arrays.items()}
  odd = sorted(
    name for name in {*shapes, *found} if shapes.get(name) != found.get(name)
  )
  if odd:
    raise ValueError(
      f'{folder / WEIGHTS}: {odd[0]} is {found.get(odd[0])}, expected '
      f'{shapes.get(odd[0])} ({len(odd)} arrays do not fit {FACTS})'
    )
  leaves = [jnp.asarray(arrays[name]) for name in wanted]
  return model, jax.tree.unflatten(
    jax.tree.structure(model.abstract_params), leaves
  )
