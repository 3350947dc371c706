"""Who acts: a model in this process, a server, a script."""
