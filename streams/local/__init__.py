"""What runs beside the hot path on this machine: the embedded broker and the processes of `headrace up`."""
