"""DepthLM: metric depth by plain text supervision (arXiv 2509.25413).

An image is rescaled to one focal length (`camera`), after its lens is undone
(`lens`, `rectify`); a small arrow marks the queried pixel (`marker`); the model
answers with a number of metres (`text`, `parser`), metres per second or seconds
(`tasks`). `labels` says what a row's numbers mean, `draws` makes every random
choice and keeps it, `sample` builds the sample, for training and evaluation.
`pairs` finds frames whose camera moved, `rewards` are those of the GRPO
comparison, `facts` what a checkpoint must remember. Everything is NumPy and
Pillow on the host; the model and its loss are the ordinary ones.
"""
