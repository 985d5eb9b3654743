"""Training: outer loop, hyper-gradients of batches, processes and threads that share a batch."""
