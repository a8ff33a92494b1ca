"""The world of composed scenes: true captions, and nothing held out leaks."""

import numpy as np
import pytest

from data.worlds import nouns, patch_code, scenes, silhouettes

SCENES = [scenes.compose(0, number, False) for number in range(60)]
KNOWN = [scenes.compose(0, number, True) for number in range(60)]


def test_words_are_those_of_the_specification():
  assert len(nouns.KNOWN) == 48 and len(nouns.HELD_OUT) == 22
  assert len(nouns.KNOWLEDGE) == 64 and len(nouns.FAMILIES) == 10
  assert not set(nouns.KNOWLEDGE) & set(nouns.HELD_OUT)
  for name, family in nouns.FAMILIES.items():
    held = set(family) & set(nouns.HELD_OUT)
    assert 2 <= len(held) <= 3 and len(set(family) - held) >= 4, name


def test_captions_are_true():
  for scene in SCENES:
    shown = {thing.noun: thing for thing in scene.things}
    assert len(shown) == scenes.THINGS
    for text in scene.captions:
      colour = texture = None
      for word in text.split():
        if word in nouns.COLOURS:
          colour = word
        elif word in nouns.TEXTURES:
          texture = word
        elif word in nouns.PROGRAMS:
          assert colour in (None, shown[word].colour)
          assert texture in (None, shown[word].texture)
          colour = texture = None
        else:
          assert word in scenes.FILLERS + ('.',)
      assert colour is texture is None


def test_words_held_out_are_never_known():
  seen = {thing.noun for scene in KNOWN for thing in scene.things}
  assert seen == set(nouns.KNOWN)
  every = {thing.noun for scene in SCENES for thing in scene.things}
  assert every == set(nouns.NOUNS)


def test_kinds_prefer_families():
  fitting = [
    nouns.FAMILY[thing.noun] in scenes.KINDS[scene.kind]
    for scene in SCENES
    for thing in scene.things
  ]
  assert np.mean(fitting) > 0.6


def test_a_scene_is_drawn_from_its_number_alone():
  again = scenes.compose(0, 7, False)
  assert again == SCENES[7] and again != SCENES[8]
  first, second = scenes.render(again), scenes.render(SCENES[7])
  np.testing.assert_array_equal(first, second)
  assert first.shape == (scenes.SIZE, scenes.SIZE, 3)
  crops = scenes.regions(first, again)
  assert crops.shape == (scenes.THINGS, scenes.CELL, scenes.CELL, 3)


def test_things_have_their_colour():
  plain = {'red': 0, 'green': 1, 'blue': 2}
  found = 0
  for scene in SCENES[:20]:
    pixels = scenes.render(scene).astype(float)
    for thing in scene.things:
      if thing.colour in plain:
        left, top, right, bottom = thing.box
        inside = pixels[top:bottom, left:right].reshape(-1, 3)
        share = inside / inside.sum(1, keepdims=True)
        assert share[:, plain[thing.colour]].max() > 0.5
        found += 1
  assert found > 10


def test_every_noun_has_a_look_of_its_own():
  looks = {noun: scenes.specimen(noun) for noun in nouns.NOUNS}
  flat = np.stack([look.ravel().astype(float) for look in looks.values()])
  gaps = np.abs(flat[:, None] - flat[None]).mean(-1)
  np.fill_diagonal(gaps, np.inf)
  # An airplane is a plane a little larger; nothing is closer than that.
  assert gaps.min() > 1.0
  for noun, program in nouns.PROGRAMS.items():
    for tone, points in program():
      assert tone in (silhouettes.BODY, silhouettes.DARK, silhouettes.LIGHT)
      assert np.abs(points).max() < 1.3, noun


def test_the_patch_code_tells_colours_and_sees_no_label():
  crops = np.concatenate(
    [scenes.regions(scenes.render(scene), scene) for scene in SCENES[:40]]
  )
  code = patch_code.fit(crops, filters=16, features=24)
  found = patch_code.encode(code, crops)
  assert found.shape == (320, 24) and found.dtype == np.float32
  np.testing.assert_array_equal(patch_code.encode(code, crops[:5]), found[:5])
  np.testing.assert_allclose(found.mean(0), 0, atol=1e-2)
  labels = [thing.colour for scene in SCENES[:40] for thing in scene.things]
  labels = np.array(labels)
  unit = found / np.linalg.norm(found, axis=1, keepdims=True)
  cosines = unit @ unit.T
  np.fill_diagonal(cosines, -1)
  right = labels[cosines.argmax(1)] == labels
  assert right.mean() > 0.25  # chance is a sixteenth
  with pytest.raises(ValueError, match='expected at most'):
    patch_code.fit(crops[:10], filters=16, features=24)
