"""The command: its exit code, and the table it writes."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh

from experiments.contrastive import contrastive
from experiments.depthlm import depthlm, grpo
from experiments.rali import q_insight
from launch import compile
from launch.aot import hlo, programs, table, verdict
from launch.pods import topologies
from vlm.sharding import mesh as mesh_lib

ROOT = Path(__file__).resolve().parents[2]


def report(**changes) -> verdict.Report:
  """A made-up report whose walls are easy to compute by hand."""
  chips, peak, rate = 64, 197e12, 819e9
  return verdict.Report(
    **{
      'step': 'train',
      'slice': topologies.parse('v5e:8x8'),
      'mesh': {'data': 1, 'fsdp': 32, 'tensor': 2},
      'rows': 1280,
      'length': 5376,
      'images': '7 tiles',
      'accumulate': 20,
      'remat': 'block',
      'refusal': '',
      'memory': verdict.Memory(4 << 30, 6 << 30, 5 << 30, 4 << 30, 1 << 29),
      'largest': [hlo.Buffer(1 << 30, 'bf16[1024]', 'params/big')],
      'collectives': [
        # 30 GB at 100 GB/s over both axes of the mesh, and 10 at 50.
        hlo.Collective('all-gather', 10, 64, 3e9, 'a'),
        hlo.Collective('all-reduce', 5, 8, 2e9, 'b'),
      ],
      'model_flops': 1.5 * chips * peak,
      'hardware_flops': 2.0 * chips * peak,
      'hbm_bytes': 0.25 * rate,
      'compile_seconds': 100.0,
      'host_bytes': 1 << 30,
      **changes,
    }
  )


def test_roofline_by_hand():
  one = report()
  assert one.seconds == pytest.approx(
    {'compute': 2.0, 'HBM': 0.25, 'ICI': 0.3 + 0.2}
  )
  assert one.bound == 'compute' and one.mfu == pytest.approx(0.75)
  assert one.memory.total == (4 + 6 + 5 - 4 << 30) + (1 << 29)
  text = one.text()
  assert '= 11.50 of 15.75 GiB (73 %)' in text
  assert 'all-gather over 64: 10 times, 30.000 GB sent' in text
  slow = hlo.Collective('all-to-all', 1, 64, 1e12, 'c')
  assert report(collectives=[slow]).bound == 'ICI'


def test_refusal_in_words():
  text = report(refusal='RESOURCE_EXHAUSTED: 17 of 15.75').text()
  assert 'DOES NOT FIT: RESOURCE_EXHAUSTED: 17 of 15.75' in text
  assert '1.000 GiB  bf16[1024]  params/big' in text
  assert 'a smaller --config.batch_size' in text
  sampler = report(step='decode', refusal='17 of 15.75').text()
  assert '--config.rollout.mesh.tensor' in sampler


def test_table_goes_between_the_markers(tmp_path):
  path = tmp_path / 'README.md'
  begin, end = table.BEGIN, table.END
  path.write_text(f'before\n{begin}\nold\n{end}\nafter\n')
  decode = report(step='decode', refusal='no', model_flops=1e6)
  rows = [table.row_of('README.md', 'some-7b', r) for r in (decode, report())]
  table.write(table.render(rows), path)
  text = path.read_text()
  assert text.startswith('before\n') and text.endswith('\nafter\n')
  assert 'old' not in text
  train = text.index('| some-7b | v5e:8x8 (64) | train |')
  assert train < text.index('| some-7b | v5e:8x8 (64) | decode |')
  assert (
    '| train | 1,280 x 5,376 | 7 tiles | 2 | 11.5 of 15.75 | 1.89e+16 '
    '| 40 | 2.00 s (compute) | 75 % | 100 s |' in text
  )
  assert '| does not fit: 11.5 of 15.75 |' in text
  path.write_text('no markers')
  with pytest.raises(ValueError, match='aot:begin'):
    table.write('x', path)


def test_compiling_again_replaces_a_row(tmp_path):
  path = tmp_path / 'rows.json'
  first = table.row_of('README.md', 'a', report())
  other = table.row_of('README.md', 'b', report())
  assert table.update([first, other], path) == [first, other]
  again = table.row_of('README.md', 'a', report(compile_seconds=7.0))
  assert table.update([again], path) == [again, other]


def test_every_table_has_its_readme(tmp_path):
  (tmp_path / 'sub').mkdir()
  tables = 'README.md', 'sub/README.md'
  for name in tables:
    (tmp_path / name).write_text(f'{table.BEGIN}\n{table.END}\n')
  rows = [table.row_of(name, f'of-{name[0]}', report()) for name in tables]
  table.write_tables(rows, tmp_path)
  found = [(tmp_path / name).read_text() for name in tables]
  assert 'of-R' in found[0] and 'of-s' not in found[0]
  assert 'of-s' in found[1] and 'of-R' not in found[1]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--topology=v5e:3x3'], 'v5e:2x2'),
    ([], '--topology is missing'),
  ],
)
def test_bad_flags(arguments, message):
  done = command('smoke', *arguments)
  assert done.returncode == 1 and message in done.stderr


@pytest.mark.parametrize(
  ('made', 'step', 'changes', 'message'),
  [
    (depthlm, 'trian', {}, "--steps='trian', expected of"),
    (depthlm, '', {}, "--steps='', expected of"),
    (depthlm, 'logprobs', {}, "objective='sft' has no completions"),
    (contrastive, 'decode', {}, "objective='contrastive' has no model that"),
    (depthlm, 'train', {'mesh.tensor': 3}, '--config.mesh.tensor=3'),
    (depthlm, 'train', {'mesh.tensor': 8}, 'change --config.mesh.tensor=8'),
    (depthlm, 'forward', {'accumulate': 0}, '--config.accumulate=0'),
    (depthlm, 'train', {'batch_size': 9}, '--config.batch_size=9, expected a'),
    (
      *(depthlm, 'decode', {'rollout.mesh.tensor': 8}),
      'change --config.rollout.mesh.tensor=8',
    ),
    (depthlm, 'prefill', {'rollout.rows': 9}, '--config.rollout.rows=9, exp'),
    (grpo, 'prefill', {'batch_size': 9}, '--config.batch_size=9, expected a'),
  ],
)
def test_what_cannot_be_compiled_is_refused_before(
  made, step, changes, message
):
  config = made.get_config('smoke')
  config.update_from_flattened_dict(changes)
  config.batch_size = changes.get('batch_size', 64)
  with pytest.raises(ValueError, match=re.escape(message)):
    compile.plan(config, topologies.parse('v5e:2x4'), ['train', step])


@pytest.mark.parametrize(
  ('made', 'arg'),
  [
    (q_insight, 'full'),
    (q_insight, 'full,model=qwen2.5-vl-3b,arm=no_think_score'),
    (grpo, 'full'),
    (grpo, 'full,model=qwen2.5-vl-7b'),
  ],
)
def test_the_slices_of_rewarded_training_divide(made, arg):
  config = made.get_config(arg)
  planned = compile.plan_table(config, None, ['train', 'decode'])
  wanted = [name for name, _ in config.slices for _ in range(2)]
  assert [one.slice.name for one in planned] == wanted
  assert {'v5e:8x8', 'v6e:8x8', 'v5p:2x4x4'} == set(wanted)
  prompts, answers = planned[0].work, planned[1].work
  assert prompts.seen['tokens'].shape == (
    config.batch_size * config.rl.group,
    config.data.seq_len + config.rl.new_tokens,
  )
  assert answers.batch['tokens'].shape[0] == config.batch_size
  assert answers.samples == config.rl.group


def test_a_table_of_no_slice_is_refused():
  config = q_insight.get_config('full,arm=rank')
  with pytest.raises(ValueError, match='the config has none'):
    compile.plan_table(config, None, ['train'])
  config = q_insight.get_config('full')
  with pytest.raises(ValueError, match='--topology=v5e:4x4 is not among'):
    compile.plan_table(config, 'v5e:4x4', ['train'])


def command(size, *arguments, file='experiments/depthlm/depthlm.py'):
  return subprocess.run(
    [
      *(sys.executable, '-m', 'launch.compile'),
      f'--config={file}:{size}',
      *arguments,
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.aot
def test_command_exits_with_0_when_it_fits():
  done = command('smoke', '--topology=v5e:2x2', '--steps=forward')
  assert done.returncode == 0, done.stderr
  assert 'forward step on v5e:2x2' in done.stdout
  assert 'estimated step time' in done.stdout


@pytest.mark.aot
def test_the_sampler_compiles():
  done = command(
    'smoke',
    *(
      '--topology=v5e:2x2',
      '--steps=prefill,decode',
      '--config.rollout.rows=8',
    ),
    *('--config.rollout.samples=2', '--config.rollout.mesh.tensor=2'),
  )
  assert done.returncode == 0, done.stderr
  prefill, decode = done.stdout.split('decode step on v5e:2x2')
  assert 'prefill step on v5e:2x2 (4 chips, data=2 fsdp=1 tensor=2)' in prefill
  # Two layers reduce over heads and ffn; a token moves little else.
  assert 'all-reduce over 2:' in decode and 'bound by HBM' in decode


@pytest.mark.aot
def test_a_step_of_rl_compiles():
  """With the reference it keeps, and the pass that asks it."""
  done = command(
    'smoke',
    *('--topology=v5e:2x2', '--steps=train,logprobs'),
    file='experiments/depthlm/grpo.py',
  )
  assert done.returncode == 0, done.stderr
  # Four prompts of 44 tokens, eight answers of 8 behind each.
  for step in ('train', 'logprobs'):
    said = f'{step} step on v5e:2x2 (4 chips, data=1 fsdp=4 tensor=1): 32 x 52'
    assert said in done.stdout


@pytest.mark.parametrize(
  ('file', 'size'),
  [
    ('experiments/mask/mask.py', 'full'),  # Visual Genome need not be there
    ('experiments/mask/mask.py', 'smoke,arm=supervised'),
    ('experiments/rali/miniature/towers.py', 'smoke,arm=mse'),
    ('experiments/rali/q_insight.py', 'smoke,arm=sft_regression'),
    ('experiments/rali/q_insight.py', 'full,arm=deqa'),
  ],
)
def test_steps_without_words_are_planned_and_counted(file, size):
  name = file.removesuffix('.py').replace('/', '.')
  config = importlib.import_module(name).get_config(size)
  wanted = topologies.parse('v5e:2x2')
  (one,) = compile.plan(config, wanted, ['train'])
  mesh = AbstractMesh((1, 4, 1), mesh_lib.AXES)
  counted = programs.counts('train', one.work, mesh)
  assert counted['hardware_flops'] >= counted['model_flops'] > 1e5
  assert counted['hbm_bytes'] > 1e4


@pytest.mark.aot
def test_a_step_of_regions_compiles():
  done = command(
    'smoke',
    *('--topology=v5e:2x2', '--steps=train'),
    file='experiments/mask/mask.py',
  )
  assert done.returncode == 0, done.stderr
  assert 'fsdp=4 tensor=1): 32 x 8 tokens, no images a row' in done.stdout


@pytest.mark.aot
def test_fewer_prompts_than_chips_compile():
  """Q-Insight's layout: tensor shards take what its prompts leave."""
  done = command(
    'smoke',
    *('--topology=v5e:2x2', '--steps=train,decode', '--config.batch_size=1'),
    *('--config.mesh.tensor=4', '--config.rollout.mesh.tensor=4'),
    file='experiments/rali/q_insight.py',
  )
  assert done.returncode == 0, done.stderr
  # One prompt of 52 tokens, four answers of 24 behind it.
  said = 'train step on v5e:2x2 (4 chips, data=1 fsdp=1 tensor=4): 4 x 76'
  assert said in done.stdout
  assert 'decode step on v5e:2x2 (4 chips, data=1 fsdp=1' in done.stdout


@pytest.mark.aot
def test_command_exits_with_1_and_names_buffers_when_it_does_not():
  done = command(
    'smoke',
    '--topology=v5e:2x2',
    '--steps=forward',
    '--config.batch_size=4194304',
  )
  assert done.returncode == 1, done.stdout + done.stderr
  assert 'DOES NOT FIT: RESOURCE_EXHAUSTED' in done.stdout
  assert 'batch/pixels' in done.stdout


FULL = depthlm.get_config('full')


@pytest.mark.aot_full
@pytest.mark.parametrize('name', [name for name, _ in FULL.slices])
def test_full_size_fits(name):
  changes = dict(FULL.slices)[name]
  flags = [f'--config.{field}={value}' for field, value in changes.items()]
  done = command('full', f'--topology={name}', *flags)
  assert done.returncode == 0, done.stdout + done.stderr
