"""The released scorer's files (Q-Insight, folder RALI), read safely.

    best/       a CLIPModel folder: config.json and preprocessor_config.json say
                what the tower is; its weights are those of ckpt.pt
    pca.pkl     a fitted PCA; the only place of pca_mean
    basis.npz   vectors [K, P], scores [K]: the basis before it was fitted
    ckpt.pt     state_dict: clip.* of both towers, scorer.* of the scorer

Published code falls back to an identity or to random prototypes where a file
cannot be read; here that is an error that names the file.
"""

import dataclasses
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from vlm.methods.rali import scorer
from vlm.methods.rali.sklearn_file import read_pca
from vlm.methods.rali.torch_file import Tensor, TorchFile

CLIP, PCA, BASIS, WEIGHTS = 'best', 'pca.pkl', 'basis.npz', 'ckpt.pt'
FILES = (
  f'{CLIP}/config.json',
  f'{CLIP}/preprocessor_config.json',
  PCA,
  BASIS,
  WEIGHTS,
)
# Of ckpt.pt; the mean is not among them.
LEARNED = tuple(name for name in scorer.NAMES if name != 'pca_mean')
# A spread below this is none, and nothing is divided by it.
LEAST_SPREAD = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Released:
  """A released scorer but for its image tower.

  Attributes:
    params: of the scorer, as `scorer.NAMES`.
    basis: vectors and scores before the fit, float32.
  """

  params: dict[str, np.ndarray]
  basis: dict[str, np.ndarray]


def is_released(folder: epath.PathLike) -> bool:
  """Whether a folder has the released layout rather than ours."""
  folder = epath.Path(folder)
  return any((folder / name).exists() for name in (PCA, WEIGHTS))


def check_files(folder: epath.PathLike) -> None:
  """Checks that every file is there.

  Raises:
    FileNotFoundError: naming all that are missing.
  """
  folder = epath.Path(folder)
  missing = [name for name in FILES if not (folder / name).exists()]
  if missing:
    raise FileNotFoundError(
      f'{folder}: {", ".join(missing)} is missing; the layout '
      'is that of ByteDance/Q-Insight, folder RALI'
    )


def read_scorer(folder: epath.PathLike, weights: TorchFile) -> Released:
  """The scorer of a folder.

  Args:
    folder: with the released layout.
    weights: its opened ckpt.pt.

  Raises:
    ValueError: naming the file and what in it is missing, unexpected, of
      another shape or not a number. `UnsafePickle` is one.
  """
  folder = epath.Path(folder)
  tensors = tensors_of(weights)
  params = {}
  for name in LEARNED:
    value = weights.read(tensors[f'scorer.{name}'])
    params[name] = np.asarray(value, np.float32)
  params['logit_scale'] = _number(params['logit_scale'], weights.path)
  mean, components, scale = _pca(folder / PCA)
  if components.shape != params['pca_components'].shape:
    raise ValueError(
      f'{folder / PCA}: components {components.shape}, but {WEIGHTS} has '
      f'{params["pca_components"].shape}: they are not of one training'
    )
  params['pca_mean'] = mean
  if params['pca_scale'].shape == ():
    params['pca_scale'] = np.broadcast_to(params['pca_scale'], scale.shape)
  basis = read_basis(folder / BASIS, params)
  scorer.check(params)
  return Released({name: params[name] for name in scorer.NAMES}, basis)


def tensors_of(weights: TorchFile) -> dict[str, Tensor]:
  """The tensors of ckpt.pt by key: clip.* and exactly the scorer's.

  Raises:
    ValueError: naming keys that are missing or unexpected.
  """
  tree = weights.tree
  tensors = tree.get('state_dict') if isinstance(tree, dict) else None
  if not isinstance(tensors, dict):
    raise ValueError(f'{weights.path}: expected a dictionary with state_dict')
  wanted = {f'scorer.{name}' for name in LEARNED}
  others = {key for key in tensors if not str(key).startswith('clip.')}
  values = [key for key in tensors if not isinstance(tensors[key], Tensor)]
  for what, keys in (
    ('missing', wanted - others),
    ('unexpected', others - wanted),
    ('not a tensor', values),
  ):
    if keys:
      raise ValueError(f'{weights.path}: state_dict: {what} {sorted(keys)}')
  return tensors


def read_basis(
  path: epath.PathLike, params: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """basis.npz: vectors and scores, in the shapes of what was fitted.

  Raises:
    ValueError: naming what is missing or of another shape.
  """
  path = epath.Path(path)
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as stored:
      found = {
        name: np.asarray(stored[name], np.float32)
        for name in ('vectors', 'scores')
      }
  except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
    raise ValueError(f'{path}: expected vectors and scores: {error}') from error
  for name, fitted in (('vectors', 'prototypes'), ('scores', 'proto_scores')):
    if found[name].shape != params[fitted].shape:
      raise ValueError(
        f'{path}: {name} of {found[name].shape}, but {fitted} is of '
        f'{params[fitted].shape}'
      )
  return found


def _pca(path: epath.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """mean [E], components [P, E] and scale [E], float32."""
  state = read_pca(path)
  mean = _array(state, 'mean_', 1, path)
  components = _array(state, 'components_', 2, path)
  if components.shape[1] != len(mean):
    raise ValueError(
      f'{path}: mean_ of {len(mean)} and components_ of {components.shape[1]}'
    )
  scale = np.ones_like(mean)
  if state.get('var_') is not None:
    scale = np.sqrt(_array(state, 'var_', 1, path))
    scale = np.where(scale < LEAST_SPREAD, 1.0, scale)
  f32 = lambda x: np.asarray(x, np.float32)
  return f32(mean), f32(components), f32(scale)


def _array(state: Mapping[str, Any], name: str, axes: int, path) -> np.ndarray:
  value = state.get(name)
  if not isinstance(value, np.ndarray) or value.ndim != axes:
    raise ValueError(
      f'{path}: {name} expected an array of {axes} axes; was the PCA fitted?'
    )
  if not np.isfinite(value).all():
    raise ValueError(f'{path}: {name} holds NaN or infinity')
  return value.astype(np.float64)


def _number(value: np.ndarray, path) -> np.ndarray:
  if value.size != 1:
    raise ValueError(
      f'{path}: scorer.logit_scale expected one number, got {value.shape}'
    )
  return value.reshape(())
