"""The depth notebook, run cell by cell on a tiny checkpoint."""

import json

import nbclient
import nbformat
import numpy as np
import pytest

from tests import tiny_checkpoint
from tests.launch.test_colab import ROOT, environment, text_of
from vlm.methods.depthlm import facts
from vlm.methods.depthlm.sample import SampleSettings

pytestmark = pytest.mark.parity
NOTEBOOK = ROOT / 'launch/colab/depth_from_a_photo.ipynb'

# A random model states no metres; these are put in its mouth.
SPOKEN = """
from experiments.depthlm.ask import Pictures
kept = Pictures.record
Pictures.record = lambda self, question, said, problem, grid: kept(
  self, question, f'<answer> {2 + question.label / 10} </answer>', problem, grid
)
"""
FACTS = """
import json
print(json.dumps({'output': str(output), 'camera': list(camera)}))
"""


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """The notebook after its run, and the facts."""
  pytest.importorskip('torch')
  folder = tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))
  settings = SampleSettings(focal=60.0, prompt=('how far?', '{d:.2f}'))
  (folder / facts.NAME).write_text(facts.to_json(settings))
  scratch = tmp_path_factory.mktemp('scratch')
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  cell = nbformat.v4.new_code_cell
  notebook.cells.append(cell(FACTS, id='facts'))
  places = [c.id for c in notebook.cells]
  notebook.cells.insert(places.index('settings'), cell(SPOKEN, id='spoken'))
  client = nbclient.NotebookClient(
    notebook,
    timeout=300,
    kernel_name='python3',
    resources={'metadata': {'path': str(ROOT)}},
  )
  given = {'VLM_FOCAL': '0', 'VLM_CELLS': '6'}
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('JUPYTER_RUNTIME_DIR', str(scratch / 'runtime'))
    client.execute(env=environment(folder, scratch) | given)
  cells = {c.id: c for c in notebook.cells}
  return cells, json.loads(text_of(cells['facts']))


def test_it_is_committed_without_outputs():
  cells = json.loads(NOTEBOOK.read_text())['cells']
  code = [cell for cell in cells if cell['cell_type'] == 'code']
  assert not any(cell['outputs'] or cell['execution_count'] for cell in code)


def test_it_says_what_was_assumed(ran):
  cells, found = ran
  assert 'on 2 device(s), asked at a common focal length of 60' in text_of(
    cells['load']
  )
  said = text_of(cells['focal'])
  assert 'field of view of 55 degrees; assumed: square pixels' in said
  fx, fy, cx, cy, width, height = found['camera']
  assert (width, height, cx, cy) == (600, 400, 300, 200)
  assert fx == fy == pytest.approx(300 / np.tan(np.radians(27.5)))


def test_pictures_are_drawn_and_files_written(ran):
  cells, found = ran
  for name in ('photo', 'map', 'cloud'):
    kinds = [key for o in cells[name].outputs for key in o.get('data', {})]
    assert 'image/png' in kinds, f'no picture under the cell {name!r}'
  distance = np.load(f'{found["output"]}/distance.npy')
  want = 2 + np.arange(24).reshape(4, 6) / 10
  known = np.isfinite(distance)
  np.testing.assert_allclose(distance[known], want[known], rtol=1e-6)
  assert known.sum() >= 8
  for name in text_of(cells['save']).split():
    assert (ROOT / found['output'] / name).exists()
