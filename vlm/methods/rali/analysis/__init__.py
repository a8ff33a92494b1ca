"""Does the score come from the reasoning? Measurements on a teacher.

`rows` puts prompts and completions together; `attention` says where the digits
of a score look; `removal` takes the image away once the reasoning is written;
`swap` joins the tower of one model with the decoder of another; `domains` asks
how well data sets can be told apart by embeddings of images and of texts.
Attention is no cause: it is reported next to `removal`, never alone.
"""
