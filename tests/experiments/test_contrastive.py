"""Contrastive training from rows to scores, killed and continued."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from data import records
from data.embeddings import Embedder, pictures_in
from data.worlds import shapes
from experiments.contrastive import contrastive, task
from launch import convert, evaluate, job, train
from launch.objectives import pairs
from tests import tiny_checkpoint, tiny_clip
from vlm.sharding.mesh import make_mesh
from vlm.train.checkpoint import Checkpoints


def config_of(tmp_path, arg='smoke', **changes):
  config = contrastive.get_config(arg)
  config.workdir = str(tmp_path / 'run')
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of 30 steps, its job, its last state and its rows."""
  config = config_of(tmp_path_factory.mktemp('run'))
  rows = []
  made, state = train.run(config, report_row=rows.append)
  return made, state, rows


def test_the_smoke_run_learns_and_says_what_it_saw(trained):
  made, state, rows = trained
  losses = [row['loss'] for row in rows]
  assert losses[-1] < 0.85 * losses[0]
  assert 0.2 < rows[0]['cut_share'] < 0.5  # a sentence of three is too long
  assert 0 < rows[0]['duplicate_share'] < 1
  mesh = make_mesh(made.config.mesh)
  result = evaluate.evaluate_job(made, state['params'], mesh)['shapes']
  assert result['scores']['i2t_r5'] > 2 * 500 / 48  # of 48 pictures
  assert result['scores']['cut_share'] == pytest.approx(1 / 3)
  assert len(result['records']) == 3 * 48 and not result['skipped']
  assert json.loads(json.dumps(result)) == result


def test_killed_and_continued_is_bit_for_bit_the_same(trained, tmp_path):
  _, want, _ = trained
  config = config_of(tmp_path)
  config.checkpoint.every = 10

  class Killed(Exception):
    pass

  def stop(row):
    if row['step'] == 20:
      raise Killed

  with pytest.raises(Killed):
    train.run(config, report_row=stop)
  _, state = train.run(config)
  for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(want)):
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_bad_rows_are_counted_and_never_paired_with_another(
  trained, tmp_path, caplog
):
  made, state, _ = trained
  for number in range(3):
    picture = tiny_checkpoint.picture(40, 36, seed=number)
    picture.save(tmp_path / f'{number}.png')
  (tmp_path / '3.png').write_bytes(b'\x89PNG')
  said = ['a red disc .', '', 'a blue bar .', 'a white ring .', 'a bar .']
  rows = [{'image': f'{i}.png', 'texts': said[i]} for i in range(5)]
  lines = '\n'.join(json.dumps(row) for row in rows)
  (tmp_path / 'rows.jsonl').write_text(lines)

  made.config.data.images = str(tmp_path)
  found = [rows[i] for i in range(5)]
  made.task.eval_sets = lambda: {'files': found}
  mesh = make_mesh(made.config.mesh)
  result = evaluate.evaluate_job(made, state['params'], mesh)['files']
  assert [record['row'] for record in result['records']] == [0, 2]
  assert result['skipped'] == {
    'empty text': 1, 'corrupt image': 1, 'missing image': 1
  }  # fmt: skip
  made.task.eval_sets = lambda: {'files': found[3:]}
  with pytest.raises(ValueError, match='no pair could be read'):
    evaluate.evaluate_job(made, state['params'], mesh)


