"""MASK: matching images and texts without pairs (OpenReview d3CISVVO6v).

Knowledge is one visual prototype for each word. A region encoder (`encoder`)
is trained by three losses (`losses`) so that regions of a word lie near its
prototype, and prototypes to each other as their words' vectors do; prototypes
are means over all regions of a word (`prototypes`). A word without one gets the
weighted mean of its neighbours' (`reconstruct`). Images and captions are
matched through words (`matcher`), alone or on top of another model (`rerank`).

`mack` is the predecessor (OpenReview 7lf58jWnDIS), which has no encoder, and
`adapt` the fine-tuning without pairs that both offer.
"""
