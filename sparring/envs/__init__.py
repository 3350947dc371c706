"""Live worlds behind one protocol: a room for each, and the processes they run in."""
