"""The same packs from sources larger than memory, in two passes.

`chunks` cuts a source into pieces (`chunked_files`, `chunked_folders`), `scanning` is the first pass, `parts` and
`replay` are the second, `streaming` runs both.
"""
