"""RALI's folders: the released files as torch sees them, ours bit for bit."""

import json
import shutil

import jax
import numpy as np
import pytest

from tests import rali_files
from vlm.convert import rali
from vlm.methods.rali import scorer
from vlm.methods.rali.inert_pickle import UnsafePickle
from vlm.models.functional import Runtime
from vlm.sharding.mesh import make_mesh

pytestmark = pytest.mark.parity
RUNTIME = Runtime(attention='xla')


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch')


@pytest.fixture(scope='module')
def written(torch, tmp_path_factory):
  folder = tmp_path_factory.mktemp('released')
  return folder, rali_files.write(folder)


@pytest.fixture(scope='module')
def loaded(written):
  return rali.load(written[0], RUNTIME)


@pytest.fixture
def folder(written, tmp_path):
  """A copy that a test may break."""
  shutil.copytree(written[0], tmp_path / 'copy')
  return tmp_path / 'copy'


def draw_pixels(rows):
  rng = np.random.default_rng(5)
  side = rali_files.SIDE
  return rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)


def test_scores_equal_the_published_forward(torch, written, loaded):
  """Section 2.6 in torch, behind the published tower."""
  clip, pixels = written[1], draw_pixels(6)
  mean, std = (
    np.array(rali_files.PREPROCESSOR[key])
    for key in ('image_mean', 'image_std')
  )
  scaled = ((pixels / 255 - mean) / std).astype(np.float32)
  pca = rali_files.fitted_pca()
  given = rali_files.draw_scorer(pca.components_)
  given = {name: torch.tensor(value) for name, value in given.items()}
  with torch.no_grad():
    images = torch.from_numpy(scaled).permute(0, 3, 1, 2)
    pooled = clip.vision_model(images).pooler_output
    x = clip.visual_projection(pooled)
    x = (x - torch.tensor(pca.mean_, dtype=torch.float32)) / given['pca_scale']
    unit = torch.nn.functional.normalize
    z = unit(x @ given['pca_components'].T, dim=-1)
    similarity = z @ unit(given['prototypes'], dim=-1).T
    tau = 1 / given['logit_scale'].clamp(min=1e-6)
    want = torch.softmax(similarity / tau, dim=-1) @ given['proto_scores']
  with jax.default_matmul_precision('highest'):
    got = jax.jit(loaded.scores)(loaded.params, loaded.scorer, pixels)
  worst = np.abs(np.asarray(got) - want.numpy()).max()
  print(f'scores: max |difference| {worst:.1e}')
  assert worst < 2e-5
  assert np.ptp(want.numpy()) > 0.01


def test_the_mean_is_that_of_the_pca_and_the_basis_is_kept(loaded):
  pca = rali_files.fitted_pca()
  np.testing.assert_array_equal(
    loaded.scorer['pca_mean'], pca.mean_.astype(np.float32)
  )
  np.testing.assert_array_equal(
    loaded.basis['vectors'], loaded.scorer['prototypes'] + np.float32(0.5)
  )
  assert loaded.scorer['logit_scale'] == np.float32(1 / 0.07)
  assert 'text' not in loaded.params


def test_an_export_comes_back_bit_for_bit(torch, written, loaded, tmp_path):
  rali.save(tmp_path / 'ours', loaded)
  again = rali.load(tmp_path / 'ours', RUNTIME)
  jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
  for name in scorer.NAMES:
    np.testing.assert_array_equal(again.scorer[name], loaded.scorer[name])
    assert again.scorer[name].dtype == np.float32
  for name in ('vectors', 'scores'):
    np.testing.assert_array_equal(again.basis[name], loaded.basis[name])
  assert again.form == loaded.form
  assert again.preprocessor == loaded.preprocessor
  with pytest.raises(ValueError, match='already holds weights'):
    rali.save(tmp_path / 'ours', loaded)

  import transformers

  theirs = transformers.CLIPVisionModelWithProjection.from_pretrained(
    tmp_path / 'ours'
  )
  for key, value in theirs.state_dict().items():
    assert torch.equal(value, written[1].state_dict()[key]), key


def test_the_tower_may_lie_on_a_mesh_and_below_other_models(
  written, loaded, tmp_path
):
  (tmp_path / 'RALI').symlink_to(written[0])
  mesh = make_mesh({'data': -1, 'fsdp': 1})
  spread = rali.load(tmp_path, RUNTIME, mesh)
  jax.tree.map(np.testing.assert_array_equal, spread.params, loaded.params)
  leaf = spread.params['vision']['layers']['attn']['q']['kernel']
  assert len(leaf.sharding.device_set) == 8


