"""A Table becomes a .tdz, and gives its rows back.

`reduction` makes samples, `transforms` and `keys` choose how rows are stored, `packing` joins them; `pack` reads,
`adapters` and `unpacking` hand rows on, `inspection` tells what is inside. `archive` is the smallest form.
"""
