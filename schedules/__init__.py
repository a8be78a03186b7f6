"""In which order and in which pieces the work is done: tile sizes, loop orders, launch parameters."""
