"""Delta tables and what is read from them."""
