"""DepthLM: metric depth by plain text supervision (arXiv 2509.25413).

An image is rescaled to one focal length (`camera`), a small arrow marks the
queried pixel (`marker`), the model answers with a number of metres (`text`).
`sample` puts the three together for training and for evaluation. Everything is
NumPy and Pillow on the host; the model and its loss are the ordinary ones.
"""
