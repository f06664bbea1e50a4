"""Networks: one `torch.nn.Module` family per file."""
