"""Recognition: what a foreign forward program computes, by data flow, and the canonical program that computes it so."""
