"""The `triton` target: a program becomes one standalone file that imports only torch and triton."""
