"""Reasoning as representation for image quality (arXiv 2510.11369).

Q-Insight and its peers: what is asked (`prompts`), what a completion looks like
(`completion`), what it earns (`answer_format`, `score_reward`,
`degradation_reward`, `rank_reward`), opinions as levels (`levels`,
`soft_labels`, `level_loss`), and how an evaluation reads scores (`readers`).
"""
