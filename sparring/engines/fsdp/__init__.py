"""An engine whose weights are spread over the ranks of a `torchrun` (FSDP2): rank 0 leads, the others follow."""
