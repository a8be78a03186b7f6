"""Backward of compiled kernels: programs, tables that order them, checks against autograd, and torch's side of it."""
