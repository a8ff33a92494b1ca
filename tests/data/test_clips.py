"""Clips: what is asked is on the screen, answers are balanced, seeds decide."""

import collections

import numpy as np
import pytest

from data.sources.clips import ClipRows, Lessons
from data.worlds import clip_questions, clips
from data.worlds.clip_questions import KINDS, Question

COUNT = 1200
USUAL = clips.ClipSettings()
PAINTS = {name: np.array(paint) for name, paint in clips.COLOURS.items()}


@pytest.fixture(scope='module')
def rows():
  return [ClipRows(3, COUNT, USUAL)[number] for number in range(COUNT)]


@pytest.fixture(scope='module')
def asked(rows):
  """(clip, question) of every question of every clip."""
  rng = np.random.default_rng(0)
  return [(row, q) for row in rows for q in clip_questions.ask_all(row, rng)]


def _nearest_colour(pixel) -> str:
  return min(PAINTS, key=lambda name: np.abs(PAINTS[name] - pixel).sum())


class TestPixels:
  def test_objects_are_where_and_what_they_are_said_to_be(self, rows):
    checked = hidden = 0
    for row in rows[:100]:
      times = row.times()
      pixels, owner = row.render(times)
      for number, thing in enumerate(row.objects):
        mask = owner == number
        seen = thing.seen(times)
        assert not mask[~seen].any()
        # Alone on the screen, so that nothing hides a part of it.
        alone = np.isin(owner, (number, clips.BACKGROUND)).all((1, 2))
        for frame in np.flatnonzero(seen & alone):
          checked += 1
          y, x = np.nonzero(mask[frame])
          colours = pixels[frame][mask[frame]]
          assert _nearest_colour(np.median(colours, 0)) == thing.colour
          radius = thing.radii(times)[frame]
          middle = np.array([x.mean(), y.mean()]) + 0.5
          np.testing.assert_allclose(
            middle, thing.centres(times)[frame], atol=0.6
          )
          assert 0.7 < len(x) / (np.pi * radius**2) < 1.3, thing
        hidden += mask.sum((1, 2)).max() < 30
    assert checked > 150 and not hidden

  def test_shapes_differ_in_how_they_fill_their_box(self):
    grid = np.arange(-15, 16)
    x, y = grid[None, :], grid[:, None]
    fill = {}
    for shape in clips.SHAPES:
      mask = clips.coverage(shape, x, y, np.float64(10.5)) >= 0.5
      rows, columns = np.nonzero(mask)
      box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
      fill[shape] = mask.sum() / box
    want = {'circle': 0.79, 'square': 1.0, 'triangle': 0.5, 'cross': 0.61}
    assert fill == pytest.approx(want, abs=0.06)

  def test_needles_show_for_one_or_two_frames(self, rows):
    lasts = collections.Counter()
    for row in rows[:200]:
      if row.needle is None:
        continue
      pixels, owner = row.render(row.times())
      frames = np.flatnonzero((owner == clips.NEEDLE).any((1, 2)))
      x, y = (int(v) for v in row.needle.start)
      for frame in frames:
        assert _nearest_colour(pixels[frame, y, x]) == row.needle.colour
      lasts[len(frames)] += 1
    assert set(lasts) == {1, 2} and min(lasts.values()) > 25

  def test_the_background_pans_and_is_cut(self):
    settings = clips.ClipSettings(
      frames=(6, 6), scenes=(2, 2), objects=(1, 1), pan=(2.0, 2.0), needle=0
    )
    row = ClipRows(0, 1, settings)[0]
    first, second = row.scenes
    still = [np.array(scene.pan) for scene in row.scenes]
    assert np.hypot(*np.array(still).T) == pytest.approx([2, 2])
    times = np.arange(6)
    pixels = row._background(times)
    change = np.abs(np.diff(pixels, axis=0)).mean((1, 2, 3))
    assert change.argmax() == second.begin - 1
    assert change.max() > 2 * np.median(change)

  def test_twice_the_rate_shows_the_same_frames_and_those_between(self, rows):
    row = rows[1]
    slow, _ = row.render(row.times())
    fast, _ = row.render(row.times(2 * row.frames))
    np.testing.assert_array_equal(fast[::2], slow)