@pytest.mark.parametrize(
  'name', ['ckpt.pt', 'pca.pkl', 'basis.npz', 'best/preprocessor_config.json']
)
def test_a_missing_file_is_an_error(folder, name):
  (folder / name).unlink()
  with pytest.raises(FileNotFoundError, match=f'{name}.*is missing'):
    rali.load(folder)


def test_a_folder_that_is_neither_says_what_ours_has(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'rali.json, scorer.safetensors'):
    rali.load(tmp_path)


@pytest.fixture
def resaved(torch, folder):
  """Changes what is in ckpt.pt."""

  def change(edit):
    kept = torch.load(folder / 'ckpt.pt', weights_only=True)
    edit(kept['state_dict'])
    torch.save(kept, folder / 'ckpt.pt')

  return change


@pytest.mark.parametrize(
  'edit,message',
  [
    (lambda s: s.pop('scorer.prototypes'), r"missing \['scorer.prototypes'\]"),
    (lambda s: s.update({'scorer.mean': s['scorer.pca_scale']}), 'unexpected'),
    (lambda s: s.update({'head': s['scorer.pca_scale']}), r"unexpected .'head"),
    (
      lambda s: s.pop('clip.vision_model.pre_layrnorm.bias'),
      "missing 'vision_model.pre_layrnorm.bias'",
    ),
    (
      lambda s: s.pop('clip.text_projection.weight'),
      "missing 'text_projection.weight'",
    ),
    (
      lambda s: s.update({'clip.more': s['scorer.pca_scale']}),
      "unexpected 'more'",
    ),
    (lambda s: s.update({'clip.x': 3}), r"not a tensor \['clip.x'\]"),
    (
      lambda s: s['scorer.proto_scores'].fill_(float('nan')),
      'proto_scores holds NaN',
    ),
    (
      lambda s: s.update({'scorer.logit_scale': s['scorer.pca_scale']}),
      'logit_scale expected one number',
    ),
  ],
)
def test_keys_are_strict(folder, resaved, edit, message):
  resaved(edit)
  with pytest.raises(ValueError, match=message):
    rali.load(folder)


def test_other_dtypes_and_views_are_read(torch, folder, resaved, loaded):
  def edit(state):
    key = 'clip.visual_projection.weight'
    state[key] = torch.stack([state[key]] * 2, 2)[:, :, 1]  # strided
    key = 'clip.vision_model.post_layernorm.bias'
    state[key] = state[key].to(torch.bfloat16)
    state['scorer.logit_scale'] = state['scorer.logit_scale'].reshape(1)

  resaved(edit)
  got = rali.load(folder, RUNTIME)
  np.testing.assert_array_equal(
    got.params['vision_projection']['kernel'],
    loaded.params['vision_projection']['kernel'],
  )
  bias = np.asarray(loaded.params['vision']['post_norm']['bias'])
  found = got.params['vision']['post_norm']['bias']
  np.testing.assert_array_equal(found, bias.astype(jax.numpy.bfloat16))
  assert got.scorer['logit_scale'].shape == ()


def test_files_of_two_trainings_are_told_apart(folder):
  np.savez(folder / 'basis.npz', vectors=np.ones((3, 8)), scores=np.ones(3))
  with pytest.raises(ValueError, match=r'basis.npz: vectors of \(3, 8\), but'):
    rali.load(folder)
  other = rali_files.fitted_pca()
  other.components_ = other.components_[:5]
  (folder / 'pca.pkl').write_bytes(rali_files.joblib_dump(other))
  with pytest.raises(ValueError, match='not of one training'):
    rali.load(folder)


def test_a_basis_that_holds_objects_is_refused(folder):
  objects = np.array([{}], object)
  np.savez(folder / 'basis.npz', vectors=objects, scores=np.ones(3))
  with pytest.raises(ValueError, match=r'basis.npz: expected vectors'):
    rali.load(folder)


def test_a_module_in_the_checkpoint_is_refused_by_name(torch, folder):
  torch.save({'state_dict': torch.nn.Linear(2, 2)}, folder / 'ckpt.pt')
  with pytest.raises(UnsafePickle, match=r'torch.nn.modules.linear.Linear'):
    rali.load(folder)


def test_a_broken_file_of_ours_is_named(loaded, tmp_path):
  rali.save(tmp_path, loaded)
  (tmp_path / 'rali.json').write_text(json.dumps({'units': True}))
  with pytest.raises(ValueError, match=r'rali.json: .*units'):
    rali.load(tmp_path)
  (tmp_path / 'scorer.safetensors').write_bytes(b'no tensors')
  with pytest.raises(ValueError, match=r'scorer.safetensors'):
    rali.load(tmp_path)
