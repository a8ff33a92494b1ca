"""Fixtures of MASK's layouts: word vectors, boxes, captions, features."""

import base64
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

WORDS = ('dog', 'puppy', 'red', 'car', 'man', 'hot', 'ball')


def vectors(words=WORDS, size: int = 6, seed: int = 0) -> np.ndarray:
  """A random vector for each word, float32 [V, N]."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(len(words), size)).astype(np.float32)


def write_text(path: pathlib.Path, words, values, header: bool = False):
  """GloVe's form or, with a header, word2vec's."""
  lines = [f'{len(words)} {values.shape[1]}'] if header else []
  for word, row in zip(words, values):
    lines.append(' '.join([word, *(repr(float(x)) for x in row)]))
  path.write_text('\n'.join(lines) + '\n')
  return path


def write_binary(path: pathlib.Path, words, values, newline: bool = False):
  """word2vec's binary form; some writers end a vector with a newline."""
  out = f'{len(words)} {values.shape[1]}\n'.encode()
  for word, row in zip(words, values):
    out += word.encode() + b' ' + row.astype('<f4').tobytes()
    out += b'\n' if newline else b''
  path.write_bytes(out)
  return path


def write_json(path: pathlib.Path, value) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))
  return path


def box(words, xywh=(0, 0, 10, 10), attributes=(), number=0) -> dict:
  x, y, w, h = xywh
  return {
    'object_id': number,
    'names': list(words),
    'synsets': [],
    'attributes': list(attributes),
    **dict(x=x, y=y, w=w, h=h),
  }


def write_genome(root: pathlib.Path, images) -> pathlib.Path:
  """Visual Genome's three files.

  Args:
    root: of them.
    images: {image_id: (coco_id or None, boxes)}.
  """
  size = dict(width=100, height=80, url='', flickr_id=None)
  facts = [
    dict(image_id=one, coco_id=coco, **size)
    for one, (coco, _) in images.items()
  ]
  write_json(root / 'image_data.json', facts)
  for name in ('objects', 'attributes'):
    rows = [
      {'image_id': one, name: boxes} for one, (_, boxes) in images.items()
    ]
    write_json(root / f'{name}.json', rows)
  return root


def write_karpathy(path: pathlib.Path, images) -> pathlib.Path:
  """dataset_*.json.

  Args:
    path: of the file.
    images: (filename, split, cocoid or None, captions) of each.
  """
  entries = []
  for number, (name, split, coco, captions) in enumerate(images):
    sentences = [{'raw': one, 'tokens': one.split()} for one in captions]
    entry = dict(filename=name, split=split, imgid=number, sentences=sentences)
    entry |= {} if coco is None else dict(cocoid=coco, filepath='val2014')
    entries.append(entry)
  return write_json(path, {'images': entries, 'dataset': 'x'})


def write_npz(folder: pathlib.Path, features, boxes=None) -> pathlib.Path:
  """MILVLG's npz for each image, with the pickled `info`.

  Args:
    folder: of them.
    features: {name: [I, M]}.
    boxes: {name: [I, 4]}.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for name, x in features.items():
    its = np.zeros((len(x), 4), np.float32) if boxes is None else boxes[name]
    np.savez(
      folder / f'{name}.npz',
      x=x,
      bbox=its,
      num_bbox=len(x),
      image_h=80,
      image_w=100,
      info=np.array({'objects_id': Unpickled()}, object),
    )
  return folder


def params_of(model, seed: int = 0):
  """Random parameters of a region encoder, without compiling its own."""
  rng = np.random.default_rng(seed)
  draw = lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)
  return jax.tree.map(draw, model.abstract_params)


class Unpickled:
  """Fails the test that opens it."""

  def __reduce__(self):
    return pytest_fail, ('a pickle was opened',)


def pytest_fail(message: str):
  raise AssertionError(message)


def write_tsv(path: pathlib.Path, features) -> pathlib.Path:
  """Bottom-up attention's table of {image id: [I, M]}."""
  text = lambda x: base64.b64encode(np.asarray(x, '<f4').tobytes()).decode()
  lines = []
  for name, x in features.items():
    boxes = np.arange(4 * len(x)).reshape(-1, 4)
    fields = [name, 100, 80, len(x), text(boxes), text(x)]
    lines.append('\t'.join(map(str, fields)) + '\n')
  path.write_text(''.join(lines))
  return path
