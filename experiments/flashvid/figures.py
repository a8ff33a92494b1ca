"""Pictures of the miniature: curves, links, and forests over the frames."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')  # before pyplot: reports are drawn without a display

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import ConnectionPatch, Rectangle

from experiments.flashvid import forests, measure, reducers
from experiments.miniature import Outcome, Picture

OWN = (
  reducers.FLASHVID,
  'ADTS only',
  'diversity only',
  'TSTM only',
  'ADTS + TTM',
)
PEERS = (
  'FrameFusion',
  'HoliTom',
  'ToMe',
  'VisionZip',
  'FastVID',
  'random',
  'pooling',
)


def draw(answers: Any, outcomes: Sequence[Outcome]) -> list[Picture]:
  """All pictures of the report."""
  pictures = [
    Picture('Training loss per answer token, by seed.', _losses(outcomes)),
    Picture(
      'Accuracy against the visual tokens a decoder layer sees on average. The '
      'rules are full tokens and no video at all; peers are dashed.',
      _curves(answers),
    ),
    Picture(
      'Accuracy with the same number of tokens from more frames.',
      _budget(answers),
    ),
    Picture(
      'Cosine of matches and share of linked tokens against motion: best match '
      '(solid) and same place (dashed).',
      _links(outcomes),
    ),
  ]
  for number, found in enumerate(outcomes[0].measured['forests']):
    frames = len(found['roots'])
    pixels = forests.clip(number, frames)
    pictures.append(
      Picture(
        f'Clip {number + 1}: what FlashVID leaves at R = '
        f'{forests.RETENTION:g}. {FOREST_CAPTION}',
        draw_forest(pixels, found),
      )
    )
  return pictures


FOREST_CAPTION = (
  'Above: tokens that are left; merged ones stand at one of their places. '
  'Below: trees, one tint each, with a line where a token joined another place '
  'of the frame before.'
)


def _losses(outcomes: Sequence[Outcome]):
  figure, axis = plt.subplots(figsize=(6, 3), layout='constrained')
  for outcome in outcomes:
    rows = [row for row in outcome.history if row.get('loss') is not None]
    steps = [row['step'] for row in rows]
    label = f'seed {outcome.arm.seed}'
    axis.plot(steps, [row['loss'] for row in rows], label=label)
  axis.set(xlabel='step', ylabel='loss (nats per token)')
  axis.legend(frameon=False)
  return figure


def _curves(answers: Any):
  figure, axis = plt.subplots(figsize=(8, 4), layout='constrained')
  for method in OWN + PEERS:
    keys = [key for key in answers.points('clips') if key[1] == method]
    share = [100 * np.mean(answers.share[key]) for key in keys]
    found = [answers.accuracy(key, measure.LEARNED) for key in keys]
    mean = [interval.mean for interval in found]
    style = 'o-' if method in OWN else 'o--'
    (line,) = axis.plot(share, mean, style, label=method, markersize=3)
    if method == reducers.FLASHVID:
      low, high = ([i[n] for i in found] for n in (1, 2))
      axis.fill_between(share, low, high, color=line.get_color(), alpha=0.2)
  for key, style in (
    (('clips', measure.FULL, 1.0, measure.FRAMES), '-'),
    (('clips', measure.BLIND, 0.0, measure.FRAMES), ':'),
  ):
    axis.axhline(
      answers.accuracy(key, measure.LEARNED).mean,
      color='k',
      lw=1,
      linestyle=style,
    )
  axis.set(
    xscale='log', xlabel='visual tokens per layer (%)', ylabel='accuracy'
  )
  ticks = [5, 8, 16, 25, 50]
  axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
  axis.set_xticks([], minor=True)
  axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1, 1))
  return figure


def _budget(answers: Any):
  figure, axis = plt.subplots(figsize=(6, 3), layout='constrained')
  full = 'long', measure.FULL, 1.0, measure.FRAMES
  start = answers.accuracy(full, measure.LEARNED).mean
  for method in measure.BUDGET_METHODS:
    keys = [key for key in answers.points('long') if key[1] == method]
    frames = [measure.FRAMES, *(key[3] for key in keys)]
    mean = [
      start,
      *(answers.accuracy(key, measure.LEARNED).mean for key in keys),
    ]
    axis.plot(frames, mean, 'o-', label=method, markersize=3)
  axis.set_xscale('log', base=2)
  ticks = sorted({key[3] for key in answers.points('long')})
  axis.set_xticks(ticks, [str(tick) for tick in ticks])
  axis.set(xlabel='frames', ylabel='accuracy')
  axis.legend(frameon=False)
  return figure


def _links(outcomes: Sequence[Outcome]):
  figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout='constrained')
  rows = outcomes[0].measured['links']
  colours = {}
  for tokens in dict.fromkeys(row['tokens'] for row in rows):
    for kind, style in (('TSTM', '-'), ('TTM', '--')):
      chosen = [r for r in rows if r['tokens'] == tokens and r['kind'] == kind]
      speeds = [row['speed'] for row in chosen]
      for axis, value in zip(axes, ('cosine', 'links'), strict=True):
        (line,) = axis.plot(
          speeds,
          [row[value] for row in chosen],
          style,
          color=colours.get(tokens),
          label=f'{tokens}, {kind}',
        )
        colours[tokens] = line.get_color()
  axes[0].set(xlabel='pixels per frame', ylabel='mean cosine')
  axes[1].set(xlabel='pixels per frame', ylabel='linked share')
  axes[0].legend(frameon=False, fontsize=8)
  return figure


def draw_forest(pixels: np.ndarray, forest: dict[str, Any]):
  """Frames side by side with the tokens that are left, and the trees.

  Args:
    pixels: uint8 [F, H, W, 3].
    forest: what `forests.forest` returns.
  """
  frames, height, width, _ = pixels.shape
  roots = np.array(forest['roots']).ravel()
  side = round((len(roots) / frames) ** 0.5)
  inches = 1.5 * width / height
  figure, axes = plt.subplots(
    2,
    frames,
    figsize=(inches * frames, 3.1),
    squeeze=False,
    gridspec_kw={'wspace': 0.08, 'hspace': 0.05},
  )
  for frame in range(frames):
    for axis in axes[:, frame]:
      axis.imshow(pixels[frame], extent=(0, side, side, 0), aspect='auto')
      axis.axis('off')
  _draw_kept(axes[0], forest['index'], side)
  _draw_trees(figure, axes[1], np.array(forest['parents']).ravel(), roots, side)
  return figure


def _corner(token: int, side: int) -> tuple[int, int]:
  place = token % side**2
  return place % side, place // side


def _draw_kept(axes, kept: Sequence[int], side: int) -> None:
  """Darkens what is not left."""
  for frame, axis in enumerate(axes):
    shade = np.zeros((side, side, 4))
    shade[..., 3] = 0.5
    for token in kept:
      if token // side**2 == frame:
        column, row = _corner(token, side)
        shade[row, column] = 0
        axis.add_patch(
          Rectangle((column, row), 1, 1, fill=False, edgecolor='white')
        )
    axis.imshow(shade, extent=(0, side, side, 0), aspect='auto')


def _draw_trees(figure, axes, parents, roots, side: int) -> None:
  """A tint for each tree, and a line where a link leaves its place."""
  paint = plt.get_cmap('hsv')
  colour = lambda root: paint(root * 0.618 % 1)
  linked = np.flatnonzero(parents >= 0)
  for token in {*linked.tolist(), *parents[linked].tolist()}:
    axes[token // side**2].add_patch(
      Rectangle(
        _corner(token, side), 1, 1, color=colour(roots[token]), alpha=0.35, lw=0
      )
    )
  for child in linked:
    parent = parents[child]
    if child - parent == side**2:
      continue
    ends = [
      (np.array(_corner(token, side)) + 0.5, axes[token // side**2])
      for token in (child, parent)
    ]
    line = ConnectionPatch(
      ends[0][0],
      ends[1][0],
      'data',
      'data',
      axesA=ends[0][1],
      axesB=ends[1][1],
      color=colour(roots[child]),
      linewidth=0.9,
    )
    figure.add_artist(line)
