"""Networks: the dual representation, the encoder, batch norm over processes, recomputation."""
