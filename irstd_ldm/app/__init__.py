"""The page of `irstd-ldm app`: a detector in the browser, on this machine and without the network."""
