"""The miniature: the user's path, equal costs, a run from data to report."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from data.sources.clips import ClipRows
from data.worlds import clip_questions
from data.worlds.clips import ClipSettings
from experiments.flashvid import (
  answering,
  flashvid,
  footage,
  links,
  measure,
  miniature,
  reducers,
)
from experiments.miniature import Arm
from launch import arms, job
from vlm.methods.flashvid.transform import VideoReduction
from vlm.models import registry

FRAMES = 4


@pytest.fixture(scope='module')
def asking():
  """A drawn model, its parameters, clips of four frames, and questions."""
  config = flashvid.get_config('smoke')
  # So that what is said depends on what is seen.
  config.model.init_scale = ((r'decoder/.*/(q|k|o)/kernel', 20.0),)
  made = job.prepare(config)
  params = jax.jit(lambda key: job.draw_params(made, key))(jax.random.key(0))
  rows = ClipRows(1, 5, ClipSettings(frames=(FRAMES, FRAMES)))
  clips, asked = measure.questions(rows, len(clip_questions.KINDS))
  pixels = measure.pixels_of(clips, FRAMES)
  ready = answering.Answering(made.model, params, made.chat, FRAMES)
  return made, params, ready, asked, pixels


def _prompts(made, asked, pixels):
  """What `launch.evaluate` would feed the model with."""
  examples = [
    {
      'images': [list(pixels[clip])],
      'messages': [
        {
          'role': 'user',
          'content': [
            {'type': 'video'},
            {'type': 'text', 'text': question.text},
          ],
        }
      ],
    }
    for clip, question in asked
  ]
  return made.encoder.prompts(examples, made.spec)


def _said(made, model, params, batch) -> list[str]:
  @jax.jit
  def answer(batch):
    hidden, _ = model.fill(params, model.inputs(params, batch))
    return model.logits(params, hidden[:, -1:])[:, 0].argmax(-1)

  return [made.chat.decode([token]) for token in np.asarray(answer(batch))]


def test_full_tokens_answer_as_any_user_is_answered(asking):
  made, params, ready, asked, pixels = asking
  got = ready.answers(asked, ready.encode(pixels))
  batch = _prompts(made, asked, pixels)
  assert got == _said(made, made.model, params, batch)
  assert len(set(got)) > 1


def test_reduced_tokens_answer_as_any_user_is_answered(asking):
  """Reduced once for all questions, or anew for each inside the model."""
  made, params, ready, asked, pixels = asking
  visual = ready.encode(pixels)
  for name in (reducers.FLASHVID, 'FastV'):
    reducer = reducers.make(name, 0.6, 2, FRAMES)
    got = ready.answers(
      asked, ready.reduce(visual, reducer), ready.left(reducer)
    )
    model = registry.build(
      made.model.config, made.model.runtime, (VideoReduction(reducer),)
    )
    batch = _prompts(made, asked, pixels)
    rows = len(asked)
    batch['plan'] |= {
      key: np.broadcast_to(value, (rows, *value.shape))
      for key, value in ready.plan.items()
    }
    assert got == _said(made, model, params, batch), name


def test_methods_cost_the_same(asking):
  """At the shares of the tables, to a token per video where rules allow it."""
  _, _, ready, _, pixels = asking
  visual = ready.encode(pixels)
  share = flashvid.RETENTIONS[-1]
  depth, video = 4, FRAMES * 64
  deep = dataclasses.replace(ready.model.config.decoder, depth=depth)
  config = dataclasses.replace(ready.model.config, decoder=deep)
  ready.model, own = registry.build(config, ready.model.runtime), ready.model
  for name in ('FlashVID', 'ADTS + TTM', 'random', 'VisionZip', 'FastVID'):
    reducer = reducers.make(name, share, depth, FRAMES)
    left = ready.left(reducer)
    found = ready.share(ready.reduce(visual, reducer), left)
    assert abs(found - share) * video <= 1, name
  ready.model = own
  assert reducers.make('FastV', share, depth, FRAMES) is None
  assert reducers.make('DyCoke', share, depth, FRAMES) is None


def test_links_are_equal_at_rest_and_better_in_motion():
  gaps = []
  for speed in (0.0, 2.0, 5.0):
    features = links.patch_colours(links.panned(speed, 4, 6), 8)
    best, same = (links.links(features, kind) for kind in ('TSTM', 'TTM'))
    gaps.append((best[0] - same[0], best[1] - same[1]))
  assert gaps[0] == pytest.approx((0, 0), abs=1e-6)
  assert 0 < gaps[1][0] < gaps[2][0] and gaps[1][1] < gaps[2][1]


def test_patch_colours_are_means_of_quarters():
  pixels = np.zeros((1, 1, 8, 8, 3), np.uint8)
  pixels[0, 0, 2:4, 4:6, 1] = 90  # lower left quarter of the patch (0, 1)
  found = links.patch_colours(pixels, 2)[0, 0]
  shown = np.zeros((4, 2, 2, 3))
  shown[1, 1, 0, 1] = 90
  want = shown.reshape(4, 12) - shown.reshape(4, 12).mean(0)
  np.testing.assert_allclose(found - found.mean(0), want, atol=1e-4)


@pytest.fixture(scope='module')
def outcome(tmp_path_factory):
  root = epath.Path(tmp_path_factory.mktemp('flashvid'))
  arm = Arm('full tokens', 0, flashvid.get_config('smoke'))
  (found,) = arms.run_arms([arm], root, workers=1)
  return found


def test_the_report_of_a_run(outcome):
  summary = miniature.summarise([outcome, outcome])
  kinds, curve, differences, budget, link = summary.tables
  assert kinds.header[2:] == list(clip_questions.KINDS)
  assert [row[0] for row in curve.rows] == [
    measure.FULL,
    *outcome.arm.config.measure.methods,
    measure.BLIND,
  ]
  assert [row[0] for row in differences.rows] == ['random']
  assert budget.rows[0][0] == measure.FULL
  assert len(link.rows) == 4 * len(links.SPEEDS)
  for table in summary.tables:
    assert all(len(row) == len(table.header) for row in table.rows)
  installed = len(footage.installed())
  assert len(summary.pictures) == 4 + 1 + installed
  assert 'not above chance' in summary.findings[0]  # ten steps


def test_differences_are_paired_over_seeds(outcome):
  """An answer of one seed is held against the same seed's."""
  flipped = json.loads(json.dumps(outcome.measured))
  for row in flipped['answered']:
    if row['method'] == 'random':
      row['right'] = '1' * len(row['right'])
    elif row['method'] == reducers.FLASHVID:
      row['right'] = '0' * len(row['right'])
  answers = miniature.Answers([flipped, flipped])
  share = answers.retentions[0]
  own, rival = (
    miniature.point(name, share) for name in (reducers.FLASHVID, 'random')
  )
  assert tuple(answers.difference(own, rival)) == (-1.0, -1.0, -1.0)
  questions = len(flipped['asked']['clips'])
  assert len(answers.right(own)[0]) == 2 * questions
  per_kind = [answers.right(own, kind)[0] for kind in clip_questions.KINDS]
  assert sum(map(len, per_kind)) == 2 * questions
