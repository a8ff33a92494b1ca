"""A released RALI of a few kilobytes, written as torch and joblib write it."""

import io
import json
import pathlib
import pickle
import zlib

import numpy as np

WIDTH, PARTS, COUNT, SIDE = 24, 8, 12, 28
PREPROCESSOR = {
  'do_center_crop': True,
  'crop_size': {'height': SIDE, 'width': SIDE},
  'size': {'shortest_edge': SIDE},
  'image_mean': [0.48145466, 0.4578275, 0.40821073],
  'image_std': [0.26862954, 0.26130258, 0.27577711],
}


def stand_in(path: str) -> type:
  """A class that pickles under another's name: 'package.module.Name'."""
  module, name = path.rsplit('.', 1)
  return type(name, (), {'__module__': module, 'published': True})


class JoblibPickler(pickle._Pickler):
  """Arrays as records followed by their bytes, as joblib lays them out."""

  def __init__(self, file, protocol, aligned=True, plain=False):
    super().__init__(file, protocol)
    self._file_handle, self._aligned, self._plain = file, aligned, plain
    self._wrapper = stand_in('joblib.numpy_pickle.NumpyArrayWrapper')

  def save_global(self, obj, name=None):
    if not hasattr(obj, 'published'):
      return super().save_global(obj, name)
    if self.proto >= 4:
      self.save(obj.__module__)
      self.save(obj.__name__)
      self.write(pickle.STACK_GLOBAL)
    else:
      spelt = f'{obj.__module__}\n{obj.__name__}\n'.encode()
      self.write(pickle.GLOBAL + spelt)
    return self.memoize(obj)

  def save(self, obj, save_persistent_id=True):
    if self._plain or type(obj) is not np.ndarray:
      return super().save(obj, save_persistent_id)
    flags = obj.flags
    order = 'F' if flags.f_contiguous and not flags.c_contiguous else 'C'
    record = self._wrapper()
    record.__dict__.update(
      subclass=np.ndarray, shape=obj.shape, order=order, dtype=obj.dtype,
      allow_mmap=True,
    )  # fmt: skip
    if self._aligned:
      record.numpy_array_alignment_bytes = 16
    self._kept = [*getattr(self, '_kept', ()), record]  # ids are memo keys
    super().save(record)
    if self.proto >= 4:
      self.framer.commit_frame(force=True)
    if self._aligned:
      padding = 16 - (self._file_handle.tell() + 1) % 16
      self._file_handle.write(bytes([padding]) + b'\xff' * padding)
    self._file_handle.write(obj.tobytes(order))


def joblib_dump(value, protocol=4, compress=False, **layout) -> bytes:
  file = io.BytesIO()
  JoblibPickler(file, protocol, **layout).dump(value)
  return zlib.compress(file.getvalue()) if compress else file.getvalue()


def fitted_pca(kind='sklearn.decomposition._pca.PCA', **more):
  """What scikit-learn leaves in a fitted PCA."""
  rng = np.random.default_rng(1)
  components = np.linalg.qr(rng.normal(size=(WIDTH, PARTS)))[0].T
  made = stand_in(kind)()
  made.__dict__.update(
    n_components=PARTS, copy=True, whiten=False, svd_solver='auto', tol=0.0,
    random_state=42, n_features_in_=WIDTH, mean_=rng.normal(size=WIDTH),
    noise_variance_=np.float64(0.25), n_samples_=640,
    components_=np.asfortranarray(components), n_components_=np.int64(PARTS),
    explained_variance_=np.linspace(2, 1, PARTS), _sklearn_version='1.5.2',
    **more,
  )  # fmt: skip
  return made


def draw_scorer(components, seed=2):
  """What ckpt.pt says of the scorer, numpy by name."""
  rng = np.random.default_rng(seed)
  return {
    'pca_scale': np.ones(WIDTH, np.float32),
    'pca_components': components.astype(np.float32),
    'prototypes': rng.normal(size=(COUNT, PARTS)).astype(np.float32),
    'proto_scores': rng.uniform(1, 5, COUNT).astype(np.float32),
    'logit_scale': np.float32(1 / 0.07),
  }


def write(folder: pathlib.Path, **of_pca):
  """Writes the released layout; returns the torch CLIPModel inside it."""
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.CLIPConfig(
    vision_config=dict(
      hidden_size=32, intermediate_size=48, num_hidden_layers=2,
      num_attention_heads=4, image_size=SIDE, patch_size=14,
    ),
    text_config=dict(
      hidden_size=16, intermediate_size=32, num_hidden_layers=1,
      num_attention_heads=2, vocab_size=99,
    ),
    projection_dim=WIDTH,
    attn_implementation='eager',
  )  # fmt: skip
  clip = transformers.CLIPModel(config).eval()
  with torch.no_grad():
    for value in clip.parameters():
      value.add_(0.1 * torch.randn(value.shape))
  pca = fitted_pca(**of_pca)
  scorer = draw_scorer(pca.components_)
  state = {f'clip.{key}': value for key, value in clip.state_dict().items()}
  state |= {f'scorer.{k}': torch.tensor(v) for k, v in scorer.items()}
  clip.config.save_pretrained(folder / 'best')
  (folder / 'best/preprocessor_config.json').write_text(
    json.dumps(PREPROCESSOR)
  )
  torch.save({'state_dict': state, 'epoch': 3}, folder / 'ckpt.pt')
  (folder / 'pca.pkl').write_bytes(joblib_dump(pca))
  basis = dict(
    vectors=scorer['prototypes'] + np.float32(0.5),
    scores=scorer['proto_scores'],
  )
  np.savez(folder / 'basis.npz', **basis)
  return clip
