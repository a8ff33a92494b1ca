"""Metric-depth rows: the published DepthLM files, and ours.

A row on disk is one object of a JSON list, one line of a jsonl file, one row of
a parquet file or one JSON object of an ArrayRecord. The published fields:

  {"image": "a/b.png",                        relative to the image folder; in
                                              parquet also the encoded bytes
   "intrinsics": [fx, fy, cx, cy, W, H],      pixels, of this very picture
   "pixel_coords": [[x, y], ...],             integers; the label's ray passes
                                              through (x + 0.5, y + 0.5)
   "depth": [metres, ...],                    one per pixel, > 0

Ours, all optional but for the first, which published files need by argument:

   "depth_kind": "range",      distance to the camera centre, or "z", along the
                               optical axis
   "camera_model": "pinhole",  or "brown_conrady", "kannala_brandt",
                               "thin_prism_fisheye"
   "distortion": [k1, ...],    in the order of `vlm.methods.depthlm.lens`;
                               needed unless the camera is a pinhole
   "world_from_camera": 4 x 4, rigid, metres; camera x right, y down, z forward
                               (OpenCV), rows of the matrix one after another
   "timestamp": seconds,       float, of this picture
   "scene": "log-7",           frames of one scene share a world; poses of
                               different scenes are never compared
   "dataset": "nuscenes",      for scores by data set, and the training stretch
   "depth_map": {"path": "a/b-depth.png",     relative to the image folder
                 "metres_per_unit": 0.001}}   of the row's depth kind; 0 and
                                              NaN are unknown

An unknown field is an error: a misspelt one would be ignored in silence.
`intrinsics` describe the picture before undistortion, as do the pixels.

The decoded row, which all sources give:

  image              uint8 [H, W, 3]
  intrinsics         camera.Intrinsics
  pixel_coords       int64 [N, 2]
  depth              float64 [N]
  depth_kind         'range' or 'z'
  lens               lens.Lens                  \
  world_from_camera  float64 [4, 4]              |
  timestamp          float                       |  where the row has them
  scene, dataset     str                         |
  depth_map          depth_map.DepthMap         /

so that worlds and files go through one transform
(`vlm.methods.depthlm.sample`). Sources are random-access.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from data.image import open_image
from data.records import BadRecord, require
from data.sources import open_source
from data.sources.depth_fields import check_row, plain_row
from data.sources.depth_map import DepthMap


class DepthRows:
  """Rows of files, decoded when asked for.

  Args:
    path: a .jsonl, .json, .parquet or .array_record file, local or gs://, or a
      pattern of several (`data.sources.open_source`).
    images: folder the `image` fields are relative to; the file's own folder
      when left out. A leading slash of the field is dropped, as published.
    depth_kind: 'range' or 'z' for rows that do not say. Published files are
      mixed (spec 2.4), so there is no default.
  """

  def __init__(self, path, images=None, depth_kind: str = ''):
    self.path = epath.Path(path)
    self._images = epath.Path(images) if images else self.path.parent
    self._kind = depth_kind
    self._rows = open_source(str(path))

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The decoded, checked row.

    Raises:
      BadRecord: also 'missing image', 'corrupt image' and 'malformed json'.
    """
    return self._checked(index, self._decode)

  def facts(self, index: int) -> dict[str, Any]:
    """The checked row without its picture, which is not opened."""
    return self._checked(index, self._facts)

  def _checked(self, index, decode):
    try:
      # A column of a table is null where a row lacks the field.
      row = {k: v for k, v in self._rows[index].items() if v is not None}
      return self._resolved(decode(row))
    except BadRecord as e:
      raise e.at(f'{self.path}, row {index}') from e

  def _decode(self, row):
    image = np.asarray(open_image(self._picture(row)))
    return check_row({**row, 'image': image}, self._kind)

  def _facts(self, row):
    self._picture(row)  # its checks
    return check_row({**row, 'image': ''}, self._kind)

  def _picture(self, row):
    """Its path, or its bytes where the file holds them."""
    image = require(row, 'image', (str, bytes, dict))
    if isinstance(image, dict):  # as Hugging Face's data sets write pictures
      image = image.get('bytes') or require(image, 'path', str)
    if isinstance(image, str):
      return self._images / image.lstrip('/')
    return image

  def _resolved(self, row):
    if 'depth_map' in row:
      path, scale = row['depth_map'].values()
      path = self._images / path.lstrip('/')
      row['depth_map'] = DepthMap(path, scale)
    return row


def write_rows(folder, rows: Iterable[dict[str, Any]]) -> epath.Path:
  """Writes decoded rows as folder/rows.jsonl and folder/images/*.png.

  Depth maps are not written; the rows lose their reference.

  Returns:
    The path of the jsonl file, for `DepthRows`.
  """
  folder = epath.Path(folder)
  (folder / 'images').mkdir(parents=True, exist_ok=True)
  lines = []
  for index, row in enumerate(rows):
    name = f'images/{index:06d}.png'
    with (folder / name).open('wb') as f:
      Image.fromarray(row['image']).save(f, format='PNG')
    record = {'image': name, **plain_row(row)}
    lines.append(json.dumps(record) + '\n')
  path = folder / 'rows.jsonl'
  path.write_text(''.join(lines))
  return path
