"""RALI's folders: the released layout read, ours read and written.

Ours, which `transformers` opens as a CLIPVisionModelWithProjection:

    config.json, model.safetensors   the image tower and its projection
    preprocessor_config.json         how images become its pixels
    scorer.safetensors               the parameters of vlm.methods.rali.scorer
    basis.npz                        the basis before it was fitted
    rali.json                        what the arrays do not say

No text tower is read from either.
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from vlm.convert import folder as folders
from vlm.convert.checkpoint import DTYPE_NAMES, Entry
from vlm.convert.plan import plan
from vlm.convert.reader import load_params, read_params
from vlm.convert.writer import save_params
from vlm.methods.rali import released, scorer
from vlm.methods.rali.scorer import ScorerSettings
from vlm.methods.rali.torch_file import TorchFile
from vlm.models import clip, registry
from vlm.models.functional import Params, Runtime
from vlm.sharding import rules

SETTINGS, SCORER = 'rali.json', 'scorer.safetensors'
PREPROCESSOR = 'preprocessor_config.json'
OURS = (
  SETTINGS,
  SCORER,
  PREPROCESSOR,
  released.BASIS,
  'config.json',
  'model.safetensors',
)
# Where a repository keeps the released layout beside other models.
SUBFOLDER = 'RALI'
WANTED = OURS + tuple(f'{SUBFOLDER}/{name}' for name in released.FILES)


@dataclasses.dataclass(frozen=True, eq=False)
class Rali:
  """An image tower and the scorer behind it.

  Attributes:
    tower: the tower's description.
    params: of the tower, wherever they lie.
    scorer: of the scorer, numpy float32.
    form: of the scorer.
    basis: vectors [K, P] and scores [K] before the fit.
    hf_config: the tower's config.json.
    preprocessor: the contents of preprocessor_config.json.
  """

  tower: clip.ClipImage
  params: Params
  scorer: dict[str, np.ndarray]
  form: ScorerSettings
  basis: dict[str, np.ndarray]
  hf_config: dict[str, Any]
  preprocessor: dict[str, Any]

  def scores(
    self, params: Params, weights: Any, pixels: jax.Array
  ) -> jax.Array:
    """Quality [B] of images [B, S, S, 3]; pure, for jit.

    Args:
      params: of the tower.
      weights: of the scorer.
      pixels: uint8, or float and normalised.
    """
    embedding = self.tower.encode_image(params, pixels).embedding
    return scorer.scores(weights, embedding, self.form)


def load(
  source: epath.PathLike,
  runtime: Runtime = Runtime(),
  mesh: jax.sharding.Mesh | None = None,
) -> Rali:
  """Reads a scorer of either layout.

  Args:
    source: a folder, local or gs://, or a hub id; the released layout may lie
      in a folder RALI below it.
    runtime: execution choices.
    mesh: where the tower goes; None for one device.

  Raises:
    FileNotFoundError: naming what is missing.
    ValueError: naming file and array of what does not fit.
  """
  folder = folders.resolve(source, WANTED)
  below = folder / SUBFOLDER
  if not (folder / SETTINGS).exists() and released.is_released(below):
    folder = below
  if released.is_released(folder):
    return _load_released(folder, runtime, mesh)
  missing = [name for name in OURS if not (folder / name).exists()]
  if missing:
    raise FileNotFoundError(
      f'{folder}: no RALI: {", ".join(missing)} is missing (and no '
      f'{released.WEIGHTS} of the released layout is there)'
    )
  return _load_ours(folder, runtime, mesh)


def save(folder: epath.PathLike, rali: Rali) -> None:
  """Writes our layout.

  Raises:
    ValueError: the folder already holds weights, or the scorer's arrays do not
      fit each other and the tower.
  """
  folder = epath.Path(folder)
  scorer.check(rali.scorer, rali.tower.config.embedding)
  save_params(folder, rali.tower, rali.params, rali.hf_config)
  arrays = {
    name: np.asarray(rali.scorer[name], np.float32) for name in scorer.NAMES
  }
  (folder / SCORER).write_bytes(safetensors.numpy.save(arrays))
  with (folder / released.BASIS).open('wb') as file:
    np.savez(file, **rali.basis)
  write = lambda name, value: (folder / name).write_text(
    json.dumps(value, indent=2) + '\n'
  )
  write(PREPROCESSOR, rali.preprocessor)
  write(SETTINGS, dataclasses.asdict(rali.form))


def tower_config(config: dict[str, Any]) -> dict[str, Any]:
  """config.json of the tower alone, from that of a whole CLIP."""
  whole = config.get('vision_config', config)
  return whole | {
    'architectures': ['CLIPVisionModelWithProjection'],
    'model_type': 'clip_vision_model',
    'projection_dim': config.get('projection_dim', 512),
  }


def _load_ours(folder: epath.Path, runtime: Runtime, mesh) -> Rali:
  config = folders.read_config(folder)
  tower = registry.build(registry.config_from_hf(config), runtime)
  path = folder / SCORER
  try:
    arrays = safetensors.numpy.load(path.read_bytes())
    scorer.check(arrays, tower.config.embedding)
  except (safetensors.SafetensorError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from error
  try:
    form = ScorerSettings(**json.loads((folder / SETTINGS).read_text()))
  except (TypeError, ValueError) as error:
    raise ValueError(f'{folder / SETTINGS}: {error}') from error
  params = load_params(folder, tower, _placed(tower, mesh))
  basis = released.read_basis(folder / released.BASIS, arrays)
  preprocessor = json.loads((folder / PREPROCESSOR).read_text())
  return Rali(tower, params, arrays, form, basis, config, preprocessor)


def _load_released(folder: epath.Path, runtime: Runtime, mesh) -> Rali:
  released.check_files(folder)
  best = folder / released.CLIP
  config = folders.read_config(best)
  whole = registry.build(registry.config_from_hf(config))
  tower = registry.build(clip.ClipImageConfig.from_hf(config), runtime)
  with TorchFile(folder / released.WEIGHTS) as weights:
    found = released.read_scorer(folder, weights)
    scorer.check(found.params, tower.config.embedding)
    towers = _Towers(weights)
    plan(towers, whole)  # Both towers' tensors, and no others.
    params = read_params(towers, tower, _placed(tower, mesh))
  return Rali(
    tower,
    params,
    found.params,
    ScorerSettings(),
    found.basis,
    tower_config(config),
    json.loads((best / PREPROCESSOR).read_text()),
  )


def _placed(tower: clip.ClipImage, mesh: jax.sharding.Mesh | None) -> Any:
  return mesh and rules.shardings(mesh, tower.abstract_params)


class _Towers:
  """clip.* of a ckpt.pt, with the face of a `Checkpoint`."""

  def __init__(self, weights: TorchFile):
    self.folder, self._weights = weights.path, weights
    self._tensors = {
      key.removeprefix('clip.'): tensor
      for key, tensor in released.tensors_of(weights).items()
      if key.startswith('clip.')
    }
    self.entries = {
      key: Entry(key, weights.path.name, _dtype(tensor), tensor.shape, 0, 0)
      for key, tensor in self._tensors.items()
    }
    self._last: tuple[str, np.ndarray] | None = None

  def read(self, entry: Entry, rows, columns) -> np.ndarray:
    """See `Checkpoint.read`."""
    if self._last is None or self._last[0] != entry.key:
      self._last = entry.key, self._weights.read(self._tensors[entry.key])
    value = self._last[1]
    if value.ndim == 0:
      return value
    part = value[slice(*rows)]
    return part if value.ndim == 1 else part[:, slice(*columns)]


def _dtype(tensor: Any) -> str:
  dtype = tensor.storage.dtype
  return DTYPE_NAMES.get(dtype, dtype.name)