def test_skipped_pictures_leave_their_texts_out(trained, tmp_path):
  """Every picture has one grey level, and its text names it."""
  made, _, _ = trained
  words = list(shapes.WORDS)[:24]
  rows = [{'image': f'{i}.png', 'texts': words[i]} for i in range(len(words))]
  for i in set(range(len(words))) - {2, 7, 15}:
    Image.new('L', (36, 32), 10 * i).save(tmp_path / f'{i}.png')
  (tmp_path / '7.png').write_bytes(b'\x89PNG')
  (tmp_path / 'rows.json').write_text(json.dumps(rows))
  config = contrastive.get_config('smoke')
  config.data.path, config.data.images = f'{tmp_path}/rows.json', str(tmp_path)
  config.data.on_bad, config.data.max_bad_share = 'skip', 0.5
  config.data.epochs, config.batch_size = 1, 8
  made = dataclasses.replace(made, config=config, task=task.Task(config))
  batches = pairs.training_batches(made, None)
  ids = made.encoder.text.tokenizer.get_vocab()
  seen = set()
  for batch in batches:
    for pixels, tokens, text_id in zip(
      batch['pixels'], batch['tokens'], batch['text_ids'], strict=True
    ):
      if text_id == 0:  # the last batch is filled up
        assert not tokens.any()
        continue
      word = words[pixels[0, 0, 0] // 10]
      assert tokens[1] == ids[word]
      seen.add(word)
  assert len(seen) == 21
  stats = batches.stats()['bad']
  assert stats == {'missing image': 2, 'corrupt image': 1}
  batches.close()


@pytest.mark.parity
def test_a_published_checkpoint_is_read_and_exported(tmp_path):
  torch = pytest.importorskip('torch')
  import transformers

  folder = tiny_clip.write(tmp_path / 'clip')
  config = config_of(tmp_path, **{'model.init_from': str(folder)})
  made = pairs.prepare(config)
  params = job.initial_params(made)
  checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints')
  checkpoints.save(1, {'params': params})
  checkpoints.close()
  (tmp_path / 'run' / 'config.json').write_text(config.to_json_best_effort())
  assert made.encoder.picture.edge == 40 and made.model.config.embedding == 12
  convert.from_orbax(config.workdir, tmp_path / 'best')
  theirs = transformers.CLIPModel.from_pretrained(tmp_path / 'best')
  mesh = make_mesh({'data': -1, 'fsdp': 1})
  embedder = Embedder.load(tmp_path / 'best', mesh=mesh, batch_size=8)
  picture = tiny_checkpoint.picture(50, 60)
  ours = embedder.pictures([picture]).vectors[0]
  pixels = embedder.picture(picture)[0] / np.float32(255)
  mean, std = (
    made.model.config.vision.pixel_mean,
    (made.model.config.vision.pixel_std),
  )
  pixels = ((pixels - mean) / std).astype(np.float32)
  with torch.no_grad():
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    pooled = theirs.vision_model(tensor).pooler_output
    want = theirs.visual_projection(pooled)[0].numpy()
  np.testing.assert_allclose(ours, want, atol=1e-4)
  words = embedder.texts(['a red disc on blue ground .'])
  assert words.vectors.shape == (1, 12)
  with pytest.raises(ValueError, match='--config.batch_size=9'):
    Embedder.load(tmp_path / 'best', mesh=mesh, batch_size=9)


def test_a_folder_is_embedded_on_any_mesh(trained, tmp_path, devices):
  made, state, _ = trained
  for number in range(5):
    picture = tiny_checkpoint.picture(40 + number, 36, seed=number)
    picture.save(tmp_path / f'{number}.png')
  (tmp_path / '2b.png').write_bytes(b'\x89PNG')
  (tmp_path / 'notes.txt').write_text('no picture')
  params = jax.tree.map(np.array, state['params'])
  parts = made.model, params, made.encoder.picture, made.encoder.text
  one = make_mesh({'data': 1, 'fsdp': 1}, devices[:1])
  eight = make_mesh({'data': 4, 'fsdp': 2}, devices)
  paths = pictures_in(tmp_path)
  assert [path.name for path in paths] == [
    '0.png', '1.png', '2.png', '2b.png', '3.png', '4.png'
  ]  # fmt: skip
  alone = Embedder(*parts, one, 2).pictures(paths, skip=True)
  spread = Embedder(*parts, eight, 8).pictures(paths, skip=True)
  np.testing.assert_array_equal(alone.kept, [0, 1, 2, 4, 5])
  assert alone.bad[0].reason == 'corrupt image' and '2b.png' in str(
    alone.bad[0]
  )
  np.testing.assert_array_equal(spread.kept, alone.kept)
  np.testing.assert_allclose(spread.vectors, alone.vectors, atol=1e-5)
  assert len({tuple(v) for v in alone.vectors}) == 5
  with pytest.raises(records.BadRecord, match=r'picture 3 \(.*2b.png\)'):
    Embedder(*parts, one, 2).pictures(paths)
  words = Embedder(*parts, one, 2).texts(['a red disc .', 'a blue bar .'])
  assert words.vectors.shape == (2, made.model.config.embedding)
  params['vision_projection']['kernel'][0, 0] = np.nan
  with pytest.raises(ValueError, match='embedding of picture 0 is not finite'):
    Embedder(*parts, one, 2).pictures(paths, skip=True)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='has no picture'):
    pictures_in(tmp_path / 'empty')


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('batch_size', 13, '--config.batch_size=13'),
    ('accumulate', 5, '--config.batch_size=48'),
    ('model.preset', 'qwen2.5-vl-3b', 'has no text tower'),
    ('contrastive.loss', 'hinge', '--config.contrastive.loss'),
    ('contrastive.protocol', '2k', '--config.contrastive.protocol'),
    ('objective', 'contrast', '--config.objective'),
  ],
)
def test_a_wrong_field_is_named_by_its_flag(tmp_path, field, value, message):
  config = config_of(tmp_path, **{field: value})
  with pytest.raises(ValueError, match=message):
    train.run(config)


def test_a_batch_of_one_has_nothing_to_learn_from(tmp_path):
  with pytest.raises(ValueError, match='batch_size=1: a pair alone'):
    pairs.prepare(config_of(tmp_path, batch_size=1))


def test_a_tokenizer_of_another_model_is_named(tmp_path):
  config = config_of(tmp_path, **{'model.preset': 'clip-b32'})
  with pytest.raises(ValueError, match='text tower expects 49407'):
    pairs.prepare(config)
