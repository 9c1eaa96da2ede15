"""HTTP as the server, its clients and the apps of users share it: errors and bodies."""
