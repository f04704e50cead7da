"""What in an image speaks for a class: activation maps of a network's layers, drawn over the image."""
