"""Training on the computer: `train` to the bits of every board, `export` as a .tflite that LiteRT trains."""
