"""What is told of a step besides: what it costs, how many derivatives it takes, how good its estimates are."""
