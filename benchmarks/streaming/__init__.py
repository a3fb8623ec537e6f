"""Arrays that arrive in blocks: HTStream, htucker's HT-RISE, and a tensor train of the whole."""
