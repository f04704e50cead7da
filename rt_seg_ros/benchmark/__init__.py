"""How fast everything is: the network, the pipeline, the node, against what people usually write."""
