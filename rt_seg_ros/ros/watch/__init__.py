"""Looking on, for the live view: a camera's topic, or what a segmentation node publishes."""
