"""What a request says: its bytes, its form, the protocol's words in it, and the wishes made of them."""
