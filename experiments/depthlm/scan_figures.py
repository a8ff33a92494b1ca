"""Pictures of rooms that were asked all over: scan lines and point clouds."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.depthlm.answers import said
from experiments.depthlm.scan import longest_line
from experiments.miniature import Picture
from vlm.methods.depthlm import labels


def draw(
  task: Any,
  rows: Sequence[dict[str, Any]],
  records: Sequence[dict[str, Any]],
) -> list[Picture]:
  """Two pictures of all scanned rooms."""
  del task
  found = [
    (row, [record for record in records if record['image'] == number])
    for number, row in enumerate(rows)
  ]
  return [
    Picture(
      'Distance along a row and a column of unseen rooms (dotted in the '
      'pictures): the truth and the answers, one question a pixel.',
      _lines(found),
    ),
    Picture(
      'The same rooms from above, metres: true points grey, answers in the '
      'colours of the picture. The camera stands at (0, 0).',
      _clouds(found),
    ),
  ]


def _lines(found):
  figure, axes = plt.subplots(
    len(found),
    3,
    figsize=(9, 2.2 * len(found)),
    layout='constrained',
    squeeze=False,
  )
  for (picture, *lines), (row, records) in zip(axes, found, strict=True):
    pixels = row['pixel_coords'][[record['label'] for record in records]]
    answers = said(records)
    truth = np.array([record['depth'] for record in records])
    picture.imshow(row['image'], interpolation='nearest')
    picture.axis('off')
    for axis, across, rule in zip(
      lines, (1, 0), (picture.axhline, picture.axvline), strict=True
    ):
      where, on = longest_line(pixels, across)
      rule(where, color='w', linestyle=':')
      axis.plot(pixels[on, 1 - across], truth[on], color='0.5', label='truth')
      axis.plot(pixels[on, 1 - across], answers[on], '.-', label='answer')
      axis.set(
        xlabel=('along the column', 'along the row')[across],
        ylabel='metres',
        ylim=(0, None),
      )
  axes[0, 1].legend(frameon=False, fontsize=8)
  return figure


def _clouds(found):
  figure, axes = plt.subplots(
    1, len(found), figsize=(3.2 * len(found), 3.2), layout='constrained'
  )
  for axis, (row, records) in zip(np.atleast_1d(axes), found, strict=True):
    chosen = [record['label'] for record in records]
    rays = labels.directions(row)[chosen]
    x, y = row['pixel_coords'][chosen].T
    for metres, look in (
      (np.array([record['depth'] for record in records]), {'c': '0.75'}),
      (said(records), {'c': row['image'][y, x] / 255}),
    ):
      points = rays * metres[:, None]
      axis.scatter(points[:, 0], points[:, 2], s=6, **look)
    axis.set(xlabel='x', ylabel='z', aspect='equal')
  return figure
