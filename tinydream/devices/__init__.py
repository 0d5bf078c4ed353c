"""Boards: what they are, what fits them, and how to reach them.

`boards` knows their facts, `planner` and `surveys` say what fits, `build` makes firmware, `flashing` and `emulator`
start it, `link` carries requests, `device` is a board that answers; `journey` joins them in the words of the command
line.
"""
