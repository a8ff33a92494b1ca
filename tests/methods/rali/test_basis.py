"""Stage 2: components, bins, clusters and the rule of k_n, against loops."""

import numpy as np
import pytest

from vlm.methods.rali import basis, clusters, pca
from vlm.methods.rali.basis import BasisSettings, make_basis


def draw(rows=120, width=16, seed=0):
  """Embeddings whose first direction tells the opinion."""
  rng = np.random.default_rng(seed)
  opinions = rng.uniform(1, 5, rows)
  x = rng.normal(size=(rows, width)) * np.linspace(3, 0.5, width)
  x[:, 0] += 3 * opinions
  return x.astype(np.float32), opinions


class TestPca:
  def test_it_reconstructs_what_the_eigenvectors_do(self):
    x, _ = draw()
    found = pca.fit(x, 5)
    centred = x.astype(float) - x.astype(float).mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
    top = vectors[:, ::-1][:, :5]
    np.testing.assert_allclose(found.variance, values[::-1][:5], rtol=1e-10)
    want = top @ top.T
    got = found.components.T @ found.components
    np.testing.assert_allclose(got, want, atol=1e-10)
    np.testing.assert_allclose(found(x), centred @ found.components.T)

  def test_signs_do_not_depend_on_the_order_of_the_rows(self):
    x, _ = draw()
    one, other = pca.fit(x, 6), pca.fit(x[::-1], 6)
    np.testing.assert_allclose(one.components, other.components, atol=1e-9)
    largest = np.abs(one.components).argmax(1)
    assert (one.components[np.arange(6), largest] > 0).all()

  def test_all_components_keep_every_distance(self):
    x, _ = draw(40, 8)
    z = pca.fit(x, 8)(x)
    want = np.linalg.norm(x[:1].astype(float) - x[1:], axis=1)
    got = np.linalg.norm(z[:1] - z[1:], axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-10)

  @pytest.mark.parametrize('count', [0, 10, 17])
  def test_more_components_than_there_are_is_an_error(self, count):
    with pytest.raises(
      ValueError, match=r'basis.components=.* expected 1 to 9'
    ):
      pca.fit(draw(10, 16)[0], count)


class TestBins:
  def test_edges_belong_to_the_right_and_the_last_to_the_last(self):
    opinions = np.array([1, 1.99, 2, 3, 4.999, 5])
    np.testing.assert_array_equal(basis.bin_of(opinions, 4), [0, 0, 1, 2, 3, 3])

  def test_the_rule_of_k_n_against_a_loop(self):
    rng = np.random.default_rng(3)
    for _ in range(50):
      counts = rng.integers(0, 9, rng.integers(1, 12))
      if not counts.any():
        continue
      used, total = int((counts > 0).sum()), int(counts.sum())
      prototypes = int(rng.integers(used, total + 1))
      want = [1 if count else 0 for count in counts]
      for _ in range(prototypes - used):
        loads = [
          (count / k if k and k < count else -1.0)
          for count, k in zip(counts, want)
        ]
        want[loads.index(max(loads))] += 1
      got = basis.allotment(counts, prototypes)
      assert got.tolist() == want and got.sum() == prototypes
      assert (got <= counts).all()

  @pytest.mark.parametrize('prototypes', [1, 8])
  def test_too_few_or_too_many_prototypes_are_named(self, prototypes):
    with pytest.raises(ValueError, match='expected 2 .bins in use. to 7'):
      basis.allotment(np.array([3, 0, 4]), prototypes)


def lloyd(points, centres):
  """k-means by loops, from given centres, without empty clusters."""
  while True:
    owners = []
    for point in points:
      distances = [sum((point - c) ** 2) for c in centres]
      owners.append(distances.index(min(distances)))
    new = []
    for k in range(len(centres)):
      members = [p for p, owner in zip(points, owners) if owner == k]
      new.append(sum(members) / len(members))
    if all(np.allclose(a, b, atol=1e-12) for a, b in zip(new, centres)):
      return owners
    centres = new


