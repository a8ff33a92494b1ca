"""Reasoning as representation for image quality (arXiv 2510.11369).

Q-Insight and its peers: what is asked (`prompts`), what a completion looks like
(`completion`), what it earns (`answer_format`, `score_reward`,
`degradation_reward`, `rank_reward`), opinions as levels (`levels`,
`soft_labels`, `level_loss`), and how an evaluation reads scores (`readers`).

RALI, which scores without a language model: embeddings become a basis (`pca`,
`clusters`, `basis`), whose scores are fitted (`scorer`, `fit`); its released
files are read without running them (`released`, over `torch_file` and
`sklearn_file`). `descriptions` turns completions into what RALI and RACT are
trained on, `analysis` asks whether the score comes from the reasoning.
"""
