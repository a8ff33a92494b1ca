"""A self-contained HTML page of summaries; pictures are inlined."""

import base64
import io
import platform
from collections.abc import Sequence
from typing import Any

import jax
import jinja2
import matplotlib.pyplot as plt
from etils import epath

from experiments.miniature import Summary

# A report holds all of its pictures until it is written.
plt.rcParams['figure.max_open_warning'] = 0

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>vlm-jax: miniatures</title>
<style>
 body {font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; color: #222}
 table {border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem}
 caption {text-align: left; font-weight: 600; padding: .3rem 0}
 td, th {padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd;
         text-align: left; font-variant-numeric: tabular-nums}
 figure {margin: 1.5rem 0} img {max-width: 100%}
 figcaption, .small {color: #666; font-size: .85rem}
</style></head><body>
<h1>Miniatures</h1>
<p class="small">{{ setting }}. Intervals are 95 % bootstrap intervals over
images. These are miniatures on procedural data: no number here is comparable
with a published one.</p>
{% for s in summaries %}
<h2>{{ s.title }}</h2><p>{{ s.claim }}</p>
{% for t in s.tables %}
<table><caption>{{ t.title }}</caption>
<tr>{% for h in t.header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for r in t.rows %}<tr>{% for c in r %}<td>{{ c }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
<ul>{% for f in s.findings %}<li>{{ f }}</li>{% endfor %}</ul>
{% for p in s.pictures %}
<figure><img alt="{{ p.caption }}" src="data:image/png;base64,{{ png(p) }}">
<figcaption>{{ p.caption }}</figcaption></figure>
{% endfor %}
{% endfor %}
</body></html>
"""


def write(path: epath.Path, summaries: Sequence[Summary], setting: str) -> None:
  """Writes the page.

  Args:
    path: of the .html file.
    summaries: one per system.
    setting: what was run, in words.
  """
  environment = jinja2.Environment(autoescape=True)
  page = environment.from_string(_PAGE).render(
    summaries=summaries,
    png=_png,
    setting=f'{setting}; jax {jax.__version__}, {platform.machine()}, '
    f'{jax.device_count()} {jax.default_backend()} device(s)',
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(page)


def _png(picture: Any) -> str:
  data = io.BytesIO()
  picture.figure.savefig(data, format='png', dpi=120)
  plt.close(picture.figure)
  return base64.b64encode(data.getvalue()).decode()
