"""The model: pipeline, hyperparameter search, calibration and ONNX export."""
