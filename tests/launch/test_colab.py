"""The notebook, run cell by cell on a tiny checkpoint, and what it leaves."""

import json
import os
from pathlib import Path

import jax
import nbclient
import nbformat
import numpy as np
import pytest

import vlm
from data.assistant import user_turn
from tests import tiny_checkpoint
from vlm.sharding.rules import flatten

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / 'launch/colab/vlm_quickstart.ipynb'

# What the notebook has found out, said at its end.
FACTS = """
import json
print(json.dumps({
  'answers': [first, told, tuned, reloaded],
  'count': count,
  'devices': mesh.size,
  'frames': len(video),
  'heats': [heat.tolist() for heat in heats],
  'losses': losses,
  'output': str(output),
  'question': QUESTION,
  'picture': str(PICTURE),
}))
"""


def environment(folder, scratch) -> dict[str, str]:
  """Two devices, no network, and what the kernel writes in `scratch`."""
  return os.environ | {
    'HF_HUB_OFFLINE': '1',
    'IPYTHONDIR': str(scratch),
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
    'JAX_NUM_CPU_DEVICES': '2',
    'TMPDIR': str(scratch),
    'VLM_MODEL': str(folder),
  }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  pytest.importorskip('torch')
  return tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))


@pytest.fixture(scope='module')
def ran(folder, tmp_path_factory):
  """The notebook after its run, and the facts."""
  scratch = tmp_path_factory.mktemp('scratch')
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  notebook.cells.append(nbformat.v4.new_code_cell(FACTS, id='facts'))
  patch = pytest.MonkeyPatch()
  patch.setenv('JUPYTER_RUNTIME_DIR', str(scratch / 'runtime'))
  client = nbclient.NotebookClient(
    notebook,
    timeout=300,
    kernel_name='python3',
    resources={'metadata': {'path': str(ROOT)}},
  )
  try:
    client.execute(env=environment(folder, scratch))
  finally:
    patch.undo()
  cells = {cell.id: cell for cell in notebook.cells}
  return cells, json.loads(text_of(cells['facts']))


def text_of(cell) -> str:
  return ''.join(o.text for o in cell.outputs if o.output_type == 'stream')


def test_it_is_committed_without_outputs():
  cells = json.loads(NOTEBOOK.read_text())['cells']
  code = [cell for cell in cells if cell['cell_type'] == 'code']
  assert len(code) > 8
  assert not any(cell['outputs'] or cell['execution_count'] for cell in code)
  assert NOTEBOOK.stat().st_size < 100_000


def test_it_says_what_it_loaded(ran, folder):
  cells, facts = ran
  params = vlm.load(folder).params
  assert facts['count'] == sum(x.size for x in jax.tree.leaves(params))
  report = text_of(cells['loaded'])
  assert 'decoder/layers/attn/q/kernel' in report
  assert 'float32, on 2' in report and facts['devices'] == 2


def test_answers_are_streamed(ran):
  cells, facts = ran
  names = ('ask', 'video', 'again', 'reload')
  for name, answer in zip(names, facts['answers'], strict=True):
    assert answer and answer in text_of(cells[name])
  assert facts['frames'] == 8


def test_figures_are_drawn(ran):
  cells, _ = ran
  for name in ('ask', 'video', 'look', 'step'):
    kinds = [key for o in cells[name].outputs for key in o.get('data', {})]
    assert 'image/png' in kinds, f'no picture under the cell {name!r}'


def test_the_heat_lies_on_the_picture_as_the_model_looks(ran, folder):
  """Row by row, what one pass over the same prompt gives here."""
  _, facts = ran
  assistant = vlm.load(folder)
  shown = [facts['picture']]
  turn = user_turn(facts['question'], shown)
  prompt = assistant.prompt({'images': shown, 'messages': [turn]})
  weights = jax.jit(assistant.model.attention_of)(assistant.params, prompt)
  visual = np.isin(prompt['tokens'][0], assistant.chat.placeholder_ids)
  assert len(facts['heats']) == len(weights) == 2
  for heat, layer in zip(facts['heats'], np.asarray(weights)):
    want = layer[0].mean(0)[visual]  # the picture's tokens, in reading order
    assert min(np.shape(heat)) > 1
    np.testing.assert_allclose(np.ravel(heat), want, atol=1e-6)


def test_it_learns(ran):
  _, facts = ran
  losses = facts['losses']
  assert len(losses) == 20 and losses[-1] < losses[0] - 0.1
  assert max(losses[-5:]) < min(losses[:5])
  first, _, tuned, _ = facts['answers']
  assert tuned != first


def test_the_export_is_the_tuned_model(ran, folder):
  """It answers the same, and differs where adapters lay and nowhere else."""
  _, facts = ran
  tuned = vlm.load(facts['output'])
  answer = tuned.ask(facts['question'], [facts['picture']], max_new_tokens=48)
  assert answer == facts['answers'][-1].strip() == facts['answers'][-2].strip()
  before = dict(flatten(vlm.load(folder).params))
  changed = {
    path
    for path, value in flatten(tuned.params)
    if not np.array_equal(value, before[path])
  }
  adapted = {
    path
    for path in before
    if path.startswith(('decoder/layers/attn', 'decoder/layers/mlp/'))
    and path.endswith('/kernel')
  }
  assert changed == adapted
