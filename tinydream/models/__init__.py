"""A .tflite becomes the plan by which the core runs it, and takes trained weights back.

`graph` reads it, the modules `operators*` turn its operators into records, `arena` places its tensors, `tail` finds
what can learn, `compiler` joins them into a `model`; `writeback` makes the tuned .tflite. `litert` is the oracle.
"""
