"""Visual Genome's boxes as rows of region features, on a fixture of files."""

import numpy as np
import pytest

from data import records
from experiments.mask import genome, mask
from launch.objectives import prototypes
from tests import mask_files

BOXES = {
  1: [
    mask_files.box(['hot dog'], (0, 0, 20, 20)),
    mask_files.box(['man'], (40, 0, 20, 40), ['red']),
    mask_files.box(['man'], (70, 0, 20, 40)),
  ],
  2: [mask_files.box(['dog'], (0, 0, 50, 50), ['red', 'hot'])],
  3: [mask_files.box(['man'], (0, 0, 50, 50))],
}
WORDS = ('man', 'red', 'dog', 'hot')


@pytest.fixture
def config(tmp_path):
  root = mask_files.write_genome(
    tmp_path / 'vg', {n: (None, boxes) for n, boxes in BOXES.items()}
  )
  corners = {
    str(n): np.array(
      [(b['x'], b['y'], b['x'] + b['w'], b['y'] + b['h']) for b in boxes],
      np.float32,
    )
    for n, boxes in BOXES.items()
    if n != 3  # whose features are missing
  }
  features = {
    name: np.float32(int(name)) + np.arange(len(its) * 6, dtype=np.float32)
    for name, its in corners.items()
  }
  features = {name: x.reshape(-1, 6) for name, x in features.items()}
  mask_files.write_npz(tmp_path / 'butd', features, corners)
  vectors = mask_files.vectors(WORDS, 6)
  mask_files.write_text(tmp_path / 'glove.txt', WORDS, vectors)
  made = mask.get_config('full')
  made.data.update(
    path=str(root),
    features=str(tmp_path / 'butd'),
    vectors=str(tmp_path / 'glove.txt'),
    minimum=1,
    regions=2,
    workers=0,
    max_bad_share=0.5,
  )
  made.batch_size = 3
  return made


def test_words_and_shares_of_every_image(config):
  task = genome.Task(config)
  words, vectors = task.words()
  assert words[0] == 'man' and set(words) == set(WORDS)
  assert vectors.shape == (4, 6)
  assert task.counts()[0] == max(task.counts()) and len(task.counts()) == 4
  ((rows,), weights) = task.train_rows()
  assert weights is None and len(rows) == 4  # three boxes are two shares
  seen = [task.regions(rows[number]) for number in range(3)]
  named = lambda one: {words[number] for number in one}
  assert [[named(one) for one in labels] for _, labels in seen] == [
    [{'hot', 'dog'}, {'man'}],
    [{'man', 'red'}],
    [{'dog', 'red', 'hot'}],
  ]
  np.testing.assert_array_equal(seen[0][0][:, 0], [1, 13])
  np.testing.assert_array_equal(seen[1][0][:, 0], [7])
  with pytest.raises(records.BadRecord, match='image 3: image without'):
    task.regions(rows[3])
  assert rows.where(1) == 'image 1, share 2 of 2'


def test_batches_count_images_without_features(config):
  made = prototypes.RegionJob(config, genome.Task(config), None)
  batches = prototypes.training_batches(made, None)
  batch = next(batches)
  assert batch['regions'].shape == (3, 2, 6)
  assert batch['words'].shape == batch['valid'].shape == (3, 2)
  np.testing.assert_array_equal(batch['words'] >= 0, batch['valid'])
  # Three of four rows can be used; a batch and what follows it takes all.
  assert set(batches.stats()['bad']) == {'bad regions'}
  batches.close()
