"""A Table becomes a .tdz, and gives its rows back.

`reduction` makes samples, `transforms` and `keys` choose how rows are stored, `part` writes those of a class,
`sections` what is said of them, `packing` joins them, `embeddings` takes rows through a model first; `pack` reads,
`adapters` and `unpacking` hand rows on, `inspection` tells what is inside. `archive` is the smallest form.
"""
