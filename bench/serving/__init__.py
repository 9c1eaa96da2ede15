"""Parts of ``python -m bench server``: servers, and clients in processes of their own."""
