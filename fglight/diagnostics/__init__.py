"""What is told of a step besides: what it costs, and how many derivatives it takes."""
