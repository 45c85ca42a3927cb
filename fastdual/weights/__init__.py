"""Networks from files and into files: runs, exports, ONNX, checkpoints of other code."""
