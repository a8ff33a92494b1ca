"""Pictures of the miniature: words on regions, neighbourhoods, found scenes."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')  # before pyplot: reports are drawn without a display

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from data.worlds import nouns, scenes
from experiments.mask import world
from experiments.miniature import Outcome, Picture

CONTROLS = {'MASK': '#4477aa', 'shuffled': '#cc6677', 'constant': '#999933'}


def draw(outcomes: Sequence[Outcome]) -> list[Picture]:
  """All pictures of the report; scenes are those of the first full run."""
  pictures = [Picture('Training loss, first seed.', losses(outcomes))]
  whole = [one for one in outcomes if 'shown' in one.measured]
  if not whole:
    return pictures
  first = whole[0]
  shown = first.measured['shown']
  composed = world.compose(first.arm.config.scenes, 'test')
  return [
    *pictures,
    Picture(
      'Rsum of a noisy base whose 15 best are re-ranked, mean over seeds.',
      reranking(whole),
    ),
    *(
      Picture(
        f'"{one["text"]}": cosine of every region with each word (held-out '
        'words in bold).',
        heat_maps(composed, one),
      )
      for one in shown['captions']
    ),
    Picture(
      'Held-out words: an example; known words nearest by word vector, with '
      'their weights; known words whose prototypes are nearest to the true.',
      neighbourhoods(shown['neighbours']),
    ),
    Picture(
      'Scenes found for captions, best first; framed: the right one.',
      contact_sheet(composed, shown['captions']),
    ),
  ]


def losses(outcomes: Sequence[Outcome]):
  """Loss against the step, of the first seed of each arm of words."""
  figure, axis = plt.subplots(figsize=(6, 3), layout='constrained')
  seed = outcomes[0].arm.seed
  for outcome in outcomes:
    rows = [row for row in outcome.history if row.get('loss') is not None]
    if outcome.arm.seed != seed or not rows:
      continue
    # Arms minimise different sums: what they have in common is the shape.
    values = np.array([row['loss'] for row in rows])
    steps = [row['step'] for row in rows]
    axis.plot(steps, values / values[0], label=outcome.arm.name)
  axis.set(xlabel='step', ylabel='loss / first loss')
  axis.legend(frameon=False, fontsize=7)
  return figure


def reranking(outcomes: Sequence[Outcome]):
  """Rsum against alpha, with the two controls."""
  figure, axis = plt.subplots(figsize=(6, 3), layout='constrained')
  found = [outcome.measured['rerank'] for outcome in outcomes]
  for name, colour in CONTROLS.items():
    mean = np.mean([one[name] for one in found], axis=0)
    axis.plot(found[0]['alpha'], mean, 'o-', ms=3, c=colour, label=name)
  axis.set(xlabel='alpha', ylabel='Rsum')
  axis.set_xscale('symlog', linthresh=0.05)
  axis.legend(frameon=False)
  return figure


def heat_maps(composed: Sequence[scenes.Scene], one: dict[str, Any]):
  """The scene, and for each word its boxes by cosine."""
  scene = composed[one['scene']]
  pixels = scenes.render(scene)
  count = 1 + len(one['words'])
  figure, axes = plt.subplots(
    1, count, figsize=(2 * count, 2.3), layout='constrained'
  )
  for axis in axes:
    axis.imshow(pixels)
    axis.axis('off')
  high = np.max(one['cosines'])
  for axis, word, row in zip(axes[1:], one['words'], one['cosines']):
    weight = 'bold' if word in nouns.HELD_OUT else 'normal'
    axis.set_title(word, fontsize=9, fontweight=weight)
    veil = np.full((*pixels.shape[:2], 4), 0.0)
    veil[..., 3] = 0.75
    for thing, value in zip(scene.things, row):
      left, top, right, bottom = thing.box
      veil[top:bottom, left:right, 3] = 0.75 * (1 - max(0, value) / high)
    axis.imshow(veil)
    _frame(axis, scene.things[int(np.argmax(row))].box)
  return figure


def _frame(axis, box: tuple[int, ...]) -> None:
  left, top, right, bottom = box
  frame = Rectangle(
    (left, top), right - left, bottom - top, fill=False, ec='#ffcc00', lw=1.5
  )
  axis.add_patch(frame)


def neighbourhoods(found: Sequence[dict[str, Any]]):
  """A row for each held-out word."""
  near = len(found[0]['by_vector'])
  columns = 1 + 2 * near
  figure, axes = plt.subplots(
    len(found),
    columns,
    figsize=(0.9 * columns, 1.05 * len(found)),
    layout='constrained',
  )
  for row, one in zip(axes, found):
    labels = [f'{one["word"]}\n(cosine {one["cosine"]:.2f})']
    labels += [
      f'{word}\n{weight:.2f}'
      for word, weight in zip(one['by_vector'], one['weights'])
    ]
    labels += [f'{word}\nlooks alike' for word in one['by_look']]
    words = [one['word'], *one['by_vector'], *one['by_look']]
    for axis, word, label in zip(row, words, labels):
      axis.imshow(swatch(word))
      axis.set_title(label, fontsize=6)
      axis.axis('off')
  return figure


def swatch(word: str) -> np.ndarray:
  """What a word looks like: uint8 [S, S, 3]."""
  size = scenes.CELL
  if word in nouns.COLOURS:
    return np.full((size, size, 3), nouns.COLOURS[word], np.uint8)
  return scenes.specimen(word)


def contact_sheet(
  composed: Sequence[scenes.Scene], captions: Sequence[dict[str, Any]]
):
  """The best scenes of each caption."""
  columns, rows = len(captions[0]['best']), len(captions)
  figure = plt.figure(figsize=(1.7 * columns, 2.1 * rows), layout='constrained')
  strips = figure.subfigures(rows, 1, squeeze=False)[:, 0]
  for strip, one in zip(strips, captions):
    title = f'{one["text"]}  (rank {one["rank"] + 1})'
    strip.suptitle(title, fontsize=8)
    for axis, number in zip(strip.subplots(1, columns), one['best']):
      axis.imshow(scenes.render(composed[number]))
      axis.set(xticks=[], yticks=[])
      right = number == one['scene']
      for spine in axis.spines.values():
        spine.set(visible=right, color='#ffaa00', lw=4)
  return figure