class TestClusters:
  def test_lloyd_ends_where_loops_end(self):
    points = draw(60, 3, seed=4)[0].astype(float)
    start = clusters._start(points, 4, np.random.default_rng(1))
    got = clusters.k_means(points, 4, np.random.default_rng(1))
    assert got.tolist() == lloyd(points, list(start))

  def test_the_same_seed_gives_the_same_clusters(self):
    points = draw(80, 4)[0]
    runs = [
      clusters.k_means(points, 7, np.random.default_rng(5)) for _ in range(2)
    ]
    np.testing.assert_array_equal(*runs)

  @pytest.mark.parametrize('count', [2, 5, 9])
  def test_equal_points_still_fill_every_cluster(self, count):
    points = np.repeat(np.array([[0.0, 1.0], [2.0, 2.0], [5.0, 0.0]]), 3, 0)
    owners = clusters.k_means(points, count, np.random.default_rng(0))
    assert sorted(set(owners)) == list(range(count))

  def test_more_clusters_than_points_is_an_error(self):
    with pytest.raises(ValueError, match='4 clusters of 3 points'):
      clusters.k_means(np.eye(3), 4, np.random.default_rng(0))


class TestBasis:
  def test_with_one_cluster_a_bin_it_is_the_mean_of_the_bin(self):
    x, opinions = draw()
    settings = BasisSettings(prototypes=8, bins=8, components=5)
    made = make_basis(settings, opinions, x)
    centred = x.astype(float) - x.astype(float).mean(0)
    low, high = opinions.min(), opinions.max()
    for n in range(8):
      left, right = (low + (high - low) * edge / 8 for edge in (n, n + 1))
      members = [
        m
        for m, s in enumerate(opinions)
        if left <= s < right or (n == 7 and s == high)
      ]
      want = np.mean([made.pca.components @ centred[m] for m in members], 0)
      np.testing.assert_allclose(made.vectors[n], want, atol=1e-9)
      want = np.mean([opinions[m] for m in members])
      np.testing.assert_allclose(made.scores[n], want, rtol=1e-12)

  def test_weighted_by_their_members_scores_average_to_the_mean_opinion(self):
    x, opinions = draw()
    settings = BasisSettings(prototypes=30, bins=10, components=4)
    made = make_basis(settings, opinions, x)
    owners, _ = basis._clustered(settings, made.pca(x), opinions)
    sizes = np.bincount(owners)
    assert len(sizes) == 30 and (sizes > 0).all()
    np.testing.assert_allclose(sizes @ made.scores / 120, opinions.mean())
    # No cluster reaches beyond its bin.
    inside = basis.bin_of(opinions, 10)
    assert all(len(set(inside[owners == k])) == 1 for k in range(30))

  def test_bins_are_lowered_until_prototypes_suffice(self):
    x, opinions = draw(40)
    made = make_basis(
      BasisSettings(prototypes=5, bins=30, components=0), opinions, x
    )
    assert made.bins == 5 and made.vectors.shape == (5, 16)

  def test_without_pca_the_space_is_that_of_the_embeddings(self):
    x, opinions = draw()
    made = make_basis(
      BasisSettings(prototypes=120, bins=0, components=0), opinions, x
    )
    got = made.vectors[np.argsort(made.scores)]
    np.testing.assert_allclose(got, x[np.argsort(opinions)], rtol=1e-12)

  def test_sources(self):
    x, opinions = draw()
    texts = draw(seed=9)[0]
    settings = lambda source: BasisSettings(12, 6, 4, source=source)
    text = make_basis(settings('text'), opinions, x, texts)
    alone = make_basis(settings('image'), opinions, texts)
    np.testing.assert_array_equal(text.vectors, alone.vectors)
    both = make_basis(settings('both'), opinions, x, texts)
    mean = np.concatenate([x, texts]).astype(float).mean(0)
    np.testing.assert_allclose(both.pca.mean, mean)
    with pytest.raises(ValueError, match="'text' needs embeddings of texts"):
      make_basis(settings('text'), opinions, x)

  def test_what_cannot_be_a_basis_is_named(self):
    x, opinions = draw(30)
    settings = BasisSettings(prototypes=8, bins=6, components=4)
    with pytest.raises(ValueError, match='all 30 opinions are 3: nothing'):
      make_basis(settings, np.full(30, 3.0), x)
    with pytest.raises(ValueError, match='opinion 7 is not finite'):
      make_basis(settings, np.where(np.arange(30) == 7, np.nan, opinions), x)
    with pytest.raises(ValueError, match='29 embeddings of images and 30'):
      make_basis(settings, opinions, x[:29])
    with pytest.raises(ValueError, match='prototypes=31, but there are 30'):
      make_basis(BasisSettings(31, 6, 4), opinions, x)
    with pytest.raises(ValueError, match=r"basis.source='texts'"):
      BasisSettings(source='texts')
