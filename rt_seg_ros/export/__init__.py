"""Models as files for other runtimes: made, held against PyTorch on frames, and only then put in their place."""
