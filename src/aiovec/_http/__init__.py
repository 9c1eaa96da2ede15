"""HTTP code that the server, its clients and users' apps share: errors, bodies and autostart."""
