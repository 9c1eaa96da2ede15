"""How documents are read: in a process of their own, which a hostile one may break."""
