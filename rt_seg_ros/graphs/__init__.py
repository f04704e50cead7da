"""Networks as ONNX graphs, for the runtimes that are not PyTorch.

``build`` writes a graph, in the form that ``rewrites`` gives it (this is where torch and onnx are imported); ``store``
keeps those that this machine runs, so that a node finds its graph ready and never imports torch; ``python -m
rt_seg_ros.graphs`` is the process that makes one for it.
"""
