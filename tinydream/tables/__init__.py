"""What people have becomes a Table: rows of integers, a schema that gives their values back, and labels.

`sources` reads files and frames, `folders`, `images`, `recordings` and `cells` are kinds of them; `table` holds what
they give, `codes` and `schema` say how values are stored as integers, `windows` how series are.
"""
