"""The parts of HTTP that the server, its clients and users' apps share: errors and bodies."""
