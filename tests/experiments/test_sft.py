"""Fine-tuning a published model on conversations, from files to an export."""

import json
import math

import jax
import numpy as np
import pytest

from data import records
from data.tiles import TileRow
from experiments.sft import sft, task
from launch import convert, evaluate, job, train
from tests import tiny_checkpoint
from vlm.models import flops
from vlm.sharding.mesh import make_mesh

pytestmark = pytest.mark.parity


def talk(question, answer, images):
  messages = [
    {'role': 'user', 'content': question},
    {'role': 'assistant', 'content': answer},
  ]
  return {'images': images, 'messages': messages}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A checkpoint, pictures of several sizes, a video, rows good and bad."""
  pytest.importorskip('torch')
  folder = tmp_path_factory.mktemp('sft')
  (folder / 'model').mkdir()
  tiny_checkpoint.write(folder / 'model')
  for number, size in enumerate([(30, 40), (60, 50), (90, 80)]):
    tiny_checkpoint.picture(*size).save(folder / f'{number}.png')
  frames = [tiny_checkpoint.picture(56, 56, seed) for seed in range(6)]
  frames[0].save(
    folder / 'film.gif', save_all=True, append_images=frames[1:], duration=500
  )
  (folder / 'broken.png').write_bytes(b'\x89PNG')
  rows = [
    talk('what?', 'a', ['0.png']),
    talk('which?', 'bc', ['1.png', '2.png']),
    talk('when?', 'd', ['film.gif']),
    talk('why?', 'because', []),
    talk('this?', 'no', ['broken.png']),
    talk('and this?', 'no', ['gone.png']),
    talk('so many?', 'no', ['2.png'] * 6),
  ] * 3
  lines = [json.dumps(row) for row in rows]
  (folder / 'rows.jsonl').write_text('\n'.join(lines))
  return folder


def config_of(files, **changes):
  config = sft.get_config('smoke,lora=4')
  config.model.init_from = str(files / 'model')
  config.data.path = str(files / 'rows.jsonl')
  config.data.images = str(files)
  config.data.on_bad = 'skip'
  config.data.max_bad_share = 0.5
  config.workdir = str(files / 'run')
  config.optimizer.lr = 1e-2
  config.update_from_flattened_dict(changes)
  return config


def test_a_run_over_two_buckets_compiles_twice_and_can_be_exported(
  files, monkeypatch, caplog, tmp_path
):
  steps = []
  make_step = train.make_step

  def remembered(*args, **kwargs):
    steps.append(make_step(*args, **kwargs))
    return steps[-1]

  monkeypatch.setattr(train, 'make_step', remembered)
  small, large = (40, 128, 24), (96, 256, 64)
  config = config_of(files, steps=14, workdir=str(tmp_path / 'run'))
  config.data.buckets = (large, small)
  caplog.set_level('INFO')
  rows = []
  made, state = train.run(config, report_row=rows.append)
  assert steps[0]._cache_size() == 2 == len(made.specs)
  assert (
    'row shapes, one compilation each: 40 tokens, 128 patches, 24 visual '
    'tokens; 96 tokens, 256 patches, 64 visual tokens' in caplog.text
  )
  counts = next(m for m in caplog.messages if m.startswith('rows: '))
  for reason in ("'missing image'", "'corrupt image'", "'too long'"):
    assert reason in counts
  assert "'patch_padding_share'" in counts
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert losses[-1] < 0.9 * losses[0]

  base = job.base_model(made.model).abstract_params
  start = job.initial_params(made)
  kernel = lambda tree: tree['decoder']['layers']['attn']['q']['kernel']
  np.testing.assert_array_equal(kernel(state['params']), kernel(start))
  adapter = state['params']['decoder']['layers']['attn']['q']
  assert np.abs(adapter['lora_b']).max() > 0
  assert 'lora_a' not in base['decoder']['layers']['attn']['q']
  convert.from_orbax(config.workdir, tmp_path / 'export')
  assert (tmp_path / 'export' / 'preprocessor_config.json').exists()

  import transformers

  theirs = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    tmp_path / 'export'
  )
  layer = theirs.model.language_model.layers[1].self_attn
  got = layer.q_proj.weight.detach().numpy()
  a, b = (np.asarray(adapter[name])[1] for name in ('lora_a', 'lora_b'))
  want = kernel(start)[1] + 2.0 * np.einsum('Dr,rNH->DNH', a, b)
  np.testing.assert_allclose(got.T, want.reshape(got.T.shape), atol=1e-5)


def test_packed_rows_train(files, tmp_path):
  config = config_of(files, steps=3, workdir=str(tmp_path / 'run'))
  config.data.packing = True
  made, state = train.run(config)
  assert int(state['step']) == 3 and len(made.specs) == 1
  config.data.buckets = ((64, 128, 24), (96, 256, 64))
  with pytest.raises(ValueError, match=r'data.packing.*data.buckets'):
    job.training_batches(job.prepare(config))


def test_answers_are_scored_word_for_word(files, tmp_path):
  config = config_of(files, workdir=str(tmp_path / 'run'))
  config.data.eval_path = config.data.path
  config.model.lora.rank = 0
  made = job.prepare(config)
  mesh = make_mesh(config.mesh)
  params, _ = evaluate.load_checkpoint(made, str(files / 'model'), mesh)
  rows = [json.loads(x) for x in (files / 'rows.jsonl').open()][:4]
  monkeyed = {'eval': rows}
  made.task.eval_sets = lambda: monkeyed
  result = evaluate.evaluate(made, params, mesh)['eval']
  answers = [record['answer'] for record in result['records']]
  assert answers == ['a', 'bc', 'd', 'because']
  assert result['scores']['exact'][0] == 0.0
  said = [
    {'prediction': ' bc ', 'answer': 'bc'},
    {'prediction': 'b', 'answer': 'bc'},
  ]
  assert made.task.score(said)['exact'][0] == 0.5


def test_pictures_stand_before_the_first_question():
  row = talk('what?', 'a', ['0.png', 'film.gif'])
  placed = task._with_places(row['messages'], row['images'])
  kinds = [part['type'] for part in placed[0]['content']]
  assert kinds == ['image', 'video', 'text']
  own = [{'role': 'user', 'content': [{'type': 'image'}]}]
  assert task._with_places(own, ['0.png']) is own


def test_a_model_that_is_not_listed_is_named():
  with pytest.raises(ValueError, match=r"model='gpt'.*pixtral-12b"):
    sft.get_config('full,model=gpt')
  with pytest.raises(records.BadRecord, match='more than paths'):
    task.Task(sft.get_config('smoke')).example(
      {'messages': [], 'images': [3]}, None
    )


@pytest.mark.parametrize('name', sft.SHAPES)
def test_every_listed_model_has_its_shapes_and_its_cost(name):
  config = sft.get_config(f'full,model={name}')
  model = job.model_of(config)
  (spec,) = job.row_specs(config, model)
  batch = job.batch_of(2, spec)
  assert batch['plan']['valid'].shape == (2, config.data.visual_tokens)
  cost = flops.train_flops(model.config, batch)
  # Two rows meet every weight of the decoder three times.
  layers = model.abstract_params['decoder']['layers']
  weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(layers))
  assert cost > 6 * weights * 2 * spec.seq_len
  config.data.points = 4
  if isinstance(spec, TileRow):
    assert job.row_specs(config, model)[0].points == 4
  else:
    with pytest.raises(ValueError, match=r'data.points=4 is for models'):
      job.row_specs(config, model)
