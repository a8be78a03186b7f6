"""From a program to source text, and from source text to something that runs."""