class TestQuestions:
  def test_answers_against_pixels(self, rows):
    """Questions answered from pixels and owners, not from the clip's facts."""
    rng = np.random.default_rng(1)
    seen = collections.Counter()
    for row in rows[:150]:
      times = row.times()
      _, owner = row.render(times)
      names = [f'{thing.colour} {thing.shape}' for thing in row.objects]
      first = [
        np.flatnonzero((owner == number).any((1, 2)))[0]
        for number in range(len(names))
      ]
      for question in clip_questions.ask_all(row, rng):
        seen[question.kind] += 1
        words = question.text
        if question.kind == 'exists':
          shown = words.removeprefix('is there a ') in names
          assert question.answer == ('yes' if shown else 'no')
        elif question.kind == 'colour':
          (name,) = [n for n in names if n.endswith(words.split()[-1])]
          assert name.split()[0] == question.answer
        elif question.kind == 'motion':
          number = names.index(words.removeprefix('which way goes the '))
          assert _direction(owner == number) == question.answer
        elif question.kind == 'count':
          assert int(question.answer) == len(set(owner[owner >= 0].tolist()))
        elif question.kind == 'order':
          pair = words.removeprefix('which came first, the ').split(' or the ')
          one, other = (names.index(name) for name in pair)
          assert first[one] != first[other]
          name = names[one if first[one] < first[other] else other]
          assert name.split()[0] == question.answer
    assert set(seen) == set(KINDS) and min(seen.values()) >= 40

  def test_answers_are_balanced(self, asked):
    """No answer helps a model that sees neither clip nor question."""
    for kind in KINDS:
      found = collections.Counter(q.answer for _, q in asked if q.kind == kind)
      total = sum(found.values())
      assert total > 0.25 * COUNT
      if kind == 'order':
        continue  # which of two it names; see the next test
      share = clip_questions.CHANCE[kind]
      assert len(found) == round(1 / share)
      spread = 4 * np.sqrt(share * (1 - share) / total)
      for answer, count in found.items():
        assert abs(count / total - share) < spread, (kind, answer)

  def test_the_first_named_comes_first_half_of_the_time(self, asked):
    orders = [q for _, q in asked if q.kind == 'order']
    named = [q.text.split()[4] == q.answer for q in orders]
    assert abs(np.mean(named) - 0.5) < 2 / np.sqrt(len(named))

  def test_cuts_say_nothing_about_the_number_of_objects(self, rows):
    cuts = np.array([len(row.scenes) for row in rows])
    count = np.array([len(row.objects) for row in rows])
    assert abs(np.corrcoef(cuts, count)[0, 1]) < 4 / np.sqrt(COUNT)

  def test_every_text_is_made_of_the_pieces(self, asked):
    for text in {t for _, q in asked for t in (q.text, q.answer)}:
      rest = text
      while rest:
        fit = [p for p in clip_questions.PIECES if rest.startswith(p)]
        rest = rest[len(max(fit, key=len)) :]

  def test_many_of_a_kind_are_different_questions(self, rows):
    rng = np.random.default_rng(0)
    asked = clip_questions.ask_many
    for row in rows[:60]:
      named = [q.text for q in asked(row, 'colour', 12, rng)]
      shapes = [thing.shape for thing in row.objects]
      alone = {s for s in shapes if shapes.count(s) == 1}
      assert {text.split()[-1] for text in named} <= alone
      assert len(named) == len(set(named)) and len(named) <= 12
      pairs = [frozenset(q.text.split()) for q in asked(row, 'order', 12, rng)]
      assert len(pairs) == len(set(pairs))  # whichever is named first
      assert len(asked(row, 'exists', 1, rng)) == 1

  def test_no_question_where_there_is_nothing_to_ask(self):
    settings = clips.ClipSettings(
      scenes=(1, 1), objects=(1, 1), speed=(0.0, 0.0), needle=0
    )
    row = ClipRows(0, 1, settings)[0]
    found = clip_questions.ask_all(row, np.random.default_rng(0))
    assert [q.kind for q in found] == ['exists', 'colour', 'count']
    assert found[2] == Question('count', 'how many objects', '1')


def _direction(mask: np.ndarray) -> str:
  frames = np.flatnonzero(mask.any((1, 2)))
  ends = [np.argwhere(mask[f]).mean(0)[::-1] for f in frames[[0, -1]]]
  way = ends[1] - ends[0]
  dot = {n: way @ np.array(axis) for n, axis in clips.DIRECTIONS.items()}
  return max(dot, key=dot.get)


def test_a_row_depends_on_its_seed_and_number_alone():
  again = ClipRows(3, COUNT, USUAL)[5]
  longer = ClipRows(3, 10 * COUNT, USUAL)[5]
  other = ClipRows(4, COUNT, USUAL)[5]
  pixels = [row.render(row.times(4))[0] for row in (again, longer, other)]
  np.testing.assert_array_equal(pixels[0], pixels[1])
  assert not np.array_equal(pixels[0], pixels[2])


def test_lessons_change_their_mixture_after_the_warm_up():
  settings = tuple(clips.ClipSettings(frames=(n, n)) for n in (1, 4))
  lessons = Lessons(0, 300, settings, (1.0, 0.0), (0.25, 0.75), 100)
  frames = [lessons[number].frames for number in range(len(lessons))]
  assert set(frames[:100]) == {1}
  assert abs(np.mean([n == 4 for n in frames[100:]]) - 0.75) < 0.13
